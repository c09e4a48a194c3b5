"""Preserve random number generators, and draw random numbers from keys instead."""

from __future__ import annotations

import random
import sys
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

import torch
from torch import Tensor

__all__ = ["hash_integers", "isolate_rng", "keyed_uniform"]

_UINT32 = 0xFFFFFFFF
_GOLDEN = 0x9E3779B9
_Integers = TypeVar("_Integers", Tensor, int)


@contextmanager
def isolate_rng(devices: Collection[torch.device] = (), *, seed: int | None = None) -> Iterator[None]:
    """Restore the random number generators of Python, NumPy and torch (CPU and these devices) afterwards.

    With a seed, those on the CPU start from it: what is drawn inside is the same on all processes.
    """
    python_state = random.getstate()
    numpy = sys.modules.get("numpy")
    numpy_state = numpy.random.get_state() if numpy is not None else None
    with ExitStack() as stack:
        by_type: dict[str, list[torch.device]] = {}
        for device in devices:
            by_type.setdefault(device.type, []).append(device)
        stack.enter_context(torch.random.fork_rng(devices=[]))
        for device_type, of_type in by_type.items():
            if device_type != "meta":
                stack.enter_context(torch.random.fork_rng(devices=of_type, device_type=device_type))
        if seed is not None:
            random.seed(seed)
            torch.default_generator.manual_seed(seed)
            if numpy is not None:
                numpy.random.seed(seed)
        try:
            yield
        finally:
            random.setstate(python_state)
            if numpy is not None:
                numpy.random.set_state(numpy_state)


def hash_integers(values: _Integers) -> _Integers:
    """Mix integers to 32 well-spread bits each.

    A counter-based hash rather than a Generator, whose stream differs between CPU and GPU and has to be drawn in
    order: this gives any number of a sequence directly, everywhere the same. Shift-multiply steps with multipliers
    below 2**31 keep every product inside int64.

    Args:
        values: Integers, Python's or an int64 tensor.

    Returns:
        Integers in [0, 2**32), of the same kind and shape.

    Example:
        >>> import torch
        >>> hash_integers(torch.tensor([0, 1])).tolist() == [hash_integers(0), hash_integers(1)]
        True
    """
    values = values & _UINT32  # a copy, which the rest is done in
    for shift, multiplier in ((16, 0x21F0AAAD), (15, 0x735A2D97)):
        values ^= values >> shift
        values *= multiplier
        values &= _UINT32
    values ^= values >> 15
    return values


def keyed_uniform(keys: Tensor, size: int) -> Tensor:
    """Uniform random numbers that depend on their keys alone: the same on any device and in any order.

    Args:
        keys: Integers, int64, shape ``(B,)``. Different keys give independent rows.
        size: Numbers a key.

    Returns:
        Numbers in (0, 1), float32, shape ``(B, size)``, on the keys' device.

    Example:
        >>> import torch
        >>> rows = keyed_uniform(torch.tensor([3, 8]), 1000)
        >>> torch.equal(rows[1], keyed_uniform(torch.tensor([8]), 1000)[0]), round(rows.mean().item(), 1)
        (True, 0.5)
    """
    counters = hash_integers(torch.arange(size, device=keys.device) + _GOLDEN)
    bits = hash_integers(hash_integers(keys).unsqueeze(1) ^ counters)
    # 23 bits and half a step are what float32 holds exactly, and keep 0 and 1 out.
    return ((bits >> 9).float() + 0.5) / 2**23
