"""Tiles and text on one canvas. Pillow writes the text; there is no plotting library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fitb_callbacks.plotting.tiles import Picture

if TYPE_CHECKING:
    from PIL import Image, ImageFont

    Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

__all__ = ["GAP", "INK", "PAPER", "TEXT", "TILE", "WRONG", "fitted", "largest_font", "lay_out", "lines", "shortened"]

PAPER = (255, 255, 255)
INK = (40, 40, 40)
WRONG = (190, 30, 45)
TILE = 112
GAP = 6
TEXT = 14
_LONGEST_TITLE = 200


def lay_out(
    columns: Sequence[tuple[str, Sequence[Picture], str, bool]],
    *,
    row_titles: Sequence[str],
    corner: str = "",
    tile: int = TILE,
    bands: int | None = None,
) -> Picture:
    """Tiles in labelled columns on white, in bands of columns one below the other.

    Args:
        columns: For each: its title, its tiles from top to bottom, a caption, and whether the caption is good news.
        row_titles: One title a row.
        corner: What the columns' titles are, for the corner beside them.
        tile: Side of a tile in pixels. Small tiles are enlarged by whole steps, so that pixels stay sharp squares.
        bands: How many; None takes as many as make the picture about square.

    Returns:
        Height x width x 3, uint8.
    """
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(size=TEXT)
    row_titles = [shortened(title, font, _LONGEST_TITLE) for title in row_titles]
    margin = max((round(font.getlength(title)) for title in (*row_titles, corner)), default=0) + 2 * GAP
    bands = bands or max(1, round(math.sqrt(len(columns) / len(row_titles))))
    per_band = math.ceil(len(columns) / bands)
    caption_height = 22 if any(caption for _, _, caption, _ in columns) else GAP
    band_height = 22 + len(row_titles) * (tile + GAP) + caption_height
    width = margin + per_band * (tile + GAP) + GAP
    canvas = Image.new("RGB", (width, bands * band_height + GAP), PAPER)
    draw = ImageDraw.Draw(canvas)
    for position, (title, tiles, caption, good) in enumerate(columns):
        left = margin + position % per_band * (tile + GAP)
        top = position // per_band * band_height + GAP
        centre = left + tile // 2
        draw.text((centre, top + 8), shortened(title, font, tile), INK, font, anchor="mm")
        for row, picture in enumerate(tiles):
            canvas.paste(fitted(picture, (tile, tile)), (left, top + 18 + row * (tile + GAP)))
        below = top + 18 + len(row_titles) * (tile + GAP)
        draw.text((centre, below + 6), shortened(caption, font, tile), INK if good else WRONG, font, anchor="mm")
        if position % per_band == 0:
            draw.text((margin - GAP, top + 8), corner, INK, font, anchor="rm")
            for row, row_title in enumerate(row_titles):
                middle = top + 18 + row * (tile + GAP) + tile // 2
                draw.text((margin - GAP, middle), row_title, INK, font, anchor="rm")
    return np.array(canvas)


def fitted(picture: Picture, tile: tuple[int, int]) -> Image.Image:
    """The picture enlarged by a whole factor, or shrunk, and centred in a tile of this width and height."""
    from PIL import Image

    image = Image.fromarray(picture)
    scale = min(room / side for room, side in zip(tile, image.size, strict=True))
    if scale < 1:
        image = image.resize([max(1, round(side * scale)) for side in image.size], Image.Resampling.LANCZOS)
    else:
        image = image.resize([side * int(scale) for side in image.size], Image.Resampling.NEAREST)
    if image.size == tile:
        return image
    whole = Image.new("RGB", tile, PAPER)
    whole.paste(image, ((tile[0] - image.width) // 2, (tile[1] - image.height) // 2))
    return whole


def largest_font(texts: Sequence[str], width: int, largest: int) -> Font:
    """The largest font with which all of the texts fit, but not a small one: rather are long texts shortened."""
    from PIL import ImageFont

    for size in range(largest, TEXT, -1):
        font = ImageFont.load_default(size=size)
        if all(font.getlength(" ".join(text.split())) <= width for text in texts):
            return font
    return ImageFont.load_default(size=TEXT)


def lines(text: str, font: Font, width: int) -> list[str]:
    """The text in lines of at most this width, if its words allow."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def shortened(text: str, font: Font, width: int) -> str:
    """The text on one line, cut off with an ellipsis where it is wider than this."""
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
