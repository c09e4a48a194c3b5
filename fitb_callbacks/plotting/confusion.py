"""A confusion matrix as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from fitb_callbacks.plotting.tiles import Picture

if TYPE_CHECKING:
    from PIL import Image, ImageFont

__all__ = ["confusion_picture"]

_PAPER, _INK, _FAINT = (255, 255, 255), (40, 40, 40), (205, 205, 205)
_RIGHT, _WRONG = np.array((46, 125, 90.0)), np.array((190, 30, 45.0))
_SIDE = 400
_LONGEST_NAME = 90


def confusion_picture(counts: Mapping[str, Tensor], names: Sequence[str]) -> Picture:
    """Draw what the prototypes of each class (row) are taken for (column), in one panel or several side by side.

    Colour is the share of the row: green where it is right and red where it is wrong.

    Args:
        counts: Title of each panel to its counts, see `fitb_callbacks.scoring.classification.answer_counts`.
        names: Names of the classes.

    Returns:
        Height x width x 3, uint8.
    """
    return np.concatenate([np.array(_panel(title, panel, names)) for title, panel in counts.items()], axis=1)


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
