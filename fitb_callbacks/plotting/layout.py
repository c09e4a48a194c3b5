"""Text, headings and tiles on one canvas. Pillow writes the text; there is no plotting library.

Pictures are `WIDTH` pixels wide and their text is `TEXT` high, so that it can still be read where a dashboard or a chat
shows them 450 pixels wide. Colours are told apart by people with any kind of colour vision, and never alone: what is
right has a check mark, what is wrong a cross.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fitb_callbacks.plotting.tiles import Picture

if TYPE_CHECKING:
    Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

__all__ = [
    "GAP",
    "INK",
    "MARGIN",
    "PAPER",
    "QUIET",
    "RIGHT",
    "TEXT",
    "WIDTH",
    "WRONG",
    "Heading",
    "Sign",
    "draw_answer",
    "draw_sign",
    "fitted",
    "font",
    "heading_strip",
    "lay_out",
    "paragraph",
    "shortened",
    "stacked",
    "tile_size",
]

PAPER, INK, QUIET = (255, 255, 255), (33, 37, 41), (90, 96, 102)
RIGHT, WRONG = (0, 92, 148), (184, 74, 0)  # blue and orange
WIDTH, TEXT = 900, 27
MARGIN, GAP = 14, 6
_LINE = 1.3
_LONGEST_TITLE = 200
_TILE, _SMALL = 112, 14  # of the figures for papers and ablations
_AS_WHITE_AS_PAPER, _SHARE_OF_RIM, _HAIRLINE = 245, 0.2, (200, 204, 208)

Colour = tuple[int, int, int]
Sign = Literal["right", "wrong", "none"]


@dataclass(frozen=True)
class Heading:
    """What a picture says of itself, so that it can stand alone.

    Attributes:
        title: What is shown, such as the run and the epoch.
        verdict: What the scores say, in a sentence; empty for none.
        tone: What that means for the model.
    """

    title: str
    verdict: str = ""
    tone: Literal["good", "unclear", "bad"] = "unclear"


def font(size: int = TEXT) -> Font:
    """Pillow's own font in this size."""
    return ImageFont.load_default(size=size)


def stacked(parts: Sequence[Image.Image]) -> Picture:
    """Images one below the other on white, from the left."""
    canvas = Image.new("RGB", (max(part.width for part in parts), sum(part.height for part in parts)), PAPER)
    top = 0
    for part in parts:
        canvas.paste(part, (0, top))
        top += part.height
    return np.array(canvas)


def heading_strip(heading: Heading, *, size: int = TEXT) -> Image.Image:
    """The verdict on a bar of its colour with its sign, and the title below it."""
    sign: Sign = {"good": "right", "bad": "wrong"}.get(heading.tone, "none")  # type: ignore[assignment]
    colour = {"right": RIGHT, "wrong": WRONG, "none": QUIET}[sign]
    title = paragraph(heading.title, size=size, colour=INK)
    if not heading.verdict:
        return title
    words = paragraph(
        heading.verdict, size=round(1.25 * size), colour=PAPER, background=colour, indent=2 * size + MARGIN
    )
    draw_sign(ImageDraw.Draw(words), sign, (MARGIN + size // 2, words.height // 2 - size // 2), size, PAPER)
    return Image.fromarray(stacked([words, title]))


def paragraph(
    text: str,
    *,
    size: int = TEXT,
    colour: Colour = QUIET,
    background: Colour = PAPER,
    indent: int = MARGIN,
) -> Image.Image:
    """A text in lines as wide as the picture; a word that is wider than that is cut off."""
    face, room = font(size), WIDTH - indent - MARGIN
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and face.getlength(longer) > room:
            lines.append(word)
        else:
            lines[-1] = longer
    height = round(_LINE * size)
    strip = Image.new("RGB", (WIDTH, len(lines) * height + 2 * GAP), background)
    for number, line in enumerate(lines):
        middle = GAP + number * height + height // 2
        ImageDraw.Draw(strip).text((indent, middle), shortened(line, face, room), colour, face, anchor="lm")
    return strip


def draw_sign(draw: ImageDraw.ImageDraw, sign: Sign, corner: tuple[int, int], size: int, colour: Colour) -> None:
    """Draw a check mark, a cross or a dash in a square with this upper left corner."""
    left, top = corner
    width = max(2, round(0.16 * size))

    def line(*points: tuple[float, float]) -> None:
        draw.line([(left + size * x, top + size * y) for x, y in points], colour, width, joint="curve")

    if sign == "right":
        line((0.1, 0.55), (0.38, 0.82), (0.9, 0.18))
    elif sign == "wrong":
        line((0.18, 0.18), (0.82, 0.82))
        line((0.82, 0.18), (0.18, 0.82))
    else:
        line((0.15, 0.5), (0.85, 0.5))


def draw_answer(draw: ImageDraw.ImageDraw, text: str, sign: Sign, *, centre: tuple[int, int], width: int) -> None:
    """Draw a sign and, to its right, a text, together in the middle of this width."""
    colour = {"right": RIGHT, "wrong": WRONG, "none": QUIET}[sign]
    face, side = font(), round(0.8 * TEXT)
    text = shortened(text, face, width - side - GAP)
    left = centre[0] - round(side + GAP + face.getlength(text)) // 2
    draw_sign(draw, sign, (left, centre[1] - side // 2), side, colour)
    draw.text((left + side + GAP, centre[1]), text, colour, face, anchor="lm")


def lay_out(
    columns: Sequence[tuple[str, Sequence[Picture], str, bool]],
    *,
    row_titles: Sequence[str],
    bands: int | None = None,
) -> Picture:
    """Tiles in labelled columns on white, in bands of columns one below the other.

    Args:
        columns: For each: its title, its tiles from top to bottom, a caption, and whether the caption is good news.
        row_titles: One title a row.
        bands: How many; None takes as many as make the picture about square.

    Returns:
        Height x width x 3, uint8.
    """
    face, line, tile = font(_SMALL), round(1.5 * _SMALL), _TILE
    row_titles = [shortened(title, face, _LONGEST_TITLE) for title in row_titles]
    margin = max((round(face.getlength(title)) for title in row_titles), default=0) + 2 * GAP
    bands = bands or max(1, round(math.sqrt(len(columns) / len(row_titles))))
    per_band = math.ceil(len(columns) / bands)
    caption_height = line if any(caption for _, _, caption, _ in columns) else GAP
    band_height = line + len(row_titles) * (tile + GAP) + caption_height
    canvas = Image.new("RGB", (margin + per_band * (tile + GAP) + GAP, bands * band_height + GAP), PAPER)
    draw = ImageDraw.Draw(canvas)
    for position, (title, tiles, caption, good) in enumerate(columns):
        left = margin + position % per_band * (tile + GAP)
        top = position // per_band * band_height + GAP
        centre, first = left + tile // 2, top + line - GAP + 2
        draw.text((centre, top + line // 2 - 2), shortened(title, face, tile), INK, face, anchor="mm")
        for row, picture in enumerate(tiles):
            canvas.paste(fitted(picture, (tile, tile)), (left, first + row * (tile + GAP)))
        below = first + len(row_titles) * (tile + GAP)
        draw.text((centre, below + _SMALL // 2), shortened(caption, face, tile), INK if good else WRONG, face, "mm")
        if position % per_band == 0:
            for row, row_title in enumerate(row_titles):
                middle = first + row * (tile + GAP) + tile // 2
                draw.text((margin - GAP, middle), row_title, INK, face, anchor="rm")
    return np.array(canvas)


def fitted(picture: Picture, tile: tuple[int, int]) -> Image.Image:
    """The picture in the middle of a tile of this width and height, as large as fits.

    Small pictures are enlarged by a whole factor, so that their pixels stay sharp squares; others are resampled. One
    that is white at the rim gets a hairline, or nobody could tell where it ends.
    """
    image = Image.fromarray(picture)
    scale = min(room / side for room, side in zip(tile, image.size, strict=True))
    if scale >= 3:
        image = image.resize([side * int(scale) for side in image.size], Image.Resampling.NEAREST)
    else:
        image = image.resize([max(1, round(side * scale)) for side in image.size], Image.Resampling.LANCZOS)
    pixels = np.asarray(image)
    rim = np.concatenate((pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]))
    if (rim >= _AS_WHITE_AS_PAPER).all(axis=1).mean() > _SHARE_OF_RIM:
        ImageDraw.Draw(image).rectangle((0, 0, image.width - 1, image.height - 1), outline=_HAIRLINE)
    if image.size == tile:
        return image
    whole = Image.new("RGB", tile, PAPER)
    whole.paste(image, ((tile[0] - image.width) // 2, (tile[1] - image.height) // 2))
    return whole


def tile_size(width: int, height: int, across: int, down: int) -> tuple[int, int]:
    """Width and height of a tile as large as fits; small images are enlarged by a whole factor, as `fitted` does."""
    scale = min(across / width, down / height)
    scale = int(scale) if scale >= 3 else scale
    return max(1, int(width * scale)), max(1, int(height * scale))


def shortened(text: str, face: Font, width: int) -> str:
    """The text on one line, cut off with an ellipsis where it is wider than this."""
    text = " ".join(text.split())
    if face.getlength(text) <= width:
        return text
    while text and face.getlength(text + "…") > width:
        text = text[: min(len(text) - 1, 400)]
    return text + "…"
