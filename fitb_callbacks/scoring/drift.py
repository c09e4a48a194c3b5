"""Measure how far the learned structure has moved since an earlier probe."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["class_means", "drift"]


def class_means(updates: Tensor, labels: Tensor, covered: Tensor, *, num_classes: int) -> Tensor:
    """Mean update of each class, every image's update scaled to norm 1 first.

    Args:
        updates: Shape ``(N, C, H, W)``.
        labels: Integers in [0, num_classes), shape ``(N,)``.
        covered: Boolean, shape ``(N,)``.
        num_classes: Number of classes.

    Returns:
        Shape ``(num_classes, C, H, W)``; zero for a class without a covered image.

    Example:
        >>> import torch
        >>> updates = torch.tensor([2.0, 0.0, 0.0, 4.0]).view(2, 1, 1, 2)
        >>> class_means(updates, torch.tensor([0, 0]), torch.ones(2) > 0, num_classes=2).flatten(1).tolist()
        [[0.5, 0.5], [0.0, 0.0]]
    """
    labels = labels[covered]
    unit = F.normalize(updates[covered].flatten(1), eps=torch.finfo(updates.dtype).tiny)
    sums = unit.new_zeros(num_classes, unit.shape[1]).index_add_(0, labels, unit)
    number = labels.bincount(minlength=num_classes).clamp(min=1)
    return (sums / number.unsqueeze(1)).view(num_classes, *updates.shape[1:])


def drift(before: Tensor, now: Tensor) -> float:
    """How far the class-mean updates have turned since an earlier probe: 1 - cosine, averaged over classes.

    Args:
        before: `class_means` of the earlier probe, shape ``(classes, C, H, W)``.
        now: Those of this probe, same shape.

    Returns:
        Value in [0, 2]: 0 for the same direction, 1 for none in common. NaN if no class is covered in both.

    Example:
        >>> import torch
        >>> drift(torch.tensor([1.0, 0.0]).view(1, 1, 1, 2), torch.tensor([0.0, 3.0]).view(1, 1, 1, 2))
        1.0
    """
    before, now = before.flatten(1), now.flatten(1)
    both = (before != 0).any(dim=1) & (now != 0).any(dim=1)
    if not both.any():
        return math.nan
    return float((1 - F.cosine_similarity(before[both], now[both], eps=torch.finfo(now.dtype).tiny)).mean())
