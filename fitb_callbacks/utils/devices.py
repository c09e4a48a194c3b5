"""Devices by name, clocks that wait for them, and glibc's handling of freed memory."""

from __future__ import annotations

import time
from contextlib import suppress

import torch

__all__ = ["device_named", "keep_freed_memory", "seconds_on", "working_seconds_on"]

_KEPT_BYTES = 2**25 - 2**12
"""Just under the 32 MiB up to which glibc learns from a freed block; see DEFAULT_MMAP_THRESHOLD_MAX in mallopt(3)."""


def device_named(name: str, *, place: int = 0) -> torch.device:
    """The device of this name, which is there.

    Args:
        name: As torch has it, such as "cpu", "cuda:1" or "mps"; or "auto" for CUDA if there is any, else the CPU.
        place: Number of this process on its machine: "cuda" without a number means one of its own to each process, as
            far as there are enough.

    Raises:
        ValueError: If there is no such device here.

    Example:
        >>> device_named("cpu")
        device(type='cpu')
    """
    cuda = torch.cuda.is_available()
    there = ["cpu", *["cuda"] * cuda, *["mps"] * torch.backends.mps.is_available()]
    device = _parsed(("cuda" if cuda else "cpu") if name == "auto" else name)
    number = torch.cuda.device_count()
    if device is None or device.type not in there or (device.type == "cuda" and (device.index or 0) >= number):
        raise ValueError(f"device must be auto or one that is here ({', '.join(there)}); got {name!r}")
    if str(device) == "cuda":
        device = torch.device("cuda", place % number)
    return device


def _parsed(name: str) -> torch.device | None:
    try:
        return torch.device(name)
    except RuntimeError:  # a name that torch does not know
        return None


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


def keep_freed_memory(device: torch.device) -> None:
    """Have the C library keep freed memory, up to 64 MiB, for the next chunk instead of returning it to the system.

    A probe frees the activations of one chunk and allocates as many for the next. Under glibc, blocks of more than
    128 KiB go back to the system when they are freed, and each page of the next chunk is then zeroed anew: up to a
    quarter of a small network's time. But glibc learns: once it sees a large block freed, it keeps blocks of that size
    and twice as much at the end of the heap. So one is allocated and freed here, of which no page is ever touched.
    A training teaches the same as soon as it frees such a tensor. Elsewhere than under glibc, and on other devices,
    nothing comes of it.

    Args:
        device: Where the model is.

    Example:
        >>> keep_freed_memory(torch.device("cpu"))
    """
    if device.type == "cpu":
        with suppress(RuntimeError, MemoryError):  # where there is not even so much, the probe makes do with less
            torch.empty(_KEPT_BYTES, dtype=torch.uint8)
