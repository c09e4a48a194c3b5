"""One probe in a few kilobytes of JSON: what a report needs to show it."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from fitb_callbacks.plotting.tiles import cell_tiles
from fitb_callbacks.scoring.classification import answer_counts

if TYPE_CHECKING:
    from PIL import Image

    from fitb_callbacks.plotting.tiles import Picture
    from fitb_callbacks.probing.result import FillInBlanksResult

__all__ = ["FORMAT", "KEYS", "Record", "make_record"]

FORMAT = "fitb-callbacks record 2"


class Record(TypedDict):
    """One probe as JSON types. Scores that are undefined are None.

    Attributes:
        format: `FORMAT`.
        prefix: What the keys of the scores begin with in the loggers.
        epoch: When it was probed.
        step: The step of the loggers.
        scores: Score name, without prefix, to value.
        intervals: Score name to the ends of its 95% interval.
        verdict: Of `fitb_callbacks.scoring.interpretation.verdict`.
        settings: Those of the result.
        images: Number of probe images.
        classes: Names of the first 64 classes.
        number: Number of probe images of each.
        per_class: Score name to its value for each.
        answers: "model" or "judge" to what each class's first prototype is taken for; None for nothing.
        confusion: The same to counts, see `fitb_callbacks.scoring.classification.answer_counts`.
        pictures: "image", "update" and "prototype" to a strip of tiles, one a class, as a data URI.
    """

    format: str
    prefix: str
    epoch: int
    step: int
    scores: dict[str, float | None]
    intervals: dict[str, list[float | None]]
    verdict: dict[str, str]
    settings: dict[str, Any]
    images: int
    classes: list[str]
    number: list[int]
    per_class: dict[str, list[float | None]]
    answers: dict[str, list[str | None]]
    confusion: dict[str, list[list[int]]]
    pictures: dict[str, str]


KEYS = Record.__required_keys__
"""What every record holds."""

_MOST_CLASSES = 64
_TILE = 96
_LOSSLESS_UP_TO = 40


def make_record(  # noqa: PLR0913 - the fields of a record
    result: FillInBlanksResult,
    scores: Mapping[str, float] | None = None,
    *,
    epoch: int = 0,
    step: int = 0,
    prefix: str = "fitb",
    judge: str | None = None,
) -> Record:
    """Make the record of one probe.

    Pictures are strips of WebP tiles, one per class, of the class's first probe image. Tiles of more than 40 pixels are
    compressed with a loss, those of more than 96 shrunk. Only the first 64 classes are kept.

    Args:
        result: What the probe found.
        scores: Score name, without prefix, to value; None takes the result's. Undefined ones become None.
        epoch: When it was probed.
        step: The step of the loggers.
        prefix: What the keys of the scores begin with in the loggers.
        judge: What the judge is, in words, for the verdict; None if that is not known.

    Example:
        >>> import json, torch
        >>> from fitb_callbacks import FillInBlanks
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
        >>> result = FillInBlanks(num_masks=8).probe(model, torch.rand(5, 1, 4, 4), torch.tensor([0, 1, 2, 0, 1]))
        >>> record = json.loads(json.dumps(make_record(result, epoch=3)))
        >>> record["epoch"], record["number"], record.keys() == KEYS
        (3, [2, 2, 1], True)
    """
    labels = result.labels.tolist()
    classes = result.classes[:_MOST_CLASSES]
    first = [labels.index(label) for label in classes]
    metrics = dict(result.metrics if scores is None else scores)
    strips = zip(*(cell_tiles(cell) for cell in result.cells(first)), strict=True)
    pictures = {name: _strip(tiles) for name, tiles in zip(("image", "update", "prototype"), strips, strict=True)}
    return {
        "format": FORMAT,
        "prefix": prefix,
        "epoch": epoch,
        "step": step,
        "scores": {name: _defined(value) for name, value in metrics.items()},
        "intervals": {name: [_defined(end) for end in ends] for name, ends in result.intervals.items()},
        "verdict": result.interpretation(judge),
        "settings": dict(result.settings),
        "images": len(labels),
        "classes": [result.class_name(label) for label in classes],
        "number": [labels.count(label) for label in classes],
        "per_class": {
            name: [_defined(values[label]) for label in classes] for name, values in result.per_class.items()
        },
        "answers": {
            who: [_name(result, int(given[index])) for index in first] for who, given in result.answers.items()
        },
        "confusion": {
            who: answer_counts(result.labels, given, classes).int().tolist() for who, given in result.answers.items()
        },
        "pictures": {name: _data_uri(strip) for name, strip in pictures.items()},
    }


def _defined(value: float) -> float | None:
    """JSON has neither NaN nor infinity."""
    return value if math.isfinite(value) else None


def _name(result: FillInBlanksResult, label: int) -> str | None:
    return None if label < 0 else result.class_name(label)


def _strip(tiles: Sequence[Picture]) -> Image.Image:
    from PIL import Image

    height, width = tiles[0].shape[:2]
    strip = Image.fromarray(np.concatenate(tiles, axis=1))
    if (longer := max(height, width)) > _TILE:
        width, height = (max(1, side * _TILE // longer) for side in (width, height))
        strip = strip.resize((width * len(tiles), height), Image.Resampling.LANCZOS)
    return strip


def _data_uri(strip: Image.Image) -> str:
    file = io.BytesIO()
    strip.save(file, "WEBP", lossless=strip.height <= _LOSSLESS_UP_TO, quality=80, method=4)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
