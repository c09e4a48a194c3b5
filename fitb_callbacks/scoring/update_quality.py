"""Measure how broad a mean update is, and how reliable."""

from __future__ import annotations

from torch import Tensor

from fitb_callbacks.utils.arithmetic import safe_divide

__all__ = ["effective_area", "split_half_reliability"]


def effective_area(updates: Tensor) -> Tensor:
    """Share of the image over which the positive part of an update is spread (its participation ratio).

    ``(sum u)^2 / (n sum u^2)`` over the n values of an image: 1 for an update that is the same everywhere, 1 / n for
    a single pixel, 1 / pi = 0.32 for Gaussian noise.

    Args:
        updates: Shape ``(N, C, H, W)``.

    Returns:
        Values in [0, 1], shape ``(N,)``; 0 for an update without a positive part.

    Example:
        >>> import torch
        >>> effective_area(torch.tensor([1.0, -5.0, 1.0, 0.0]).view(1, 1, 2, 2)).item()
        0.5
    """
    ink = updates.flatten(1).clamp(min=0)
    ink = safe_divide(ink, ink.amax(dim=1, keepdim=True))  # squares of gradients underflow
    return safe_divide(ink.sum(1).square(), ink.shape[1] * ink.square().sum(1))


def split_half_reliability(first: Tensor, second: Tensor) -> Tensor:
    """Estimate how well other masks would reproduce a mean update.

    The correlation over pixels of the means of two halves of the masks, stepped up to the mean of both halves by the
    Spearman-Brown formula ``2 r / (1 + r)``.

    Args:
        first: Mean updates of one half, shape ``(N, C, H, W)``.
        second: Mean updates of the other half, same shape.

    Returns:
        Values up to 1, shape ``(N,)``; NaN where a half is flat, as when it kept no mask, and 0 where the halves are
        not positively correlated.

    Example:
        >>> import torch
        >>> first = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 1, 2, 2)
        >>> round(split_half_reliability(first, 2 * first).item(), 6)
        1.0
    """
    first, second = _standard(first), _standard(second)
    correlation = (first * second).mean(dim=1).clamp(min=0, max=1)
    return 2 * correlation / (1 + correlation)


def _standard(updates: Tensor) -> Tensor:
    """Each update with mean 0 and standard deviation 1 over its pixels; NaN if it is flat."""
    flat = updates.flatten(1)
    flat = flat / flat.abs().amax(dim=1, keepdim=True)  # first of all, since squares of gradients underflow
    flat = flat - flat.mean(dim=1, keepdim=True)
    return flat / flat.square().mean(dim=1, keepdim=True).sqrt()
