"""Long class names in little room: cut off, but never so that two look the same."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from fitb_callbacks.plotting.layout import shortened

if TYPE_CHECKING:
    from fitb_callbacks.plotting.layout import Font

__all__ = ["told_apart"]

_BEGINNING = 4  # characters that are kept of names that differ only later


def told_apart(names: Iterable[str], face: Font, width: int) -> dict[str, str]:
    """Each name on one line, no wider than this, and different from the others.

    Names that would be cut to the same text show what follows where they differ; those for which there is no room for
    that, either, end in their number.

    Example:
        >>> from fitb_callbacks.plotting.layout import font
        >>> list(told_apart(["a" * 60 + "left", "a" * 60 + "right", "b"], font(), 140).values())
        ['aaaa…left', 'aaaa…right', 'b']
    """
    different = list(dict.fromkeys(names))
    texts = {name: shortened(name, face, width) for name in different}
    for alike in _alike(texts):
        same = _same(alike)
        texts |= {name: shortened(f"{name[:_BEGINNING]}…{name[same:]}", face, width) for name in alike}
    for alike in _alike(texts):
        for name in alike:
            number = f" {different.index(name)}"
            texts[name] = shortened(name, face, width - round(face.getlength(number))) + number
    return texts


def _alike(texts: dict[str, str]) -> Sequence[list[str]]:
    """Names that have the same text."""
    groups: dict[str, list[str]] = {}
    for name, text in texts.items():
        groups.setdefault(text, []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def _same(names: Sequence[str]) -> int:
    """How many characters at their beginning the names share."""
    columns = enumerate(zip(*names, strict=False))  # ends with the shortest
    return next((at for at, letters in columns if len(set(letters)) > 1), min(map(len, names)))
