"""One probe on one card: what the scores say, three of them over training, and what the model fills in."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from fitb_callbacks.plotting.layout import (
    GAP,
    INK,
    MARGIN,
    PAPER,
    QUIET,
    RIGHT,
    TEXT,
    WIDTH,
    Heading,
    draw_answer,
    fitted,
    font,
    heading_strip,
    shortened,
    stacked,
    tile_size,
)
from fitb_callbacks.plotting.names import told_apart
from fitb_callbacks.plotting.prototypes import answer_of, names_of
from fitb_callbacks.plotting.tiles import Cell, Picture, main_tile, to_rgb

__all__ = ["glance_picture"]

_HEIGHT = 768  # as a card of MLflow's run page: 246 by 210
_MOST_CELLS = 12
_CHART, _HIGHEST_CHART = 150, 260
_LINE = round(1.3 * TEXT)

Curve = Sequence[tuple[int, float]]


def glance_picture(
    cells: Sequence[Cell],
    curves: Mapping[str, Curve],
    intervals: Mapping[str, tuple[float, float]],
    heading: Heading,
) -> Picture:
    """Draw one probe so that it fills a dashboard's card and can stand alone.

    From top to bottom: the verdict and the title; up to three scores, each with its 95% interval and its curve over the
    epochs so far on an axis from 0 to 1; what the model fills in for up to 12 classes, and what it takes that for. Of
    up to four classes, the image stands beside it.

    Args:
        cells: One a class, at least one.
        curves: Score name to its epochs and values, NaN for none; the first three are drawn, cut off at 0 and 1.
        intervals: Score name to the ends of its 95% interval.
        heading: What the picture is of, and what the scores say.

    Returns:
        Height x width x 3, uint8, 900 pixels wide and 768 high.
    """
    shown = cells[:_MOST_CELLS]
    rest = f", the first {_MOST_CELLS} shown" if len(cells) > _MOST_CELLS else ""
    strip = heading_strip(Heading(heading.title + rest, heading.verdict, heading.tone))
    drawn = dict(list(curves.items())[:3])
    layout = _Layout.of(shown, max(200, _HEIGHT - strip.height - (_CHART if drawn else 0)))
    # What the tiles leave over makes the curves higher
    room = max(layout.height, _HEIGHT - strip.height - _HIGHEST_CHART) if drawn else _HEIGHT - strip.height
    parts = [strip, _cells(shown, layout, room)]
    if drawn:
        parts.insert(1, _charts(drawn, intervals, max(_CHART, _HEIGHT - strip.height - room)))
    return stacked(parts)


def _charts(curves: Mapping[str, Curve], intervals: Mapping[str, tuple[float, float]], tall: int) -> Image.Image:
    canvas = Image.new("RGB", (WIDTH, tall), PAPER)
    draw, face, width = ImageDraw.Draw(canvas), font(), (WIDTH - MARGIN) // len(curves)
    for place, (name, curve) in enumerate(curves.items()):
        left, right = MARGIN + place * width, (place + 1) * width - MARGIN
        epoch, value = curve[-1]
        figure = "none" if math.isnan(value) else f"{value:.2f}"
        draw.text((left, _LINE // 2), shortened(name, face, width - 90), INK, face, anchor="lm")
        draw.text((right, _LINE // 2), figure, RIGHT, face, anchor="rm")
        low, high = intervals.get(name, (math.nan, math.nan))
        if not math.isnan(low + high):
            small = font(round(0.8 * TEXT))
            draw.text((right, _LINE + 6), f"{low:.2f} to {high:.2f}", QUIET, small, anchor="rm")
        box = (left, _LINE + 22, right, tall - 10)
        draw.line([(box[0], box[1]), (box[2], box[1])], (225, 225, 225))
        draw.line([(box[0], box[3]), (box[2], box[3])], QUIET, 2)
        first, last = curve[0][0], max(epoch, curve[0][0] + 1)
        points = [
            (box[0] + (box[2] - box[0] - 12) * (at - first) / (last - first) + 6, _level(box, height))
            for at, height in curve
            if not math.isnan(height)
        ]
        if len(points) > 1:
            draw.line(points, RIGHT, 4, joint="curve")
        if points:
            x, y = points[-1]
            if not math.isnan(low + high):
                draw.line([(x, _level(box, low)), (x, _level(box, high))], RIGHT, 2)
            draw.ellipse((x - 6, y - 6, x + 6, y + 6), RIGHT)
    return canvas


def _level(box: tuple[int, int, int, int], value: float) -> float:
    """Where a value in [0, 1] lies between the lower and the upper edge."""
    return box[3] - (box[3] - box[1]) * min(1.0, max(0.0, value))


@dataclass(frozen=True)
class _Layout:
    """Cells in the number of columns in which their tiles are largest; `tile` is a tile's width and height."""

    columns: int
    rows: int
    beside: int
    tile: tuple[int, int]

    @classmethod
    def of(cls, cells: Sequence[Cell], room: int) -> _Layout:
        beside = 2 if len(cells) <= 4 else 1  # tiles a cell
        height, width = cells[0].image.shape[-2:]

        def fill(columns: int) -> _Layout:
            rows = math.ceil(len(cells) / columns)
            across = ((WIDTH - MARGIN) // columns - MARGIN - (beside - 1) * GAP) // beside
            return cls(columns, rows, beside, tile_size(width, height, across, room // rows - _LINE - GAP))

        return max(map(fill, range(1, len(cells) + 1)), key=lambda layout: layout.tile)

    @property
    def height(self) -> int:
        """Of all rows."""
        return self.rows * (self.tile[1] + _LINE + GAP)


def _cells(cells: Sequence[Cell], layout: _Layout, room: int) -> Image.Image:
    side, column = layout.tile, (WIDTH - MARGIN) // layout.columns
    canvas = Image.new("RGB", (WIDTH, room), PAPER)
    draw, face = ImageDraw.Draw(canvas), font()
    beside_sign = column - 2 * GAP - TEXT
    whole, half = (told_apart(names_of(cells), face, room) for room in (beside_sign, beside_sign // 2 - GAP))
    for position, cell in enumerate(cells):
        row, place = divmod(position, layout.columns)
        centre, top = MARGIN // 2 + place * column + column // 2, row * (room // layout.rows)
        tiles = [to_rgb(cell.image, cell.low, cell.high), main_tile(cell)][-layout.beside :]
        left = centre - (len(tiles) * side[0] + (len(tiles) - 1) * GAP) // 2
        for picture in tiles:
            canvas.paste(fitted(picture, side), (left, top))
            left += side[0] + GAP
        answer, sign = answer_of(cell)
        text = whole[cell.name]
        if sign == "wrong":
            text = f"{cell.name}: {answer}"
            if face.getlength(text) > beside_sign:
                text = f"{half[cell.name]}: {half[answer]}"
        draw_answer(draw, text, sign, centre=(centre, top + side[1] + GAP + _LINE // 2), width=column - GAP)
    return canvas
