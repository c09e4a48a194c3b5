"""The chunk size and memory format in which a model is fastest on this machine, found by trying them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from fitb_callbacks.blocks import is_out_of_memory, usual_chunk_size
from fitb_callbacks.clock import seconds_on, working_seconds_on
from fitb_callbacks.memory_format import bytes_of_copies, channels_last_weights

__all__ = ["Plan", "fastest_plan"]

_SHARE = 5
"""Calibration costs at most one part in so many of the masked images of the first probe."""

_TIME_SHARE = 10
"""And begins nothing new after one part in so many of its time limit."""

_BETTER = 1.02
"""Gains below this are noise."""

_TIMES = 3
"""Runs that are compared; the best one counts, since what else goes on can only make a run slower."""

_MEMORY = 0.1
"""Largest share of a chunk's own memory that copies of weights may take."""

_LARGEST_CHUNK = 8192


@dataclass(frozen=True)
class Plan:
    """How masked images go through a model.

    Attributes:
        chunk_size: How many at once.
        channels_last: Whether convolutions run in channels-last format, see `fitb_callbacks.memory_format`.
    """

    chunk_size: int
    channels_last: bool = False

    def format_of(self, model: nn.Module) -> AbstractContextManager[None]:
        """The context in which the model runs in this plan's format."""
        return channels_last_weights(model) if self.channels_last else nullcontext()


_plans: WeakKeyDictionary[nn.Module, dict[Any, Plan]] = WeakKeyDictionary()


def fastest_plan(
    model: nn.Module, images: Tensor, attempt: Callable[[int], int], *, planned: int, seconds: float | None = None
) -> Plan:
    """The fastest plan for a model, an image size and a device, tried once and remembered as long as the model lives.

    The search starts from a usual chunk, compares the formats there, then doubles the chunk as long as that helps, or
    halves it. It takes at most a fifth of the masked images that the probe is going to need, and about a tenth of its
    time limit; for probes so small that nothing can be tried within that, it is the usual chunk in the model's own
    format.

    Args:
        model: The classifier.
        images: The probe images on their device, shape ``(N, C, H, W)``.
        attempt: Puts about so many masked images through the model as a probe does, once; returns how many they were.
            What it computes is thrown away.
        planned: How many masked images the probe is going to put through.
        seconds: The probe's time limit.

    Example:
        >>> import torch
        >>> model = torch.nn.Flatten()
        >>> fastest_plan(model, torch.rand(4, 1, 8, 8), lambda size: size, planned=64)
        Plan(chunk_size=1024, channels_last=False)
    """
    device = images.device
    autocast = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None
    key = (tuple(images.shape[1:]), images.dtype, device, autocast, torch.get_num_threads())
    plans = _plans.setdefault(model, {})
    if key not in plans:
        usual = Plan(usual_chunk_size(images))
        trial = _Trial(
            model,
            attempt,
            device,
            allowance=planned // _SHARE,
            deadline=seconds_on(device) + (torch.inf if seconds is None else seconds / _TIME_SHARE),
        )
        if not trial.allows(usual, usual):
            return usual
        copies = bytes_of_copies(model)
        small = 0 < copies <= _MEMORY * _saved_bytes(model, partial(attempt, usual.chunk_size))
        plans[key] = _search(trial, usual, formats=(False, True) if small else (False,))
    return plans[key]


def _search(trial: _Trial, best: Plan, *, formats: Sequence[bool]) -> Plan:
    """The fastest plan that can be found from a first one."""
    for channels_last in formats[1:]:
        other = replace(best, channels_last=channels_last)
        best = other if trial.is_faster(other, best) else best
    first = best.chunk_size
    for factor in (2, 0.5):
        while 1 <= best.chunk_size * factor <= _LARGEST_CHUNK:
            other = replace(best, chunk_size=int(best.chunk_size * factor))
            if not trial.is_faster(other, best):
                break
            best = other
        if best.chunk_size > first:
            break  # larger was better, so smaller is not
    return best


def _saved_bytes(model: nn.Module, work: Callable[[], object]) -> int:
    """What a forward pass keeps for the backward pass, weights aside."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        work()
    return sum(saved.values())


class _Trial:
    """Compares plans, as long as an allowance of masked images and a deadline last."""

    def __init__(
        self,
        model: nn.Module,
        attempt: Callable[[int], int],
        device: torch.device,
        *,
        allowance: int,
        deadline: float,
    ) -> None:
        self._model = model
        self._attempt = attempt
        self._device = device
        self._allowance = allowance
        self._deadline = deadline

    def allows(self, *plans: Plan) -> bool:
        """Whether these may still be compared."""
        return self._cost(plans) <= self._allowance and seconds_on(self._device) < self._deadline

    def is_faster(self, other: Plan, best: Plan) -> bool:
        """Whether another plan is faster than the best one so far; not, if it cannot be told any more."""
        if not self.allows(other, best):
            return False
        self._allowance -= self._cost((other, best))
        try:
            for plan in (other, best):
                self._speed(plan)  # prepares kernels
            # in turn, so that a busy moment of the machine hits both
            speeds = [(self._speed(other), self._speed(best)) for _ in range(_TIMES)]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return False
        return max(speed for speed, _ in speeds) > max(speed for _, speed in speeds) * _BETTER

    def _speed(self, plan: Plan) -> float:
        with plan.format_of(self._model):
            started = working_seconds_on(self._device)
            number = self._attempt(plan.chunk_size)
            return number / max(working_seconds_on(self._device) - started, 1e-9)

    @staticmethod
    def _cost(plans: Sequence[Plan]) -> int:
        return (1 + _TIMES) * sum(plan.chunk_size for plan in plans)
