"""The time, once a device has done what it was given."""

from __future__ import annotations

import time

import torch

__all__ = ["seconds_on"]


def seconds_on(device: torch.device) -> float:
    """Seconds since some moment in the past, when all work given to the device before is done.

    Example:
        >>> seconds_on(torch.device("cpu")) <= seconds_on(torch.device("cpu"))
        True
    """
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()
    return time.perf_counter()
