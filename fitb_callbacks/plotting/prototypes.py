"""The picture of one probe: a large prototype of each class."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from fitb_callbacks.plotting.layout import GAP, INK, PAPER, TEXT, TILE, WRONG, fitted, largest_font, lines, shortened
from fitb_callbacks.plotting.tiles import Cell, Picture, cell_tiles

__all__ = ["prototype_grid"]

_TEXT_LINE = 20
_MARGIN = 14
_NARROWEST = 90
_CARD = (246, 210)  # room for a picture on MLflow's run page, in CSS pixels
_LEGEND = (
    "Large: the prototype, and what the model takes it for. "
    "Small: the image, and the update over it (red: brighter, blue: darker)."
)


def prototype_grid(cells: Sequence[Cell]) -> Picture:
    """The picture of one probe: a cell a class, by its first probe image.

    Large, the prototype; above it the class, below it what the model takes it for, in red where that is not the class.
    Under that, half as wide each, the image, and the image under its first mask with the mean update over it (red would
    be brighter, blue darker; full colour from three times the update's root mean square, the same for every image and
    epoch). A class whose image has no kept mask has an empty prototype and update. The cells stand in the number of
    columns with which prototypes are largest on a dashboard's card. The last line says which tile is which.

    Args:
        cells: One a class, at least one.

    Returns:
        Height x width x 3, uint8.
    """
    from PIL import Image, ImageDraw, ImageFont

    small = _small_tile(*cells[0].image.shape[-2:])
    large = 2 * small[0] + GAP, 2 * small[1] + GAP
    cell_width = max(large[0], _NARROWEST)
    text_size = max(TEXT, cell_width // 5)
    font = largest_font([text for cell in cells for text in (cell.name, _answer(cell))], cell_width, text_size)
    line = round(1.25 * text_size)
    cell_height = line + large[1] + line + GAP + small[1]

    def size(columns: int) -> tuple[int, int]:
        rows = math.ceil(len(cells) / columns)
        return _MARGIN + columns * (cell_width + _MARGIN), GAP + rows * (cell_height + _MARGIN)

    def scale_on_a_card(columns: int) -> float:
        return min(room / side for room, side in zip(_CARD, size(columns), strict=True))

    columns = max(range(1, len(cells) + 1), key=scale_on_a_card)
    width, height = size(columns)
    legend_font = ImageFont.load_default(size=TEXT)
    legend = lines(_LEGEND, legend_font, width - 2 * _MARGIN)
    canvas = Image.new("RGB", (width, height + _TEXT_LINE * len(legend) + GAP), PAPER)
    draw = ImageDraw.Draw(canvas)
    for position, cell in enumerate(cells):
        image, update, prototype = cell_tiles(cell)
        row, column = divmod(position, columns)
        centre = _MARGIN + column * (cell_width + _MARGIN) + cell_width // 2
        left, top = centre - large[0] // 2, GAP + row * (cell_height + _MARGIN)
        draw.text((centre, top + line // 2), shortened(cell.name, font, cell_width), INK, font, anchor="mm")
        canvas.paste(fitted(prototype, large), (left, top + line))
        below = top + line + large[1]
        colour = INK if cell.right else WRONG
        draw.text((centre, below + line // 2), shortened(_answer(cell), font, cell_width), colour, font, anchor="mm")
        canvas.paste(fitted(image, small), (left, below + line + GAP))
        canvas.paste(fitted(update, small), (left + small[0] + GAP, below + line + GAP))
    for number, text in enumerate(legend):
        draw.text((_MARGIN, height + number * _TEXT_LINE), text, INK, legend_font)
    return np.array(canvas)


def _answer(cell: Cell) -> str:
    return "no mask kept" if cell.answer is None else f"= {cell.answer}"


def _small_tile(height: int, width: int) -> tuple[int, int]:
    """Width and height of a small tile: a whole multiple of the image's, so that pixels stay sharp squares."""
    longer = max(height, width)
    scale = TILE / longer if longer > TILE else round(0.75 * TILE / longer)
    return max(1, round(width * scale)), max(1, round(height * scale))
