"""The paper's figures, as pictures of results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fitb_callbacks.plotting.prototypes import Picture, first_masks, lay_out, overlay, prototype_tile, to_rgb

if TYPE_CHECKING:
    from fitb_callbacks.probing.result import FillInBlanksResult

__all__ = ["comparison", "fill_figure", "progressive_figure"]


def fill_figure(result: FillInBlanksResult, index: int) -> Picture:
    """How the blanks of one masked image are filled (paper, figure 1).

    From left to right: the image, its first mask, the masked image, the update on the masked pixels over it (red would
    be brighter, blue darker), and the masked image with the prototype's pixels in the blanks.

    Args:
        result: Of random masks.
        index: Which of its images.

    Returns:
        Height x width x 3, uint8.
    """
    low, high, baseline = _values(result)
    image, visible = result.images[index], first_masks(result)[0]
    masked = torch.where(visible, image, baseline)
    tiles = {
        "image": to_rgb(image, low, high),
        "mask": _grey_and_black(visible),
        "masked": to_rgb(masked, low, high),
        "update": overlay(masked, result.updates[index].masked_fill(visible, 0), low, high),
        "filled": to_rgb(torch.where(visible, image, result.prototypes[index]), low, high),
    }
    return lay_out([(title, [tile], "", True) for title, tile in tiles.items()], row_titles=("",), bands=1)


def progressive_figure(result: FillInBlanksResult, index: int) -> Picture:
    """One image filled step by step (paper, figure 3): a column a step, the first partition's.

    Rows: the step's mask, masked pixels black; the pixels predicted so far, light; the image after the step.

    Args:
        result: Of progressive masks.
        index: Which of its images.

    Returns:
        Height x width x 3, uint8.

    Raises:
        ValueError: If the result is of random masks.
    """
    if result.steps is None:
        raise ValueError('result must be of masking="progressive"; got one of random masks')
    low, high, _ = _values(result)
    visible = first_masks(result)
    hidden_so_far = (~visible).cumsum(dim=0) > 0
    nothing = torch.ones_like(visible[0])
    columns = [("image", [_grey_and_black(nothing), _grey_and_black(~nothing)], result.images[index])]
    for number, (mask, predicted) in enumerate(zip(visible, hidden_so_far, strict=True)):
        tiles = [_grey_and_black(mask), _grey_and_black(predicted)]
        columns.append((f"step {number + 1}", tiles, result.steps[index, number]))
    shares = [0.0, *hidden_so_far.float().mean(dim=(1, 2)).tolist()]
    return lay_out(
        [
            (title, [*tiles, to_rgb(image, low, high)], f"{share:.0%} predicted", True)
            for (title, tiles, image), share in zip(columns, shares, strict=True)
        ],
        row_titles=("mask", "predicted", "image"),
        bands=1,
    )


def comparison(results: Mapping[str, FillInBlanksResult], *, updates: bool = False) -> Picture:
    """What several probes make of the same images (paper, figures 2, 5 and 6): a column a class, a row a probe.

    Args:
        results: Row title to result; all of the same images. Images without a kept mask have a blank tile.
        updates: Whether to show, above each row of prototypes, the updates they were made from.

    Returns:
        Height x width x 3, uint8.
    """
    first = next(iter(results.values()))
    labels = first.labels.tolist()
    low, high, baseline = _values(first)
    columns = []
    for label in sorted(set(labels)):
        index = labels.index(label)
        tiles = [to_rgb(first.images[index], low, high)]
        for result in results.values():
            if updates:
                tiles.append(overlay(baseline.expand_as(first.images[0]), result.updates[index], low, high))
            tiles.append(prototype_tile(result, index))
        columns.append((first.class_names[label] if first.class_names else str(label), tiles, "", True))
    rows = [row for title in results for row in ([f"{title}, update", title] if updates else [title])]
    return lay_out(columns, row_titles=("image", *rows), bands=1)


def _values(result: FillInBlanksResult) -> tuple[Tensor, Tensor, Tensor]:
    low, high, baseline = (
        torch.tensor(result.settings[key], dtype=result.images.dtype)[:, None, None]
        for key in ("low", "high", "baseline")
    )
    return low, high, baseline


def _grey_and_black(light: Tensor) -> Picture:
    """True is light grey, which shows on white, and False black."""
    return to_rgb(light[None].float(), torch.zeros(1, 1, 1), torch.tensor([[[1.15]]]))
