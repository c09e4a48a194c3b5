"""Fewer masks for a good mean: what of each patch's mean is the luck of the draw is estimated, and taken out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["MOST_MASKS", "Adjustment", "patch_factors"]

MOST_MASKS = 2048
"""Masks an image up to which means are adjusted. With more, chance has little left to say."""

_FREE_MASKS = 4096
"""Masks without a run of the model, over which predicted sizes are averaged, at most."""

_FREE_SHARE = 16
"""And for each mask with a run: so many that their noise does not matter."""

_PENALTY = 8.0
"""Of the ridge regression, where a patch of usual content has size 1. Halving or doubling it changes little."""

_STEPS = 16
"""Of the conjugate gradients, which by then are as near to the regression as is of use."""

_MISFIT = 0.25
"""How far predicted sizes are trusted: their means may be wrong by so much of themselves."""

_TOGETHER = 64
"""Images whose predictions are held at a time."""


@dataclass(frozen=True)
class Adjustment:
    """What is needed to adjust the mean updates of some images under random masks, see `patch_factors`.

    Attributes:
        visible: From indices of masks ``(K,)`` to their visible pixels, boolean, shape ``(K, H, W)``.
        patch_size: Side of a patch in pixels.
        change: What hiding each patch takes away from the image, see `Adjustment.of`; shape ``(N, P)``.
    """

    visible: Callable[[Tensor], Tensor]
    patch_size: int
    change: Tensor

    @classmethod
    def of(
        cls, images: Tensor, *, baseline: Tensor, patch_size: int, visible: Callable[[Tensor], Tensor]
    ) -> Adjustment:
        """For images ``(N, C, H, W)`` whose masked pixels hold the baseline ``(C, 1, 1)``.

        A patch that holds nothing but the baseline looks the same when it is hidden, so its change is 0.
        """
        squares = (images - baseline).square().mean(dim=1, keepdim=True)
        means = F.avg_pool2d(squares, patch_size, ceil_mode=True, count_include_pad=False)
        return cls(visible, patch_size, means.flatten(1).sqrt().float())

    def factors(self, indices: Tensor, doubts: Tensor, kept: Tensor, images: Tensor) -> Tensor:
        """What the mean updates of some images are to be multiplied by, shape ``(R, 1, H, W)``.

        Args:
            indices: Of the masks that went into the means, shape ``(K,)``.
            doubts: 1 - p(label) under each of them, in (0, 1], shape ``(K, R)``.
            kept: Which updates count, boolean, shape ``(K, R)``.
            images: Which images these are, shape ``(R,)``.
        """
        visible = self.visible(indices)
        height, width = visible.shape[1:]
        step = self.patch_size
        hidden = (~visible[:, ::step, ::step]).flatten(1).float()
        free = _free_masks(hidden.shape[1], int(hidden[0].sum()), hidden.device)[: _FREE_SHARE * len(hidden)]
        with torch.autocast(hidden.device.type, enabled=False):
            factors = torch.cat(
                [
                    patch_factors(hidden, free, doubts[:, some], kept[:, some], self.change[images[some]])
                    for some in torch.arange(len(images), device=hidden.device).split(_TOGETHER)
                ]
            )
        grid = factors.unflatten(1, (-(-height // step), -(-width // step)))
        pixels: Tensor = grid.repeat_interleave(step, dim=1).repeat_interleave(step, dim=2)
        return pixels[:, None, :height, :width]


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
    change = change / change.square().mean(dim=1, keepdim=True).sqrt().clamp(min=torch.finfo(change.dtype).tiny)
    answers = torch.stack([doubts.log().T, kept.to(hidden.dtype).T])
    centre = answers.mean(dim=2, keepdim=True)
    slopes = _ridge(hidden - ratio, answers - centre, change)

    def size(masks: Tensor) -> Tensor:
        log_doubt, keep = centre + slopes @ (masks - ratio).T
        sizes: Tensor = log_doubt.clamp(max=0).exp() * keep.clamp(0, 1)
        return sizes

    tiny = torch.finfo(hidden.dtype).tiny
    seen = (doubts * kept).T
    seen = seen / seen.mean(dim=1, keepdim=True).clamp(min=tiny)
    predicted = size(hidden)
    scale = predicted.mean(dim=1, keepdim=True).clamp(min=tiny)
    predicted = predicted / scale
    everywhere = (size(free) / scale) @ free / free.sum(dim=0).clamp(min=1) * ratio
    missed = (seen - predicted) @ hidden / len(hidden)
    noise = (seen - predicted).square() @ hidden / len(hidden) ** 2
    misfit = (_MISFIT * everywhere).square()
    expected = everywhere + missed * misfit / (misfit + noise).clamp(min=tiny)
    drawn = seen @ hidden / len(hidden)
    return torch.where(drawn > 0, expected.clamp(min=0) / drawn.clamp(min=tiny), 1)


def _ridge(features: Tensor, answers: Tensor, weights: Tensor) -> Tensor:
    """Slopes of ridge regressions on features that each image weighs in its own way, shape ``(A, N, P)``.

    By conjugate gradients, for all images at once: each would need a factorization of its own otherwise.

    Args:
        features: Shape ``(K, P)``, the same for all images.
        answers: Shape ``(A, N, K)``.
        weights: Of the features, shape ``(N, P)``.
    """
    tiny = torch.finfo(features.dtype).tiny
    residual = weights * (answers @ features)
    slopes, direction, size = torch.zeros_like(residual), residual, residual.square().sum(dim=2, keepdim=True)
    for _ in range(_STEPS):
        image = weights * ((weights * direction) @ features.T @ features) + _PENALTY * direction
        step = size / (direction * image).sum(dim=2, keepdim=True).clamp(min=tiny)
        slopes = slopes + step * direction
        residual = residual - step * image
        previous, size = size, residual.square().sum(dim=2, keepdim=True)
        direction = residual + size / previous.clamp(min=tiny) * direction
    return weights * slopes


@lru_cache(maxsize=4)
def _free_masks(num_patches: int, num_hidden: int, device: torch.device) -> Tensor:
    """In partitions, so that each patch is hidden nearly as often as any other, shape ``(M, num_patches)``."""
    length = num_patches // num_hidden
    keys = torch.rand(_FREE_MASKS // length, num_patches, generator=torch.Generator().manual_seed(0))
    part_of_patch = keys.argsort(dim=1) // num_hidden
    return (part_of_patch[:, None] == torch.arange(length)[:, None]).flatten(0, 1).float().to(device)
