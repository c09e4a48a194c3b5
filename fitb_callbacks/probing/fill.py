"""Fill images in until no original pixel is left (paper, section 4.2), by ascent."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from fitb_callbacks.models.chunks import in_blocks
from fitb_callbacks.probing.ascent import AscentUpdate
from fitb_callbacks.probing.autotune import Plan
from fitb_callbacks.probing.inputs import Inputs
from fitb_callbacks.probing.masks import pair_keys
from fitb_callbacks.probing.prior import ImagePrior
from fitb_callbacks.probing.strategies import ProgressiveMasking, Targets
from fitb_callbacks.probing.updates import UpdateFinder
from fitb_callbacks.utils.distributed import confirm
from fitb_callbacks.utils.patch_grid import PatchGrid

__all__ = ["FILL_GRADIENTS", "fill_images", "put_in"]

_PATCHES_PER_SIDE = 8
"""Larger patches than those of random masks: what is drawn within one hangs together."""

_PARTS = 4
_STEPS_EACH = 10
_STEPS_OVER_ALL = 24

FILL_GRADIENTS = _PARTS * _STEPS_EACH + _STEPS_OVER_ALL
"""Gradients that the fill of an image takes."""


def fill_images(inputs: Inputs, plan: Plan, *, seed: int, share: tuple[int, int] = (0, 1)) -> Tensor:
    """Fill images in until no original pixel is left.

    The image is cut into four parts of scattered patches. One after the other is hidden and filled by ascent steps in
    what the image has become by then. Further steps over the whole image then join the patches up.

    Args:
        inputs: Images, labels and model. Hidden pixels start from the baseline and stay between low and high.
        plan: How images go through the model. Memory is bounded by its chunk size, which is halved when memory runs
            out.
        seed: Of the parts, the shifts and the noise, an integer in [0, 2**32).
        share: This process's rank and the number of processes: each fills its share of the images, and all end with
            all of them.

    Returns:
        Every image after each of the steps, shape ``(N, 5, C, H, W)``: four parts, then the whole; fewer parts for
        images of fewer pixels. An image stays at the baseline where the model's gradients are not finite.

    Raises:
        RuntimeError: If the logits do not depend on the images by differentiable operations.
        fitb_callbacks.utils.distributed.OtherRankError: If another process failed.
    """
    images = inputs.images
    height, width = images.shape[-2:]
    grid = PatchGrid.for_images(images, max(1, round(min(height, width) / _PATCHES_PER_SIDE)))
    parts = min(_PARTS, grid.num_patches)
    rule = AscentUpdate(ImagePrior.from_images(images), inputs.low, inputs.high, num_steps=_STEPS_EACH, weighted=False)
    in_parts, over_all = (
        UpdateFinder(each, inputs.classify, plan) for each in (rule, replace(rule, num_steps=_STEPS_OVER_ALL))
    )
    masking = ProgressiveMasking(
        Targets(images, inputs.labels, inputs.baseline, grid, seed), parts, fill=partial(put_in, inputs)
    )
    first = torch.zeros(1, dtype=torch.long, device=images.device)
    drawn = masking.draw(first)
    steps = images.new_zeros(len(images), parts + 1, *images.shape[1:])
    mine = torch.arange(len(images), device=images.device)[share[0] :: share[1]]

    def work(_: slice, rows: slice) -> None:
        chosen = mine[rows]
        filled = masking.find(in_parts, drawn, first, chosen).steps
        assert filled is not None
        last, nothing = (
            filled[:, -1],
            torch.zeros(len(chosen), 1, height, width, dtype=torch.bool, device=images.device),
        )
        keys = pair_keys(first + parts, chosen, seed=seed).flatten()
        joined = last + over_all.find(last, inputs.labels[chosen], nothing, keys).values.nan_to_num()
        steps[chosen] = torch.cat((filled, joined.to(filled.dtype)[:, None]), dim=1)

    if len(mine):
        in_blocks(work, 1, len(mine), plan.chunk_size)
    if share[1] > 1:
        confirm()
        torch.distributed.all_reduce(steps)  # an image is one rank's; the others hold zeros
    return steps


def put_in(inputs: Inputs, update: Tensor) -> Tensor:
    """Hidden pixels with an ascent's update: the baseline moved by it, and the baseline where it is not finite."""
    return (inputs.baseline + update.nan_to_num()).to(inputs.images.dtype)
