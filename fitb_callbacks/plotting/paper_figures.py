"""The paper's figures, as pictures of results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fitb_callbacks.plotting.layout import lay_out
from fitb_callbacks.plotting.tiles import Cell, Picture, overlay, prototype_tile, to_rgb

__all__ = ["comparison", "fill_figure", "progressive_figure"]


def fill_figure(cell: Cell) -> Picture:
    """Draw how the blanks of one masked image are filled (paper, figure 1).

    From left to right: the image, its first mask, the masked image, the update on the masked pixels over it (red would
    be brighter, blue darker), and the masked image with the prototype's pixels in the blanks.

    Args:
        cell: Of random masks, with a prototype.

    Returns:
        Height x width x 3, uint8.

    Raises:
        ValueError: If the cell has no prototype, since no mask of it was kept.
    """
    if cell.prototype is None:
        raise ValueError(f"cell {cell.name!r} has no prototype: no mask of it was kept")
    low, high, visible = cell.low, cell.high, cell.visible[0]
    tiles = {
        "image": to_rgb(cell.image, low, high),
        "mask": _grey_and_black(visible),
        "masked": to_rgb(cell.masked, low, high),
        "update": overlay(cell.masked, cell.update.masked_fill(visible, 0), low, high),
        "filled": to_rgb(torch.where(visible, cell.image, cell.prototype), low, high),
    }
    return lay_out([(title, [tile], "", True) for title, tile in tiles.items()], row_titles=("",), bands=1)


def progressive_figure(cell: Cell) -> Picture:
    """Draw one image filled step by step (paper, figure 3): one column per step of the first partition.

    Rows: the step's mask, masked pixels black; the pixels predicted so far, light; the image after the step.

    Args:
        cell: Of progressive masks.

    Returns:
        Height x width x 3, uint8.

    Raises:
        ValueError: If the cell is of random masks.
    """
    if cell.steps is None:
        raise ValueError('cell must be of masking="progressive"; got one of random masks')
    visible = cell.visible
    hidden_so_far = (~visible).cumsum(dim=0) > 0
    nothing = torch.ones_like(visible[0])
    columns = [("image", [_grey_and_black(nothing), _grey_and_black(~nothing)], cell.image)]
    for number, (mask, predicted) in enumerate(zip(visible, hidden_so_far, strict=True)):
        tiles = [_grey_and_black(mask), _grey_and_black(predicted)]
        columns.append((f"step {number + 1}", tiles, cell.steps[number]))
    shares = [0.0, *hidden_so_far.float().mean(dim=(1, 2)).tolist()]
    return lay_out(
        [
            (title, [*tiles, to_rgb(image, cell.low, cell.high)], f"{share:.0%} predicted", True)
            for (title, tiles, image), share in zip(columns, shares, strict=True)
        ],
        row_titles=("mask", "predicted", "image"),
        bands=1,
    )


def comparison(probes: Mapping[str, Sequence[Cell]], *, updates: bool = False) -> Picture:
    """Draw several probes of the same images (paper, figures 2, 5 and 6): one column per class, one row per probe.

    Args:
        probes: Row title to one cell a class; all of the same images. Images without a kept mask have a blank tile.
        updates: Whether to show, above each row of prototypes, the updates they were made from.

    Returns:
        Height x width x 3, uint8.
    """
    columns = []
    for same_image in zip(*probes.values(), strict=True):
        first = same_image[0]
        tiles = [to_rgb(first.image, first.low, first.high)]
        for cell in same_image:
            if updates:
                tiles.append(overlay(cell.baseline.expand_as(cell.image), cell.update, cell.low, cell.high))
            tiles.append(prototype_tile(cell))
        columns.append((first.name, tiles, "", True))
    rows = [row for title in probes for row in ([f"{title}, update", title] if updates else [title])]
    return lay_out(columns, row_titles=("image", *rows), bands=1)


def _grey_and_black(light: Tensor) -> Picture:
    """True is light grey, which shows on white, and False black."""
    return to_rgb(light[None].float(), torch.zeros(1, 1, 1), torch.tensor([[[1.15]]]))
