"""The time, once a device has done what it was given."""

from __future__ import annotations

import time

import torch

__all__ = ["seconds_on", "working_seconds_on"]


def seconds_on(device: torch.device) -> float:
    """Seconds since some moment in the past, when all work given to the device before is done.

    Example:
        >>> seconds_on(torch.device("cpu")) <= seconds_on(torch.device("cpu"))
        True
    """
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()
    return time.perf_counter()


def working_seconds_on(device: torch.device) -> float:
    """As `seconds_on`, but on a CPU only the time in which this thread ran: other programs do not make it longer.

    Example:
        >>> working_seconds_on(torch.device("cpu")) <= working_seconds_on(torch.device("cpu"))
        True
    """
    return time.thread_time() if device.type == "cpu" else seconds_on(device)
