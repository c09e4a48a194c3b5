"""Fewer masks for the same mean: even out which patches came by the masks that have large updates."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["balance"]

_PENALTY = 2.0
"""Of the ridge regression. From 0.5 to 8 it makes little difference, see docs/performance.md."""


def balance(hidden: Tensor, doubt: Tensor, kept: Tensor, others: Tensor) -> Tensor:
    """By what to multiply the mean update of each patch, to correct for chance in the masks that hid it.

    The size of an update is in proportion to the model's doubt, 1 - p(label), which differs from mask to mask by orders
    of magnitude; in a mean over a few masks, patches that happen to be hidden by the masks with large updates stand out
    for no other reason. But the logarithm of the doubt is nearly linear in the hidden patches, and so the masks that were
    tried tell roughly how large the updates under all other masks would be, without a run of the model. A ratio
    estimator (Cochran, Sampling Techniques, 1977, chapter 6) makes use of that: each patch's mean is multiplied by the
    predicted size, averaged over all masks, over that averaged over the masks that were tried. Where the prediction is
    poor, the mean stays what it is; with more masks, the factors go to 1.

    Args:
        hidden: Which patches each mask hides, boolean, shape ``(K, P)``.
        doubt: 1 - p(label) under each mask, in (0, 1], shape ``(K, N)`` for N images.
        kept: Under which masks the label was predicted, boolean, shape ``(K, N)``.
        others: What many masks of the same kind hide that the model need not see, boolean, shape ``(M, P)``.

    Returns:
        Factors around 1, shape ``(N, P)``; 1 for patches that were never hidden and images with no kept mask.

    Example:
        >>> import torch
        >>> hidden = torch.eye(4, dtype=torch.bool)[[0, 1, 1]]  # each mask hides one patch of four
        >>> doubt, kept = torch.full((3, 1), 0.1), torch.ones(3, 1, dtype=torch.bool)
        >>> balance(hidden, doubt, kept, torch.eye(4, dtype=torch.bool)).tolist()  # three quarters of one third is 1/4
        [[0.75, 0.375, 1.0, 1.0]]
    """
    dtype = doubt.dtype
    share = others.to(dtype).mean(0)
    features, other_features = hidden.to(dtype) - share, others.to(dtype) - share
    answers = torch.cat([doubt.clamp(min=torch.finfo(dtype).tiny).log(), kept.to(dtype)], dim=1)
    centre = answers.mean(0)
    gram = features @ features.T + _PENALTY * torch.eye(len(features), dtype=dtype, device=features.device)
    slopes = features.T @ torch.linalg.solve(gram, answers - centre)

    def sizes(features: Tensor) -> Tensor:
        log_doubt, keep = (centre + features @ slopes).chunk(2, dim=1)
        return log_doubt.clamp(max=0).exp() * keep.clamp(0, 1)

    wanted = sizes(other_features).T @ others.to(dtype) / len(others)
    had = sizes(features).T @ hidden.to(dtype) / len(hidden)
    return torch.where((had > 0) & (wanted > 0), wanted / had, torch.ones_like(had))
