"""Leave the random number generators as they were."""

from __future__ import annotations

import random
import sys
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager

import torch

__all__ = ["isolate_rng"]


@contextmanager
def isolate_rng(devices: Collection[torch.device] = ()) -> Iterator[None]:
    """Put back the random number generators of Python, NumPy and torch (CPU and these devices) afterwards."""
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
        try:
            yield
        finally:
            random.setstate(python_state)
            if numpy is not None:
                numpy.random.set_state(numpy_state)
