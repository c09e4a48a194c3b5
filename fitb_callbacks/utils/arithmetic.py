"""Arithmetic that stays defined at zero."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["safe_divide"]


def safe_divide(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Divide, giving 0 where the denominator is 0. NaN in either stays NaN.

    Args:
        numerator: Any shape that broadcasts against the denominator; finite where the denominator is 0.
        denominator: Floating point or integers.

    Returns:
        The quotient, floating point.

    Example:
        >>> import torch
        >>> safe_divide(torch.tensor([1.0, 3.0]), torch.tensor([0.0, 2.0])).tolist()
        [0.0, 1.5]
    """
    # Dividing by infinity rather than choosing afterwards: the numerator, often far larger, is passed over only once.
    return numerator / denominator.where(denominator != 0, torch.inf)
