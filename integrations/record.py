"""One probe in a few kilobytes of JSON: what a report needs to show it."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

from fitb_callbacks.plotting.tiles import cell_tiles
from fitb_callbacks.scoring.classification import answer_counts

if TYPE_CHECKING:
    from PIL import Image

    from fitb_callbacks.plotting.tiles import Picture
    from fitb_callbacks.probing.result import FillInBlanksResult

__all__ = ["FORMAT", "KEYS", "Gallery", "Record", "make_record"]

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


KEYS = Record.__required_keys__
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
    tiles = [cell_tiles(cell) for cell in cells]
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
        "pictures": _sheets([tiles[images.index(index)] for index in first], columns=len(first), side=_TILE),
        "gallery": {
            "number": [classes.index(labels[index]) for index in images],
            "shown": [cell.answer for cell in cells],
            "answers": {
                who: [_name(result, int(given[index])) for index in images] for who, given in result.answers.items()
            },
            "ranks": [None if ranks is None else _defined(ranks[index]) for index in images],
            "columns": _COLUMNS,
            "pictures": _sheets(tiles, columns=_COLUMNS, side=_SMALL_TILE),
        },
    }


def _defined(value: float) -> float | None:
    """JSON has neither NaN nor infinity."""
    return value if math.isfinite(value) else None


def _name(result: FillInBlanksResult, label: int) -> str | None:
    return None if label < 0 else result.class_name(label)


def _sheets(tiles: Sequence[Sequence[Picture]], *, columns: int, side: int) -> dict[str, str]:
    """Data URIs of three sheets, from the three tiles of each image."""
    kinds = zip(*tiles, strict=True)
    return {
        name: _data_uri(_sheet(each, columns, side), lossless=max(each[0].shape[:2]) <= _LOSSLESS_UP_TO)
        for name, each in zip(("image", "map", "prototype"), kinds, strict=True)
    }


def _sheet(tiles: Sequence[Picture], columns: int, side: int) -> Image.Image:
    """Tiles in rows, none of them larger than ``side``; the last row is filled up with black."""
    from PIL import Image

    height, width = tiles[0].shape[:2]
    scale = min(1.0, side / max(height, width))
    small = max(1, int(width * scale)), max(1, int(height * scale))
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (columns * small[0], rows * small[1]))
    for place, tile in enumerate(tiles):
        picture = Image.fromarray(tile)
        if scale < 1:
            picture = picture.resize(small, Image.Resampling.LANCZOS)
        sheet.paste(picture, (place % columns * small[0], place // columns * small[1]))
    return sheet


def _data_uri(sheet: Image.Image, *, lossless: bool) -> str:
    file = io.BytesIO()
    sheet.save(file, "WEBP", lossless=lossless, quality=80, method=4)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
