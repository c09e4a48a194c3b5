"""Fill images in until no original pixel is left (paper, section 4.2), by ascent."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fitb_callbacks.models.chunks import in_blocks
from fitb_callbacks.probing.ascent import AscentUpdate
from fitb_callbacks.probing.autotune import Plan
from fitb_callbacks.probing.inputs import Inputs
from fitb_callbacks.probing.masks import step_of_patch
from fitb_callbacks.probing.prior import ImagePrior
from fitb_callbacks.probing.updates import in_one_block
from fitb_callbacks.utils.distributed import confirm
from fitb_callbacks.utils.patch_grid import PatchGrid

__all__ = ["FILL_GRADIENTS", "fill_images", "fill_rows", "put_in", "surroundings", "without_seams"]

_PATCHES_PER_SIDE = 8
"""Larger patches than those of random masks: what is drawn within one hangs together."""

_TINY = 1e-12
_PARTS = 4
_STEPS_EACH = 10
_STEPS_OVER_ALL = 24
_GENTLE_STEPS, _GENTLE_SIZE = 20, 0.03
"""Of the first part, which is looked at beside the original pixels: what is drawn there has to fit in with them."""

_SOFT_EDGE = 0.2
"""Of a patch's side: as far from its edges it is blurred. Half of it would take away details that no step redraws."""

FILL_GRADIENTS = _GENTLE_STEPS + _PARTS * _STEPS_EACH + _STEPS_OVER_ALL
"""Gradients that the fill of an image takes."""


class _Stage(NamedTuple):
    """What is hidden and filled in turn."""

    rule: AscentUpdate
    part: int | None  # None for the whole image
    shown_in: int
    from_surroundings: bool = False


def fill_images(inputs: Inputs, plan: Plan, *, seed: int, share: tuple[int, int] = (0, 1)) -> Tensor:
    """Fill images in until no original pixel is left.

    The image is cut into four parts of scattered patches. The first is hidden and filled by small ascent steps, from
    the colours around it: that is what the model would put into the blanks of an image. For a picture of which nothing
    is left, the other parts follow, from the baseline and by larger steps, each in what the image has become by then;
    and the first once more, as it had the colours of the original around it. Further steps over the whole image, from
    one without seams between the patches, then join them up.

    Args:
        inputs: Images, labels and model. Hidden pixels start from the baseline and stay between low and high.
        plan: How images go through the model. Memory is bounded by its chunk size, which is halved when memory runs
            out.
        seed: Of the parts and the shifts, an integer in [0, 2**32).
        share: This process's rank and the number of processes: each fills its share of the images, and all end with
            all of them.

    Returns:
        Every image after each of the steps, shape ``(N, 5, C, H, W)``: with a quarter filled, a half, three quarters,
        all of it, and joined up; fewer parts for images of fewer pixels. An image stays at the baseline where the
        model's gradients are not finite.

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
    stages = _stages(inputs, plan, parts, seed)
    steps = images.new_zeros(len(rows), parts + 1, *images.shape[1:])

    def classify(seen: Tensor) -> Tensor:
        return inputs.classify(plan.formatted(seen))

    def work(_: slice, some: slice) -> None:
        chosen = rows[some]
        current, labels = images[chosen], inputs.labels[chosen]
        for stage in stages:
            visible = torch.zeros_like(part_of_pixel, dtype=torch.bool)
            if stage.part is None:
                start = without_seams(current, grid)
            else:
                visible = part_of_pixel != stage.part
                blank = inputs.baseline
                if stage.from_surroundings:
                    blank = surroundings(current, visible, blank, radius=grid.patch_size)
                start = torch.where(visible, current, blank)
            visible = visible.expand(len(chosen), 1, height, width)
            found = stage.rule.find(classify, plan.formatted(start), labels, visible)
            current = (start + found.values.nan_to_num()).to(images.dtype)
            steps[some, stage.shown_in] = current

    if len(rows):
        in_blocks(work, 1, len(rows), in_one_block(images, plan.chunk_size))
    return steps


def _stages(inputs: Inputs, plan: Plan, parts: int, seed: int) -> list[_Stage]:
    rule = AscentUpdate(
        ImagePrior.from_images(inputs.images),
        inputs.low,
        inputs.high,
        num_steps=_STEPS_EACH,
        weighted=False,
        chunk_size=plan.chunk_size,
    )
    gentle = replace(rule, num_steps=_GENTLE_STEPS, step_size=_GENTLE_SIZE, max_zoom=0.0, seed=seed)
    return [
        _Stage(gentle, 0, shown_in=0, from_surroundings=True),
        *(_Stage(replace(rule, seed=seed + part), part, shown_in=part) for part in range(1, parts)),
        _Stage(replace(rule, seed=seed), 0, shown_in=parts),
        _Stage(replace(rule, num_steps=_STEPS_OVER_ALL, seed=seed), None, shown_in=parts),
    ]


def surroundings(images: Tensor, visible: Tensor, baseline: Tensor, *, radius: int) -> Tensor:
    """For every pixel the mean colour of the visible ones around it; the baseline where there are none.

    Args:
        images: Shape ``(B, C, H, W)``.
        visible: The same for all, boolean, shape ``(H, W)``.
        baseline: Shape ``(C, 1, 1)``.
        radius: How far around a pixel is looked, in pixels, in both directions.

    Example:
        >>> image, visible = torch.tensor([[[[1.0, 9.0, 3.0]]]]), torch.tensor([[True, False, True]])
        >>> surroundings(image, visible, torch.zeros(1, 1, 1), radius=1)[0, 0, 0, 1].item()
        2.0
    """

    def pooled(values: Tensor) -> Tensor:
        for kernel, padding in (((2 * radius + 1, 1), (radius, 0)), ((1, 2 * radius + 1), (0, radius))):
            values = F.avg_pool2d(values, kernel, stride=1, padding=padding)
        return values

    weights = visible.to(torch.promote_types(images.dtype, torch.float32)).expand(1, 1, *images.shape[-2:])
    share = pooled(weights)
    return torch.where(share > 0, pooled(images * weights) / share.clamp(min=_TINY), baseline).to(images.dtype)


def without_seams(images: Tensor, grid: PatchGrid) -> Tensor:
    """Images whose patches go over into each other: steps from patch to patch are ramps, and edges are blurred.

    Patches that were filled one after another differ in brightness and colour, and steps over the whole image leave
    that as it is: the model doesn't mind.

    Args:
        images: Shape ``(B, C, H, W)``.
        grid: The patches.

    Example:
        >>> halves = torch.tensor([0.0, 1.0]).repeat_interleave(4).expand(1, 1, 8, 8)
        >>> without_seams(halves, PatchGrid(8, 8, 4))[0, 0, 0, 1:7].diff().max().item() < 0.3
        True
    """
    side, exact = grid.patch_size, images.to(torch.promote_types(images.dtype, torch.float32))
    means = grid.patch_means(exact)
    ramps = F.interpolate(grid.to_grid(means), scale_factor=side, mode="bilinear")[..., : grid.height, : grid.width]
    joined = exact + ramps - grid.to_pixels(means)
    reach = _SOFT_EDGE * side
    radius = max(1, int(reach / 2))
    blurred = F.avg_pool2d(joined, 2 * radius + 1, stride=1, padding=radius, count_include_pad=False)

    def nearness(length: int) -> Tensor:
        place = torch.arange(length, device=images.device) % side + 0.5
        return (1 - torch.minimum(place, side - place) / reach).clamp(min=0)

    share = torch.maximum(nearness(grid.height)[:, None], nearness(grid.width)).to(joined)
    return torch.lerp(joined, blurred, share).to(images.dtype)


def put_in(inputs: Inputs, update: Tensor) -> Tensor:
    """Hidden pixels with an ascent's update: the baseline moved by it, and the baseline where it is not finite."""
    return (inputs.baseline + update.nan_to_num()).to(inputs.images.dtype)
