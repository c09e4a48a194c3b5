"""The picture of one probe: what the model fills in for each class."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw

from fitb_callbacks.plotting.layout import (
    GAP,
    INK,
    MARGIN,
    PAPER,
    TEXT,
    WIDTH,
    Heading,
    Sign,
    draw_answer,
    fitted,
    font,
    heading_strip,
    paragraph,
    stacked,
    tile_size,
)
from fitb_callbacks.plotting.names import told_apart
from fitb_callbacks.plotting.tiles import Cell, Picture, cell_tiles

__all__ = ["MOST_CELLS", "answer_of", "legend_of", "names_of", "prototype_grid"]

MOST_CELLS = 20
_COLUMNS = 4
_LARGEST_TILE = 400
_LINE = round(1.4 * TEXT)


def prototype_grid(cells: Sequence[Cell], heading: Heading | None = None) -> Picture:
    """Draw one probe, a cell a class.

    Large, what the model fills in: the filled image if there is one, else the prototype. Above it the class, below it
    what the model takes it for, with a check mark or a cross. Under that, half as wide, the image and a map over it:
    how much the model relies on each patch (orange: for the class, blue: against it), or where the update acts
    (orange: brighter, blue: darker). Colour is full from three times the map's root mean square, the same for every
    image and epoch. Cells without a prototype are blank. At most 20 cells are drawn; the last lines say so, and which
    tile is which.

    Args:
        cells: One a class, at least one.
        heading: What the picture is of, and what the scores say.

    Returns:
        Height x width x 3, uint8, 900 pixels wide.
    """
    shown = cells[:MOST_CELLS]
    columns = min(_COLUMNS, len(shown))
    column = (WIDTH - MARGIN) // columns
    height, width = shown[0].image.shape[-2:]
    room = min(_LARGEST_TILE, column - MARGIN)
    large = tile_size(width, height, room, room)
    small = tile_size(width, height, (large[0] - GAP) // 2, room)
    cell_height = 2 * _LINE + large[1] + GAP + small[1] + MARGIN
    canvas = Image.new("RGB", (WIDTH, math.ceil(len(shown) / columns) * cell_height), PAPER)
    draw, face = ImageDraw.Draw(canvas), font()
    texts = told_apart(names_of(shown), face, column - 2 * MARGIN - TEXT)  # leaves room for a sign
    for position, cell in enumerate(shown):
        row, place = divmod(position, columns)
        centre, top = MARGIN // 2 + place * column + column // 2, row * cell_height
        left = centre - large[0] // 2
        image, value_map, main = cell_tiles(cell)
        draw.text((centre, top + _LINE // 2), texts[cell.name], INK, face, anchor="mm")
        canvas.paste(fitted(main, large), (left, top + _LINE))
        below = top + _LINE + large[1]
        text, sign = answer_of(cell)
        draw_answer(draw, texts.get(text, text), sign, centre=(centre, below + _LINE // 2), width=column - MARGIN)
        canvas.paste(fitted(image, small), (left, below + _LINE))
        canvas.paste(fitted(value_map, small), (left + large[0] - small[0], below + _LINE))
    parts = [canvas, paragraph(legend_of(cells, len(shown)))]
    return stacked(parts if heading is None else [heading_strip(heading), *parts])


def answer_of(cell: Cell) -> tuple[str, Sign]:
    """Return the caption of a cell and its sign."""
    if cell.answer is None:
        return "no prototype" if cell.filled is None else "no mask kept", "none"
    return cell.answer, "right" if cell.right else "wrong"


def names_of(cells: Sequence[Cell]) -> list[str]:
    """The classes of these cells, and those that the model takes them for."""
    return [name for cell in cells for name in (cell.name, cell.answer) if name is not None]


def legend_of(cells: Sequence[Cell], shown: int) -> str:
    """Which tile is which, in a sentence or two."""
    filled = any(cell.filled is not None for cell in cells)
    large = "the image as the model fills it in, no original pixel left" if filled else "the prototype"
    if any(cell.reliance is not None for cell in cells):
        value_map = "where the model looks (orange: for the class, blue: against it)"
    else:
        value_map = "the update (orange: brighter, blue: darker)"
    rest = f" {shown} of {len(cells)} classes." if shown < len(cells) else ""
    if gentler := [cell.name for cell in cells[:shown] if cell.gentler]:
        rest += f" Masks had to hide less than usual for {', '.join(gentler)}."
    if any(cell.is_volume for cell in cells):
        rest += " Each volume is shown by the slices through its centre, one across each axis."
    return f"Large: {large}; below it, the class the model sees. Small: the image, and {value_map}.{rest}"
