"""The chunk size and memory format in which a model is fastest on this machine, found by trying them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from fitb_callbacks.models.chunks import is_out_of_memory, usual_chunk_size
from fitb_callbacks.models.logits import LogitsFn
from fitb_callbacks.utils.devices import seconds_on, working_seconds_on

__all__ = ["Attempt", "Plan", "fastest_plan"]

_SHARE = 5
"""Calibration costs at most one part in so many of the masked images of the first probe."""

_TIME_SHARE = 10
"""And begins nothing new after one part in so many of its time limit."""

_BETTER = 1.02
"""Gains below this are noise."""

_TIMES = 3
"""Runs that are compared; the best one counts, since what else goes on can only make a run slower."""

_ROUNDING = 0.25
"""How far the updates of one chunk may be apart in two memory formats, as a share of their size. Half precision makes
up to some hundredths; code that mistakes one format for the other makes more than 1."""

_PATIENCE = 1
"""Sizes that may be no better before the search turns round: a noisy moment should not end it."""

_LARGEST_CHUNK = 8192


@dataclass(frozen=True)
class Plan:
    """How masked images go through a model.

    Attributes:
        chunk_size: How many at once.
        channels_last: Whether images come in channels-last format, in which convolutions leave their results too. The
            values are the same, and results but for rounding; no weight is touched.
    """

    chunk_size: int
    channels_last: bool = False

    def formatted(self, images: Tensor) -> Tensor:
        """Images ``(B, C, H, W)`` in this plan's format."""
        if not self.channels_last:
            return images
        # Not contiguous(memory_format=...): with one channel, strides of either format pass for both, and convolutions
        # look at the strides. Like this they are of the format, and nothing is copied for one channel.
        last = images.movedim(1, -1)
        return last.flatten().view(last.shape).movedim(-1, 1)


Attempt = Callable[[Plan], tuple[int, Tensor]]
"""Puts one chunk of masked images through the model as a probe does. Returns how many they were, which may be less than
the plan's chunk size, and their mean updates, which are compared between formats and thrown away."""

_plans: WeakKeyDictionary[nn.Module, dict[Any, Plan]] = WeakKeyDictionary()


def fastest_plan(  # noqa: PLR0913 - what is probed, and how much may be spent
    model: nn.Module,
    images: Tensor,
    attempt: Attempt,
    *,
    planned: int,
    seconds: float | None = None,
    logits_fn: LogitsFn | None = None,
) -> Plan:
    """The fastest plan for a model, an image size and a device, tried once and remembered as long as the model lives.

    The search starts from a usual chunk, compares the formats there if there are convolutions, then doubles the chunk
    as long as that helps, or halves it, and compares the formats again. It takes at most a fifth of the masked images
    that the probe is going to need, and about a tenth of its time limit; for probes so small that nothing can be tried
    within that, it is the usual chunk in the usual format. A model that fails on channels-last images, or takes them
    for something else, gets none.

    Args:
        model: The classifier.
        images: The probe images on their device, shape ``(N, C, H, W)``.
        attempt: See `Attempt`.
        planned: How many masked images the probe is going to put through.
        seconds: The probe's time limit.
        logits_fn: With what the model is called, if not directly.

    Example:
        >>> import torch
        >>> model, images = torch.nn.Flatten(), torch.rand(4, 1, 8, 8)
        >>> fastest_plan(model, images, lambda plan: (plan.chunk_size, images), planned=64)
        Plan(chunk_size=1024, channels_last=False)
    """
    device = images.device
    autocast = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None
    called = getattr(logits_fn, "__code__", type(logits_fn))  # the same for a lambda that is made again
    key = (tuple(images.shape[1:]), images.dtype, device, autocast, torch.get_num_threads(), called)
    plans = _plans.setdefault(model, {})
    if key not in plans:
        usual = Plan(usual_chunk_size(images))
        trial = _Trial(
            attempt,
            device,
            allowance=planned // _SHARE,
            deadline=seconds_on(device) + (torch.inf if seconds is None else seconds / _TIME_SHARE),
        )
        if not trial.allows(usual, usual):
            return usual
        convolves = any(parameter.ndim == 4 for parameter in model.parameters())
        plans[key] = _search(trial, usual, formats=convolves)
    return plans[key]


def _search(trial: _Trial, usual: Plan, *, formats: bool) -> Plan:
    """The fastest plan that can be found from a first one."""
    best = _other_format(trial, usual) if formats else usual
    for factor in (2, 0.5):
        size, misses = best.chunk_size, 0
        while misses <= _PATIENCE and 1 <= (size := int(size * factor)) <= _LARGEST_CHUNK:
            other = replace(best, chunk_size=size)
            faster = trial.is_faster(other, best)
            best, misses = (other, 0) if faster else (best, misses + 1)
        if best.chunk_size > usual.chunk_size:
            break  # larger was better, so smaller is not
    # Weights are reordered for every chunk, which is dear in small ones.
    return _other_format(trial, best) if formats and best.chunk_size != usual.chunk_size else best


def _other_format(trial: _Trial, best: Plan) -> Plan:
    other = replace(best, channels_last=not best.channels_last)
    return other if trial.is_faster(other, best) else best


class _Trial:
    """Compares plans, as long as an allowance of masked images and a deadline last."""

    def __init__(
        self,
        attempt: Attempt,
        device: torch.device,
        *,
        allowance: int,
        deadline: float,
    ) -> None:
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
            found, expected = (self._attempt(plan)[1] for plan in (other, best))  # which also prepares kernels
            if other.channels_last != best.channels_last and not _same(found, expected):
                return False
            # in turn, so that a busy moment of the machine hits both
            speeds = [(self._speed(other), self._speed(best)) for _ in range(_TIMES)]
        except Exception as error:
            # A model may well take images in one format only. What is wrong in its own will show in the probe.
            if other.channels_last == best.channels_last and not is_out_of_memory(error):
                raise
            return False
        return max(speed for speed, _ in speeds) > max(speed for _, speed in speeds) * _BETTER

    def _speed(self, plan: Plan) -> float:
        started = working_seconds_on(self._device)
        number, _ = self._attempt(plan)
        return number / max(working_seconds_on(self._device) - started, 1e-9)

    @staticmethod
    def _cost(plans: Sequence[Plan]) -> int:
        return (1 + _TIMES) * sum(plan.chunk_size for plan in plans)


def _same(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).norm() <= _ROUNDING * expected.norm())
