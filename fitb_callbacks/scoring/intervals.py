"""Confidence intervals of rates and means."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["difference_interval", "mean_interval", "wilson_interval"]

_Z = 1.959963984540054  # 95 %


def wilson_interval(rate: float, number: int) -> tuple[float, float]:
    """The 95% interval of a share of independent cases (Wilson, 1927): within [0, 1], and honest for few cases.

    Args:
        rate: Observed share, in [0, 1].
        number: How many cases it is a share of.

    Returns:
        Lower and upper end; NaN for both if there is no case.

    Example:
        >>> [round(end, 3) for end in wilson_interval(1.0, 10)]
        [0.722, 1.0]
    """
    if number == 0 or math.isnan(rate):
        return math.nan, math.nan
    shrunk = _Z**2 / number
    centre = (rate + shrunk / 2) / (1 + shrunk)
    half = math.sqrt(rate * (1 - rate) * shrunk + shrunk**2 / 4) / (1 + shrunk)
    return max(0.0, min(rate, centre - half)), min(1.0, max(rate, centre + half))  # rounding must not leave it out


def mean_interval(values: Tensor) -> tuple[float, float, float]:
    """The mean of independent values, and the ends of its 95% interval (normal approximation).

    Args:
        values: Shape ``(N,)``.

    Returns:
        Mean, lower and upper end; NaN for all if there is no value, and for the ends if there is only one.

    Example:
        >>> import torch
        >>> [round(value, 2) for value in mean_interval(torch.tensor([0.0, 1.0, 0.5, 0.5]))]
        [0.5, 0.1, 0.9]
    """
    if not len(values):
        return math.nan, math.nan, math.nan
    mean = values.double().mean().item()
    if len(values) == 1:
        return mean, math.nan, math.nan
    half = _Z * values.double().std().item() / math.sqrt(len(values))
    return mean, mean - half, mean + half


def difference_interval(values: Tensor) -> tuple[float, float]:
    """The 95% interval of the mean of paired differences of rates, honest for few cases and for equal ones.

    One case is added at either end, as Agresti and Min (2005) do for paired shares: without them, cases that all agree
    would have an interval of no width.

    Args:
        values: One case's difference each, in [-1, 1], shape ``(N,)``.

    Returns:
        Lower and upper end, within [-1, 1] and around the mean; NaN for both if there is no case.

    Example:
        >>> import torch
        >>> [round(end, 2) for end in difference_interval(torch.ones(40))]
        [0.86, 1.0]
    """
    if not len(values):
        return math.nan, math.nan
    known = values.double()
    _, low, high = mean_interval(torch.cat((known, known.new_tensor([-1.0, 1.0]))))
    mean = known.mean().item()
    return max(-1.0, min(mean, low)), min(1.0, max(mean, high))
