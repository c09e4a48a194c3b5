"""The confusion matrix of a probe as a picture: what the model, and the judge, take each class's prototypes for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fitb_callbacks.plotting.prototypes import Picture

if TYPE_CHECKING:
    from PIL import Image, ImageFont

    from fitb_callbacks.probing.result import FillInBlanksResult

__all__ = ["answer_counts", "confusion_picture"]

_PAPER, _INK, _FAINT = (255, 255, 255), (40, 40, 40), (205, 205, 205)
_RIGHT, _WRONG = np.array((46, 125, 90.0)), np.array((190, 30, 45.0))
_SIDE = 400
_LONGEST_NAME = 90


def confusion_picture(result: FillInBlanksResult) -> Picture:
    """How many prototypes of each class (row) are taken for which (column), by the model and by the judge if any.

    Classes without a probe image have no row; if they are the answer, it counts under "other". An image without a
    prototype, or one that the judge finds like no class, counts under "none". Colour is the share of the row, green
    where it is right and red where it is wrong.

    Args:
        result: What the probe found.

    Returns:
        Height x width x 3, uint8.
    """
    classes = result.labels.unique().tolist()
    names = [result.class_names[label] if result.class_names else str(label) for label in classes]
    answers = {"the model takes it for": result.predictions}
    if result.judged is not None:
        answers["the judge takes it for"] = result.judged
    panels = [_panel(title, answer_counts(result.labels, given, classes), names) for title, given in answers.items()]
    return np.concatenate([np.array(panel) for panel in panels], axis=1)


def answer_counts(labels: Tensor, answers: Tensor, classes: Sequence[int]) -> Tensor:
    """How many images of each class (row) are taken for what (column): the classes, then "other", then "none".

    Args:
        labels: Integers, shape ``(N,)``.
        answers: Integers, -1 for none, shape ``(N,)``.
        classes: Whose rows and columns are wanted.

    Returns:
        Shape ``(len(classes), len(classes) + 2)``.

    Example:
        >>> answer_counts(torch.tensor([0, 0, 1]), torch.tensor([0, 5, -1]), [0, 1]).tolist()
        [[1.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
    """
    kinds = torch.stack([answers == label for label in classes])
    other = (answers >= 0) & ~kinds.any(dim=0)
    columns = torch.cat([kinds, other.unsqueeze(0), (answers < 0).unsqueeze(0)])
    rows = torch.stack([labels == label for label in classes])
    return rows.float() @ columns.float().T


def _panel(title: str, counts: Tensor, names: Sequence[str]) -> Image.Image:
    from PIL import Image, ImageDraw, ImageFont

    cell = max(8, _SIDE // counts.shape[1])
    font = ImageFont.load_default(size=min(14, max(8, cell - 6)))
    heading = ImageFont.load_default(size=15)
    columns = [*names, "other", "none"]
    margin = min(_LONGEST_NAME, max(round(font.getlength(name)) for name in columns)) + 12
    top = margin + 26
    canvas = Image.new("RGB", (margin + cell * len(columns) + 16, top + cell * len(names) + 16), _PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((margin + cell * len(columns) // 2, 14), title, _INK, heading, anchor="mm")
    for column, name in enumerate(columns):
        upright = Image.new("RGB", (margin - 8, cell), _PAPER)
        ImageDraw.Draw(upright).text((0, cell // 2), _cut(name, font), _INK, font, anchor="lm")
        canvas.paste(upright.rotate(90, expand=True), (margin + column * cell, 30))
    for row, name in enumerate(names):
        middle = top + row * cell + cell // 2
        draw.text((margin - 6, middle), _cut(name, font), _INK, font, anchor="rm")
        for column, count in enumerate(counts[row].tolist()):
            share = count / max(1.0, float(counts[row].sum()))
            colour = _RIGHT if row == column else _WRONG
            shade = tuple(int(value) for value in 255 + (colour - 255) * share)
            left, upper = margin + column * cell, top + row * cell
            draw.rectangle((left, upper, left + cell, upper + cell), shade, _FAINT)
            if count and cell >= 16:
                text = _PAPER if share > 0.5 else _INK
                draw.text((left + cell // 2, middle), f"{count:.0f}", text, font, anchor="mm")
    return canvas


def _cut(name: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    while font.getlength(name) > _LONGEST_NAME:
        name = name.removesuffix("…")[:-1] + "…"
    return name
