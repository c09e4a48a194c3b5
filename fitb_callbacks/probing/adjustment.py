"""Regression adjustment that reduces the sampling error of mean updates: fewer masks for the same precision."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from fitb_callbacks.utils.arithmetic import safe_divide
from fitb_callbacks.utils.patch_grid import PatchGrid

__all__ = ["Adjustment", "patch_factors"]

_FREE_MASKS = 4096
"""Most masks, without a run of the model, over which predicted sizes are averaged."""

_FREE_SHARE = 16
"""How many of them for each mask with a run: enough for their noise not to matter."""

_PENALTY = 8.0
"""Penalty of the ridge regression, where a patch of usual content has size 1. Halving or doubling it changes little."""

_STEPS = 16
"""Steps of the conjugate gradients, by which they have come close enough to the regression."""

_MISFIT = 0.25
"""How wrong the means of predicted sizes may be, as a share of themselves."""

_SMALLEST_DOUBT = 1e-7
"""As in `fitb_callbacks.probing.updates`: below it a gradient's size says nothing any more."""

_IMAGES_AT_ONCE = 64
"""Images whose predictions are held at a time."""


@dataclass(frozen=True)
class Adjustment:
    """Adjusts the mean updates of some images under random masks, see `patch_factors`.

    Attributes:
        grid: The patches of an image.
        change: How much hiding each patch takes away from the image, see `Adjustment.for_images`; shape ``(N, P)``.
    """

    grid: PatchGrid
    change: Tensor

    @classmethod
    def for_images(cls, images: Tensor, *, baseline: Tensor, grid: PatchGrid) -> Adjustment:
        """For images ``(N, C, H, W)`` whose masked pixels hold the baseline ``(C, 1, 1)``.

        The change is the root mean square of what hiding a patch does to its pixels: 0 for a patch that holds nothing
        but the baseline.
        """
        squares = (images - baseline).square().mean(dim=1, keepdim=True)
        return cls(grid, grid.patch_means(squares).squeeze(1).sqrt().float())

    def factors(self, hidden: Tensor, log_p: Tensor, kept: Tensor, images: Tensor) -> Tensor:
        """What to multiply the mean updates of some images by, shape ``(R, 1, H, W)``.

        Args:
            hidden: Which patches each mask that went into the means hides, boolean, shape ``(K, P)``.
            log_p: log p(label) under each of them, shape ``(K, R)``.
            kept: Which updates count, boolean, shape ``(K, R)``.
            images: Which images these are, shape ``(R,)``.
        """
        drawn, num_hidden = hidden.float(), int(hidden[0].sum())
        free = _free_masks(self.grid.num_patches, num_hidden, hidden.device)[: _FREE_SHARE * len(hidden)]
        doubts = torch.expm1(log_p).neg().nan_to_num(nan=1.0).clamp(min=_SMALLEST_DOUBT)
        with torch.autocast(hidden.device.type, enabled=False):
            factors = torch.cat(
                [
                    patch_factors(drawn, free, doubts[:, some], kept[:, some], self.change[images[some]])
                    for some in torch.arange(len(images), device=hidden.device).split(_IMAGES_AT_ONCE)
                ]
            )
        return self.grid.to_pixels(factors).unsqueeze(1)


def patch_factors(hidden: Tensor, free: Tensor, doubts: Tensor, kept: Tensor, change: Tensor) -> Tensor:
    """How much larger each patch's mean update would be under all masks than under those that were drawn.

    An update is as large as the model is in doubt: it is in proportion to 1 - p(label). How large they are on average
    while a patch is hidden differs between patches, and by chance: a few masks that leave the model in doubt dominate
    a mean. A ridge regression of the logarithm of 1 - p, and of being kept, on the patches that are hidden predicts the
    sizes under any mask, without a run of the model. Each patch's mean is multiplied by the mean size that is expected
    over all masks, over the one that was seen. The expected size is the predicted one, plus the part of what the
    prediction missed that is not noise: with more masks that part goes to one, and the factor to 1, so the mean is
    after the same quantity as without factors. What this saves is in docs/performance.md. It is this package's own,
    not the paper's.

    Args:
        hidden: Masks that were drawn, 1 where a patch is hidden, else 0, shape ``(K, P)``; each hides as many patches.
        free: Many others of the same kind, shape ``(M, P)``.
        doubts: 1 - p(label) under each mask for each of N images, in (0, 1], shape ``(K, N)``.
        kept: Which updates count, boolean, shape ``(K, N)``.
        change: What hiding a patch takes away from an image, 0 or more on any scale, shape ``(N, P)``.

    Returns:
        Factors, 0 or more, shape ``(N, P)``; 1 for patches that were never hidden while an update counted.

    Example:
        >>> import torch
        >>> hidden = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> patch_factors(hidden, hidden, torch.full((2, 1), 0.5), torch.ones(2, 1, dtype=torch.bool), torch.ones(1, 2))
        tensor([[1., 1.]])
    """
    ratio = free.mean()
    change = safe_divide(change, change.square().mean(dim=1, keepdim=True).sqrt())
    answers = torch.stack([doubts.log().T, kept.to(hidden.dtype).T])
    centre = answers.mean(dim=2, keepdim=True)
    slopes = _ridge(hidden - ratio, answers - centre, change)

    def size(masks: Tensor) -> Tensor:
        log_doubt, keep = centre + slopes @ (masks - ratio).T
        sizes: Tensor = log_doubt.clamp(max=0).exp() * keep.clamp(0, 1)
        return sizes

    seen = (doubts * kept).T
    seen = safe_divide(seen, seen.mean(dim=1, keepdim=True))
    predicted = size(hidden)
    scale = predicted.mean(dim=1, keepdim=True)
    predicted = safe_divide(predicted, scale)
    everywhere = safe_divide(safe_divide(size(free), scale) @ free, free.sum(dim=0)) * ratio
    missed = (seen - predicted) @ hidden / len(hidden)
    noise = (seen - predicted).square() @ hidden / len(hidden) ** 2
    misfit = (_MISFIT * everywhere).square()
    expected = everywhere + safe_divide(missed * misfit, misfit + noise)
    drawn = seen @ hidden / len(hidden)
    return torch.where(drawn > 0, safe_divide(expected.clamp(min=0), drawn), 1)


def _ridge(features: Tensor, answers: Tensor, weights: Tensor) -> Tensor:
    """Slopes of ridge regressions on features that each image weighs in its own way, shape ``(A, N, P)``.

    By conjugate gradients, for all images at once: each would need a factorization of its own otherwise.

    Args:
        features: Shape ``(K, P)``, the same for all images.
        answers: Shape ``(A, N, K)``.
        weights: Of the features, shape ``(N, P)``.
    """
    residual = weights * (answers @ features)
    slopes, direction, size = torch.zeros_like(residual), residual, residual.square().sum(dim=2, keepdim=True)
    for _ in range(_STEPS):
        image = weights * ((weights * direction) @ features.T @ features) + _PENALTY * direction
        step = safe_divide(size, (direction * image).sum(dim=2, keepdim=True))
        slopes = slopes + step * direction
        residual = residual - step * image
        previous, size = size, residual.square().sum(dim=2, keepdim=True)
        direction = residual + safe_divide(size, previous) * direction
    return weights * slopes


@lru_cache(maxsize=4)
def _free_masks(num_patches: int, num_hidden: int, device: torch.device) -> Tensor:
    """In partitions, so that each patch is hidden nearly as often as any other, shape ``(M, num_patches)``."""
    length = num_patches // num_hidden
    keys = torch.rand(_FREE_MASKS // length, num_patches, generator=torch.Generator().manual_seed(0))
    part_of_patch = keys.argsort(dim=1) // num_hidden
    return (part_of_patch[:, None] == torch.arange(length)[:, None]).flatten(0, 1).float().to(device)
