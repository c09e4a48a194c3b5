"""Tensors to uint8 pictures: tiles, overlays and grids. Pillow writes the text; there is no plotting library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fitb_callbacks.probing.masks import partition_masks, random_masks

if TYPE_CHECKING:
    from PIL import Image, ImageFont

    from fitb_callbacks.probing.result import FillInBlanksResult

__all__ = [
    "Picture",
    "column_tiles",
    "first_masks",
    "lay_out",
    "overlay",
    "prototype_grid",
    "prototype_tile",
    "to_rgb",
]

Picture = npt.NDArray[np.uint8]
"""Height x width x 3, values 0 to 255."""

_PAPER = (255, 255, 255)
_INK = (40, 40, 40)
_WRONG = (190, 30, 45)
_BLANK = (225, 225, 225)
_TILE = 112
_GAP = 6
_MARGIN = 14
_NARROWEST = 90
_TEXT, _TEXT_LINE = 14, 20
_LONGEST_TITLE = 200
_FULL_COLOUR_AT = 3.0
_CARD = (246, 210)  # room for a picture on MLflow's run page, in CSS pixels
_LEGEND = (
    "Large: the prototype, and what the model takes it for. "
    "Small: the image, and the update over it (red: brighter, blue: darker)."
)


def prototype_grid(result: FillInBlanksResult) -> Picture:
    """The picture of one probe: a cell a class, by its first probe image.

    Large, the prototype; above it the class, below it what the model takes it for, in red where that is not the class.
    Under that, half as wide each, the image, and the image under its first mask with the mean update over it (red would
    be brighter, blue darker; full colour from three times the update's root mean square, the same for every image and
    epoch). A class whose image has no kept mask has an empty prototype and update. The cells stand in the number of
    columns with which prototypes are largest on a dashboard's card. The last line says which tile is which.

    Args:
        result: What the probe found.

    Returns:
        Height x width x 3, uint8.
    """
    from PIL import Image, ImageDraw, ImageFont

    labels = result.labels.tolist()
    cells = [_cell(result, labels.index(label)) for label in sorted(set(labels))]
    small = _small_tile(*result.images.shape[-2:])
    large = 2 * small[0] + _GAP, 2 * small[1] + _GAP
    cell_width = max(large[0], _NARROWEST)
    text_size = max(_TEXT, cell_width // 5)
    font = _largest_font([text for name, _, answer, _ in cells for text in (name, answer)], cell_width, text_size)
    line = round(1.25 * text_size)
    cell_height = line + large[1] + line + _GAP + small[1]

    def size(columns: int) -> tuple[int, int]:
        rows = math.ceil(len(cells) / columns)
        return _MARGIN + columns * (cell_width + _MARGIN), _GAP + rows * (cell_height + _MARGIN)

    def scale_on_a_card(columns: int) -> float:
        return min(room / side for room, side in zip(_CARD, size(columns), strict=True))

    columns = max(range(1, len(cells) + 1), key=scale_on_a_card)
    width, height = size(columns)
    legend_font = ImageFont.load_default(size=_TEXT)
    legend = _lines(_LEGEND, legend_font, width - 2 * _MARGIN)
    canvas = Image.new("RGB", (width, height + _TEXT_LINE * len(legend) + _GAP), _PAPER)
    draw = ImageDraw.Draw(canvas)
    for position, (name, (image, update, prototype), answer, right) in enumerate(cells):
        row, column = divmod(position, columns)
        centre = _MARGIN + column * (cell_width + _MARGIN) + cell_width // 2
        left, top = centre - large[0] // 2, _GAP + row * (cell_height + _MARGIN)
        draw.text((centre, top + line // 2), _shortened(name, font, cell_width), _INK, font, anchor="mm")
        canvas.paste(_fitted(prototype, large), (left, top + line))
        below = top + line + large[1]
        colour = _INK if right else _WRONG
        draw.text((centre, below + line // 2), _shortened(answer, font, cell_width), colour, font, anchor="mm")
        canvas.paste(_fitted(image, small), (left, below + line + _GAP))
        canvas.paste(_fitted(update, small), (left + small[0] + _GAP, below + line + _GAP))
    for number, text in enumerate(legend):
        draw.text((_MARGIN, height + number * _TEXT_LINE), text, _INK, legend_font)
    return np.array(canvas)


def _cell(result: FillInBlanksResult, index: int) -> tuple[str, list[Picture], str, bool]:
    """A class's name, its tiles, what the model takes its prototype for, and whether that is right."""
    names = result.class_names
    label, prediction = int(result.labels[index]), int(result.predictions[index])
    name = names[label] if names else str(label)
    answer = "no mask kept" if prediction < 0 else f"= {names[prediction] if names else prediction}"
    return name, column_tiles(result, index), answer, prediction == label


def _small_tile(height: int, width: int) -> tuple[int, int]:
    """Width and height of a small tile: a whole multiple of the image's, so that pixels stay sharp squares."""
    longer = max(height, width)
    scale = _TILE / longer if longer > _TILE else round(0.75 * _TILE / longer)
    return max(1, round(width * scale)), max(1, round(height * scale))


def column_tiles(result: FillInBlanksResult, index: int) -> list[Picture]:
    """The image, the update over the masked image, and the prototype, as `prototype_grid` shows them."""
    low, high = (torch.tensor(result.settings[key])[:, None, None] for key in ("low", "high"))
    baseline = torch.tensor(result.settings["baseline"])[:, None, None].to(result.images)
    image = result.images[index]
    shown = to_rgb(image, low, high)
    if not result.covered[index]:
        blank = np.full_like(shown, _BLANK)
        return [shown, blank, blank]
    masked = torch.where(first_masks(result)[0], image, baseline)
    return [shown, overlay(masked, result.updates[index], low, high), to_rgb(result.prototypes[index], low, high)]


def prototype_tile(result: FillInBlanksResult, index: int) -> Picture:
    """One image's prototype; light grey all over if none of its masks was kept."""
    low, high = (torch.tensor(result.settings[key])[:, None, None] for key in ("low", "high"))
    shown = to_rgb(result.prototypes[index], low, high)
    return shown if result.covered[index] else np.full_like(shown, _BLANK)


def first_masks(result: FillInBlanksResult) -> Tensor:
    """Visible pixels of the probe's first random mask, or of its first partition's masks, boolean ``(S, H, W)``."""
    settings, (height, width) = result.settings, result.images.shape[-2:]
    first = torch.zeros(1, dtype=torch.long)
    patch_size, seed = settings["patch_size"], settings["seed"]
    if result.steps is not None:
        num_steps = settings["num_steps"]
        return partition_masks(
            first, height=height, width=width, patch_size=patch_size, num_steps=num_steps, seed=seed
        )[0]
    mask_ratio = settings["mask_ratio"]
    return random_masks(first, height=height, width=width, patch_size=patch_size, mask_ratio=mask_ratio, seed=seed)


def to_rgb(image: Tensor, low: Tensor, high: Tensor) -> Picture:
    """An image of any number of channels as a picture.

    One channel is grey, three are RGB, of four the first three are RGB; of any other number the mean is grey.

    Args:
        image: Shape ``(C, H, W)``.
        low: Value of each channel that is shown as 0, shape ``(C, 1, 1)``.
        high: Value of each channel that is shown as 255, shape ``(C, 1, 1)``.

    Returns:
        Height x width x 3, uint8.

    Example:
        >>> import torch
        >>> to_rgb(torch.tensor([[[-1.0, 1.0]]]), low=torch.tensor(-1.0), high=torch.tensor(1.0))[0].tolist()
        [[0, 0, 0], [255, 255, 255]]
    """
    image, low, high = image.float().cpu(), low.float().cpu(), high.float().cpu()
    share = ((image - low) / torch.where(high > low, high - low, 1)).clamp(0, 1)
    channels = share[:3] if share.shape[0] in (3, 4) else share.mean(dim=0, keepdim=True).expand(3, -1, -1)
    return (channels * 255).round().byte().permute(1, 2, 0).numpy()


def overlay(image: Tensor, update: Tensor, low: Tensor, high: Tensor) -> Picture:
    """An update laid over an image: red where it would make a pixel brighter, blue where darker (paper, figure 1).

    Args:
        image: Shape ``(C, H, W)``.
        update: Shape ``(C, H, W)``; the channels' mean is shown.
        low: As for `to_rgb`.
        high: As for `to_rgb`.

    Returns:
        Height x width x 3, uint8. Colour is in proportion to the update in units of its root mean square, and full
        from three of them on.

    Example:
        >>> import torch
        >>> picture = overlay(torch.zeros(1, 1, 2), torch.tensor([[[1.0, -1.0]]]), torch.zeros(1, 1, 1),
        ...                   torch.ones(1, 1, 1))
        >>> picture[0].tolist()
        [[77, 10, 13], [11, 30, 67]]
    """
    grey = to_rgb(image, low, high).astype(np.float32)
    signed = update.float().cpu().mean(dim=0)
    scale = signed.square().mean().sqrt()
    strength = (signed / (scale * _FULL_COLOUR_AT) if scale > 0 else signed).clamp(-1, 1).numpy()[..., None]
    colour = np.where(strength > 0, np.array([230.0, 30.0, 40.0]), np.array([33.0, 90.0, 200.0]))
    mixed: Picture = (grey + (colour - grey) * np.abs(strength)).round().astype(np.uint8)
    return mixed


def lay_out(
    columns: Sequence[tuple[str, Sequence[Picture], str, bool]],
    *,
    row_titles: Sequence[str],
    corner: str = "",
    tile: int = _TILE,
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

    font = ImageFont.load_default(size=_TEXT)
    row_titles = [_shortened(title, font, _LONGEST_TITLE) for title in row_titles]
    margin = max((round(font.getlength(title)) for title in (*row_titles, corner)), default=0) + 2 * _GAP
    bands = bands or max(1, round(math.sqrt(len(columns) / len(row_titles))))
    per_band = math.ceil(len(columns) / bands)
    caption_height = 22 if any(caption for _, _, caption, _ in columns) else _GAP
    band_height = 22 + len(row_titles) * (tile + _GAP) + caption_height
    width = margin + per_band * (tile + _GAP) + _GAP
    canvas = Image.new("RGB", (width, bands * band_height + _GAP), _PAPER)
    draw = ImageDraw.Draw(canvas)
    for position, (title, tiles, caption, good) in enumerate(columns):
        left = margin + position % per_band * (tile + _GAP)
        top = position // per_band * band_height + _GAP
        centre = left + tile // 2
        draw.text((centre, top + 8), _shortened(title, font, tile), _INK, font, anchor="mm")
        for row, picture in enumerate(tiles):
            canvas.paste(_fitted(picture, (tile, tile)), (left, top + 18 + row * (tile + _GAP)))
        below = top + 18 + len(row_titles) * (tile + _GAP)
        draw.text((centre, below + 6), _shortened(caption, font, tile), _INK if good else _WRONG, font, anchor="mm")
        if position % per_band == 0:
            draw.text((margin - _GAP, top + 8), corner, _INK, font, anchor="rm")
            for row, row_title in enumerate(row_titles):
                middle = top + 18 + row * (tile + _GAP) + tile // 2
                draw.text((margin - _GAP, middle), row_title, _INK, font, anchor="rm")
    return np.array(canvas)


def _fitted(picture: Picture, tile: tuple[int, int]) -> Image.Image:
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
    whole = Image.new("RGB", tile, _PAPER)
    whole.paste(image, ((tile[0] - image.width) // 2, (tile[1] - image.height) // 2))
    return whole


def _largest_font(texts: Sequence[str], width: int, largest: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The largest font with which all of the texts fit, but not a small one: rather are long texts shortened."""
    from PIL import ImageFont

    for size in range(largest, _TEXT, -1):
        font = ImageFont.load_default(size=size)
        if all(font.getlength(" ".join(text.split())) <= width for text in texts):
            return font
    return ImageFont.load_default(size=_TEXT)


def _lines(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """The text in lines of at most this width, if its words allow."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _shortened(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
