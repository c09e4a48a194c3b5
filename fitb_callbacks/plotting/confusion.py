"""A confusion matrix as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from fitb_callbacks.plotting.layout import (
    INK,
    MARGIN,
    PAPER,
    RIGHT,
    WIDTH,
    WRONG,
    Heading,
    font,
    heading_strip,
    paragraph,
    stacked,
)
from fitb_callbacks.plotting.names import told_apart
from fitb_callbacks.plotting.tiles import Picture

__all__ = ["confusion_picture"]

_FAINT = (205, 205, 205)
_MOST_CLASSES = 14
_LONGEST_NAME = 190


def confusion_picture(counts: Mapping[str, Tensor], names: Sequence[str], heading: Heading | None = None) -> Picture:
    """Draw what the prototypes of each class (row) are taken for (column), a panel below the other.

    Colour is the share of the row: blue and framed on the diagonal, where it is right, orange where it is wrong. Of
    more than 14 classes, those are drawn that are most often wrong; the other ones' columns count as "other".

    Args:
        counts: Title of each panel to its counts, see `fitb_callbacks.scoring.classification.answer_counts`.
        names: Names of the classes.
        heading: What the picture is of, and what the scores say.

    Returns:
        Height x width x 3, uint8, 900 pixels wide.
    """
    parts = [] if heading is None else [heading_strip(heading)]
    for title, panel in counts.items():
        chosen = _worst(panel)
        rest = f" ({len(chosen)} of {len(names)} classes, most often wrong)" if len(chosen) < len(names) else ""
        parts += [paragraph(title + rest, colour=INK), _panel(_of_classes(panel, chosen), [names[at] for at in chosen])]
    parts.append(paragraph("Rows: the class. Columns: what it is taken for. On the diagonal it is right."))
    return stacked(parts)


def _worst(counts: Tensor) -> list[int]:
    """The classes most often wrong, in their own order; all if they are few."""
    wrong = counts.sum(dim=1) - counts.diagonal()
    return sorted(wrong.argsort(descending=True, stable=True)[:_MOST_CLASSES].tolist())


def _of_classes(counts: Tensor, chosen: Sequence[int]) -> Tensor:
    rows = counts[list(chosen)]
    kept = rows[:, list(chosen)]
    none = rows[:, -1:]
    return torch.cat([kept, rows.sum(dim=1, keepdim=True) - kept.sum(dim=1, keepdim=True) - none, none], dim=1)


def _panel(counts: Tensor, names: Sequence[str]) -> Image.Image:
    face = font()
    columns = [*names, "other", "none"]
    texts = told_apart(columns, face, _LONGEST_NAME)
    margin = max(round(face.getlength(text)) for text in texts.values()) + MARGIN
    cell = min(80, (WIDTH - margin - MARGIN) // len(columns))
    canvas = Image.new("RGB", (WIDTH, margin + cell * len(names) + MARGIN), PAPER)
    draw = ImageDraw.Draw(canvas)
    for column, name in enumerate(columns):
        upright = Image.new("RGB", (margin - MARGIN // 2, cell), PAPER)
        ImageDraw.Draw(upright).text((0, cell // 2), texts[name], INK, face, anchor="lm")
        canvas.paste(upright.rotate(90, expand=True), (margin + column * cell, 0))
    for row, name in enumerate(names):
        upper, middle = margin + row * cell, margin + row * cell + cell // 2
        draw.text((margin - MARGIN // 2, middle), texts[name], INK, face, anchor="rm")
        for column, count in enumerate(counts[row].tolist()):
            share, left = count / max(1.0, float(counts[row].sum())), margin + column * cell
            colour = np.array(RIGHT if row == column else WRONG)
            shade = tuple(int(value) for value in 255 + (colour - 255) * share)
            draw.rectangle((left, upper, left + cell, upper + cell), shade, _FAINT)
            if count:
                draw.text((left + cell // 2, middle), f"{count:.0f}", PAPER if share > 0.5 else INK, face, anchor="mm")
    for row in range(len(names)):
        corner = margin + row * cell
        draw.rectangle((corner, corner, corner + cell, corner + cell), outline=RIGHT, width=3)
    return canvas
