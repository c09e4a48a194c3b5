"""What a record must look like for a page to be made of it; the part of a damaged one that does not is named."""

from __future__ import annotations

from collections.abc import Mapping
from types import NoneType
from typing import Any

from fitb_callbacks.integrations.summary import SIGNS

__all__ = ["damaged_part"]

_NUMBER, _MAYBE, _TEXT_OR_NONE = (int, float), (int, float, NoneType), (str, NoneType)
_SHEETS = {"image": str, "map": str, "prototype": str}
_SHAPE: dict[str, Any] = {
    "prefix": str,
    "epoch": int,
    "step": int,
    "scores": {str: _MAYBE},
    "intervals": {str: [_MAYBE]},
    "verdict": {"headline": str, "reason": str, "tone": str},
    "settings": {"masking": str, "num_classes": int},
    "images": int,
    "classes": [str],
    "number": [int],
    "per_class": {str: [_MAYBE]},
    "validation": (list, NoneType),
    "first": [int],
    "confusion": {str: [[_NUMBER]]},
    "pictures": _SHEETS,
    "gallery": {
        "number": [int],
        "shown": [_TEXT_OR_NONE],
        "answers": {str: [_TEXT_OR_NONE]},
        "ranks": [_MAYBE],
        "columns": int,
        "pictures": _SHEETS,
    },
}
"""A type or several; a list of such; a dictionary with these keys; a dictionary with any keys of a type."""


def damaged_part(record: Mapping[str, Any]) -> str | None:
    """Name of the first part of a record that cannot be what `make_record` wrote; None if there is none.

    Args:
        record: With all of `fitb_callbacks.integrations.record.KEYS`.

    Example:
        >>> damaged_part({"prefix": "fitb", "epoch": "three"})
        'epoch'
    """
    return _misfit(record, _SHAPE) or _contradiction(record)


def _misfit(value: Any, shape: Any, name: str = "") -> str | None:
    expected: Any = type(shape) if isinstance(shape, (list, dict)) else shape
    if not isinstance(value, expected):
        return name.strip(".")
    if isinstance(shape, list):
        parts = [(each, shape[0], name) for each in value]
    elif isinstance(shape, dict):
        keys = value if str in shape else shape
        parts = [(value.get(key), shape.get(str, shape.get(key)), f"{name}.{key}") for key in keys]
    else:
        return None
    return next((found for part in parts if (found := _misfit(*part)) is not None), None)


def _contradiction(record: Mapping[str, Any]) -> str | None:
    """A part that does not fit the others: of another length, or with an index of nothing."""
    gallery, classes = record["gallery"], len(record["classes"])
    images = len(gallery["number"])
    lengths = {
        "classes": (record["classes"], max(classes, 1)),
        "number": (record["number"], classes),
        "first": (record["first"], classes),
        **{f"per_class.{name}": (values, classes) for name, values in record["per_class"].items()},
        **{f"confusion.{who}": (counts, classes) for who, counts in record["confusion"].items()},
        "gallery.shown": (gallery["shown"], images),
        "gallery.ranks": (gallery["ranks"], images),
        **{f"gallery.answers.{who}": (answers, images) for who, answers in gallery["answers"].items()},
    }
    for name, (values, length) in lengths.items():
        if len(values) != length:
            return name
    in_range = {
        "first": all(0 <= index < images for index in record["first"]),
        "gallery.number": all(0 <= index < classes for index in gallery["number"]),
        "gallery.columns": gallery["columns"] > 0,
        "verdict.tone": record["verdict"]["tone"] in SIGNS,
        "validation": record["validation"] is None
        or list(map(type, record["validation"])) in ([str, float], [str, int]),
        "before": isinstance(record.get("before", ""), str),
    }
    return next((name for name, fits in in_range.items() if not fits), None)
