"""One probe in a few kilobytes of JSON: what a report needs to show it."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from fitb_callbacks.plotting.tiles import BLANK, cell_tiles
from fitb_callbacks.scoring.classification import answer_counts

if TYPE_CHECKING:
    from fitb_callbacks.plotting.tiles import Cell, Picture
    from fitb_callbacks.probing.result import FillInBlanksResult

__all__ = ["FORMAT", "KEYS", "Gallery", "Record", "make_record", "strip_before_training"]

FORMAT = "fitb-callbacks record 3"


class Gallery(TypedDict):
    """Every probe image of the first classes, in their order: values and answers, one an image, and sheets of tiles.

    Attributes:
        number: Index of each image's class in the record's ``classes``.
        shown: Name of the class that the model takes each picture of what it fills in for; None for nothing.
        answers: "model" or "judge" to what each prototype is taken for; None for nothing.
        ranks: Share of the other classes that the judge ranks below the label on each picture; None without a judge.
        columns: Tiles in a row of a sheet.
        pictures: "image", "map" and "prototype" to a sheet of tiles, as a data URI.
    """

    number: list[int]
    shown: list[str | None]
    answers: dict[str, list[str | None]]
    ranks: list[float | None]
    columns: int
    pictures: dict[str, str]


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
        validation: Name and value of the accuracy that the training itself logged in the same validation; None without.
        first: Index in the gallery of the image that stands for each class in pictures.
        confusion: The same to counts, see `fitb_callbacks.scoring.classification.answer_counts`.
        pictures: "image", "map" and "prototype" to a strip of tiles, one a class, as a data URI.
        gallery: Every probe image.
        before: A strip of tiles, one a class, as a data URI: what the network filled in before its training. Only with
            the first probe of a training, and only where the untrained network was probed.
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
    validation: tuple[str, float] | None
    first: list[int]
    confusion: dict[str, list[list[int]]]
    pictures: dict[str, str]
    gallery: Gallery
    before: NotRequired[str]


KEYS = frozenset(Record.__annotations__) - {"before"}
"""What every record holds."""

_MOST_CLASSES = 64
_MOST_IMAGES = 512
_TILE, _SMALL_TILE = 96, 64  # longer side of a class's tile, and of a gallery's
_COLUMNS = 16
_LOSSLESS_UP_TO = 40


def make_record(  # noqa: PLR0913 - the fields of a record
    result: FillInBlanksResult,
    scores: Mapping[str, float] | None = None,
    *,
    epoch: int = 0,
    step: int = 0,
    prefix: str = "fitb",
    judge: str | None = None,
    validation: tuple[str, float] | None = None,
) -> Record:
    """Make the record of one probe.

    Pictures are WebP tiles: of one image of each class, as in all pictures, and of every probe image, smaller. Tiles of
    more than 40 pixels are compressed with a loss, large ones shrunk. Only the first 64 classes are kept, and of these
    the first 512 images.

    Args:
        result: What the probe found.
        scores: Score name, without prefix, to value; None takes the result's. Undefined ones become None.
        epoch: When it was probed.
        step: The step of the loggers.
        prefix: What the keys of the scores begin with in the loggers.
        judge: What the judge is, in words, for the verdict; None if that is not known.
        validation: Name and value of the accuracy that the training logged itself.

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
    images = [index for index, label in enumerate(labels) if label in classes][:_MOST_IMAGES]
    first = result.shown_images[: len(classes)]
    images += [index for index in first if index not in images]
    cells = result.cells(images)
    large = [cell_tiles(_shrunk(cells[images.index(index)], _TILE)) for index in first]
    small = [cell_tiles(_shrunk(cell, _SMALL_TILE)) for cell in cells]
    metrics = dict(result.metrics if scores is None else scores)
    ranks = None if result.judge_ranks is None else result.judge_ranks.tolist()
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
        "validation": validation,
        "first": [images.index(index) for index in first],
        "confusion": {
            who: answer_counts(result.labels, given, classes).int().tolist() for who, given in result.answers.items()
        },
        "pictures": _sheets(large, columns=len(first)),
        "gallery": {
            "number": [classes.index(labels[index]) for index in images],
            "shown": [cell.answer for cell in cells],
            "answers": {
                who: [_name(result, int(given[index])) for index in images] for who, given in result.answers.items()
            },
            "ranks": [None if ranks is None else _defined(ranks[index]) for index in images],
            "columns": _COLUMNS,
            "pictures": _sheets(small, columns=_COLUMNS),
        },
    }


def strip_before_training(tiles: Mapping[str, Tensor], classes: Sequence[str]) -> str:
    """What a record says of the untrained network.

    Args:
        tiles: Of `fitb_callbacks.plotting.timeline.Timeline.before`, at least one.
        classes: Those of the record. One without a tile stays blank.
    """
    blank = np.full_like(next(iter(tiles.values())), BLANK)
    return _data_uri([np.asarray(tiles.get(name, blank)) for name in classes], columns=len(classes))


def _defined(value: float) -> float | None:
    """JSON has neither NaN nor infinity."""
    return value if math.isfinite(value) else None


def _name(result: FillInBlanksResult, label: int) -> str | None:
    return None if label < 0 else result.class_name(label)


def _shrunk(cell: Cell, side: int) -> Cell:
    """The same with smaller images, before they are coloured, which saves time."""
    height, width = cell.image.shape[-2:]
    if max(height, width) <= side:
        return cell
    longer = max(height, width)
    size = (max(1, height * side // longer), max(1, width * side // longer))

    def averaged(image: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(image.float(), size)

    return replace(
        cell,
        image=averaged(cell.image),
        visible=averaged(cell.visible) > 0.5,
        update=averaged(cell.update),
        prototype=None if cell.prototype is None else averaged(cell.prototype),
        filled=None if cell.filled is None else averaged(cell.filled),
    )


def _sheets(tiles: Sequence[Sequence[Picture]], *, columns: int) -> dict[str, str]:
    """Data URIs of three sheets, from the three tiles of each image."""
    kinds = zip(*tiles, strict=True)
    return {name: _data_uri(each, columns) for name, each in zip(("image", "map", "prototype"), kinds, strict=True)}


def _data_uri(tiles: Sequence[Picture], columns: int) -> str:
    """Tiles in rows; the last row is filled up with black."""
    from PIL import Image

    height, width = tiles[0].shape[:2]
    sheet = np.zeros((-(-len(tiles) // columns) * height, columns * width, 3), np.uint8)
    for place, tile in enumerate(tiles):
        top, left = place // columns * height, place % columns * width
        sheet[top : top + height, left : left + width] = tile
    file = io.BytesIO()
    lossless = max(height, width) <= _LOSSLESS_UP_TO
    Image.fromarray(sheet).save(file, "WEBP", lossless=lossless, quality=80, method=4)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
