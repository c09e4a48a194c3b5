"""Fill images in until no original pixel is left (paper, section 4.2), by ascent."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from fitb_callbacks.models.chunks import in_blocks
from fitb_callbacks.probing.ascent import AscentUpdate
from fitb_callbacks.probing.autotune import Plan
from fitb_callbacks.probing.inputs import Inputs
from fitb_callbacks.probing.masks import pair_keys, step_of_patch
from fitb_callbacks.probing.prior import ImagePrior
from fitb_callbacks.probing.updates import UpdateFinder
from fitb_callbacks.utils.distributed import confirm
from fitb_callbacks.utils.patch_grid import PatchGrid

__all__ = ["FILL_GRADIENTS", "fill_images", "fill_rows", "put_in"]

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
    mine = torch.arange(len(images), device=images.device)[share[0] :: share[1]]
    filled = fill_rows(inputs, mine, plan, seed=seed)
    if share[1] == 1:
        return filled
    steps = images.new_zeros(len(images), *filled.shape[1:])
    steps[mine] = filled
    confirm()
    torch.distributed.all_reduce(steps)  # an image is one rank's; the others hold zeros
    return steps


def fill_rows(inputs: Inputs, rows: Tensor, plan: Plan, *, seed: int) -> Tensor:
    """Fill some images in, by index ``(R,)``, as `fill_images` does: shape ``(R, 5, C, H, W)``."""
    images, (height, width) = inputs.images, inputs.images.shape[-2:]
    grid = PatchGrid.for_images(images, max(1, round(min(height, width) / _PATCHES_PER_SIDE)))
    parts = min(_PARTS, grid.num_patches)
    first = torch.zeros(1, dtype=torch.long, device=images.device)
    part_of_pixel = grid.to_pixels(step_of_patch(first, grid, num_steps=parts, seed=seed))
    rule = AscentUpdate(ImagePrior.from_images(images), inputs.low, inputs.high, num_steps=_STEPS_EACH, weighted=False)
    rules = [*(replace(rule, seed=seed + part) for part in range(parts)), replace(rule, num_steps=_STEPS_OVER_ALL)]
    steps = images.new_zeros(len(rows), len(rules), *images.shape[1:])

    def work(_: slice, some: slice) -> None:
        chosen = rows[some]
        current, labels = images[chosen], inputs.labels[chosen]
        for step, each in enumerate(rules):
            visible = (part_of_pixel != step) if step < parts else torch.zeros_like(part_of_pixel, dtype=torch.bool)
            visible = visible.expand(len(chosen), 1, height, width)
            start = current if step == parts else torch.where(visible, current, inputs.baseline)
            keys = pair_keys(first + step, chosen, seed=seed).flatten()
            update = UpdateFinder(each, inputs.classify, plan).find(start, labels, visible, keys).values
            current = (start + update.nan_to_num()).to(images.dtype)
            steps[some, step] = current

    if len(rows):
        in_blocks(work, 1, len(rows), plan.chunk_size)
    return steps


def put_in(inputs: Inputs, update: Tensor) -> Tensor:
    """Hidden pixels with an ascent's update: the baseline moved by it, and the baseline where it is not finite."""
    return (inputs.baseline + update.nan_to_num()).to(inputs.images.dtype)
