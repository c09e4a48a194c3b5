"""Masks that hide less, for images that the model knows but not under any mask that it was given."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fitb_callbacks.models.answers import predicted
from fitb_callbacks.models.chunks import in_chunks
from fitb_callbacks.probing.averaging import Average
from fitb_callbacks.probing.inputs import Inputs
from fitb_callbacks.utils.distributed import confirm

__all__ = ["MOST_GENTLE_MASKS", "with_gentler_masks"]

MOST_GENTLE_MASKS = 64
"""Masks of each ratio that an image gets, at most."""

_SHARES = (0.5, 0.25, 0.125)


def with_gentler_masks(
    inputs: Inputs,
    averaged: Average,
    average_again: Callable[[Inputs, float], Average],
    *,
    mask_ratio: float,
    num_processes: int = 1,
) -> tuple[Average, Tensor]:
    """Give images without a kept mask masks of a half, a quarter and an eighth of the ratio, until one is kept.

    Only images that the model classifies right when nothing is hidden get them: for the others there is nothing to
    explain.

    Args:
        inputs: Images, labels and model.
        averaged: What the usual masks gave.
        average_again: Averages the updates of some of the inputs under masks of another ratio.
        mask_ratio: The usual one.
        num_processes: That probe together. All decide alike.

    Returns:
        The average with the new updates of those images, and the ratio of each image's masks, shape ``(N,)``: of those
        that were kept, or the usual one if none was.

    Raises:
        fitb_callbacks.utils.distributed.OtherRankError: If another process failed.
    """
    ratios = torch.full((len(inputs.labels),), mask_ratio)
    left = (~averaged.covered).nonzero()[:, 0]
    left = left[_known(inputs.rows(left), num_processes)] if len(left) else left
    num_hidden = inputs.grid.num_hidden(mask_ratio)
    for share in _SHARES:
        ratio = mask_ratio * share
        if not len(left) or inputs.grid.num_hidden(ratio) == num_hidden:
            break
        num_hidden = inputs.grid.num_hidden(ratio)
        part = average_again(inputs.rows(left), ratio)
        averaged = averaged.with_rows(part, left)
        ratios[left[part.covered].cpu()] = ratio
        left = left[~part.covered]
    return averaged, ratios


def _known(inputs: Inputs, num_processes: int) -> Tensor:
    """Which images the model classifies right as they are, on every process; boolean, shape ``(N,)``."""
    right = (predicted(in_chunks(inputs.classify, inputs.images), inputs.labels) == inputs.labels).to(torch.uint8)
    if num_processes > 1:  # devices may round differently, but all have to go on with the same images
        confirm()
        torch.distributed.all_reduce(right, torch.distributed.ReduceOp.MIN)
    return right.bool()
