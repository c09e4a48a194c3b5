"""One probe on one card: what the scores say, three of them over training, and what the model fills in."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

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
from fitb_callbacks.plotting.prototypes import answer_of
from fitb_callbacks.plotting.tiles import Cell, Picture, main_tile, to_rgb

__all__ = ["glance_picture"]

_HEIGHT = 768  # as a card of MLflow's run page: 246 by 210
_MOST_CELLS = 12
_CHART = 150
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
    up to three classes, the image stands beside it.

    Args:
        cells: One a class, at least one.
        curves: Score name to its epochs and values, in [0, 1] or NaN; the first three are drawn.
        intervals: Score name to the ends of its 95% interval.
        heading: What the picture is of, and what the scores say.

    Returns:
        Height x width x 3, uint8, 900 pixels wide and 768 high.
    """
    rest = f", {_MOST_CELLS} of {len(cells)} classes" if len(cells) > _MOST_CELLS else ""
    strip = heading_strip(Heading(heading.title + rest, heading.verdict, heading.tone))
    parts = [strip]
    if drawn := dict(list(curves.items())[:3]):
        parts.append(_charts(drawn, intervals))
    room = max(200, _HEIGHT - sum(part.height for part in parts))
    parts.append(_cells(cells[:_MOST_CELLS], room))
    return stacked(parts)


def _charts(curves: Mapping[str, Curve], intervals: Mapping[str, tuple[float, float]]) -> Image.Image:
    canvas = Image.new("RGB", (WIDTH, _CHART), PAPER)
    draw, face, width = ImageDraw.Draw(canvas), font(), (WIDTH - MARGIN) // len(curves)
    for place, (name, curve) in enumerate(curves.items()):
        left, right = MARGIN + place * width, (place + 1) * width
        epoch, value = curve[-1]
        figure = "none" if math.isnan(value) else f"{value:.2f}"
        draw.text((left, _LINE // 2), shortened(name, face, width - 90), INK, face, anchor="lm")
        draw.text((right, _LINE // 2), figure, RIGHT, face, anchor="rm")
        low, high = intervals.get(name, (math.nan, math.nan))
        if not math.isnan(low + high):
            small = font(round(0.8 * TEXT))
            draw.text((right, _LINE + 6), f"{low:.2f} to {high:.2f}", QUIET, small, anchor="rm")
        box = (left, _LINE + 22, right, _CHART - 10)
        draw.line([(box[0], box[1]), (box[2], box[1])], (225, 225, 225))
        draw.line([(box[0], box[3]), (box[2], box[3])], QUIET, 2)
        first, last = curve[0][0], max(epoch, curve[0][0] + 1)
        points = [
            (box[0] + (box[2] - box[0] - 6) * (at - first) / (last - first), box[3] - (box[3] - box[1]) * height)
            for at, height in curve
            if not math.isnan(height)
        ]
        if len(points) > 1:
            draw.line(points, RIGHT, 4, joint="curve")
        if points:
            x, y = points[-1]
            draw.ellipse((x - 6, y - 6, x + 6, y + 6), RIGHT)
    return canvas


def _cells(cells: Sequence[Cell], room: int) -> Image.Image:
    """The cells in the number of columns in which their tiles are largest."""
    beside = 2 if len(cells) <= 3 else 1  # tiles a cell
    height, width = cells[0].image.shape[-2:]

    def tile(columns: int) -> tuple[int, int]:
        rows = math.ceil(len(cells) / columns)
        across = ((WIDTH - MARGIN) // columns - MARGIN - (beside - 1) * GAP) // beside
        down = room // rows - _LINE - GAP
        return tile_size(width, height, across, down)

    columns = max(range(1, len(cells) + 1), key=lambda number: tile(number)[0])
    side, column, rows = tile(columns), (WIDTH - MARGIN) // columns, math.ceil(len(cells) / columns)
    canvas = Image.new("RGB", (WIDTH, room), PAPER)
    draw = ImageDraw.Draw(canvas)
    for position, cell in enumerate(cells):
        row, place = divmod(position, columns)
        centre, top = MARGIN // 2 + place * column + column // 2, row * (room // rows)
        tiles = [main_tile(cell)] if beside == 1 else [to_rgb(cell.image, cell.low, cell.high), main_tile(cell)]
        left = centre - (beside * side[0] + (beside - 1) * GAP) // 2
        for picture in tiles:
            canvas.paste(fitted(picture, side), (left, top))
            left += side[0] + GAP
        answer, sign = answer_of(cell)
        text = cell.name if sign != "wrong" else f"{cell.name}: {answer}"
        draw_answer(draw, text, sign, centre=(centre, top + side[1] + GAP + _LINE // 2), width=column - GAP)
    return canvas
