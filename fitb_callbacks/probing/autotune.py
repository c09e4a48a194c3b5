"""Find the chunk size and memory format in which a model is fastest, while it is being probed."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from fitb_callbacks.models.chunks import is_out_of_memory, usual_chunk_size
from fitb_callbacks.models.logits import LogitsFn

__all__ = ["Plan", "Tuner", "tuner_for"]

_LOSS_SHARE = 0.15
"""Share of the time so far that may be lost to plans slower than the best; the one that is under way comes on top."""

_BETTER = 1.02
"""Gains below this are noise."""

_HOPELESS = 3
"""How many times slower than the best a plan's first block shows it to be of no use."""

_CLEAR = 1.2
"""A difference that one run each is enough to tell."""

_RUNS = 2
"""Runs of each plan that are compared otherwise. The fastest counts: other programs can only make a run slower."""

_PATIENCE = 1
"""Sizes that may be no better before the search turns round: a noisy moment should not end it."""

_LARGEST_CHUNK = 8192

_ROUNDING = 0.25
"""How far updates may differ between memory formats, relative to their size. Half precision makes up to some
hundredths; code that mistakes one format for the other makes more than 1."""

_CHECKED_PAIRS = 16


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
        _, channels, height, width = images.shape
        if images.stride() == (height * width * channels, 1, width * channels, channels):
            return images
        last = images.movedim(1, -1)
        return last.flatten().view(last.shape).movedim(-1, 1)


class Tuner:
    """Searches for the fastest plan while a model is being probed, by timing blocks of work that has to be done anyway.

    The search starts from a usual chunk. It compares the memory formats there if that is worth trying, then doubles the
    chunk as long as that helps, or halves it, and compares the formats again. Nothing is done twice, so all that it
    costs is the time by which plans that are tried are slower than the best. When that comes to more than a sixth of
    the time so far, it goes on with the best plan for a while. It goes on in the next probe of the model where it
    stopped in this one.

    Args:
        usual: Where the search starts.
        formats: Whether to try the other memory format.

    Attributes:
        best: The fastest plan so far.

    Example:
        >>> tuner = Tuner(Plan(chunk_size=64), formats=False)
        >>> while tuner.searching:
        ...     plan = tuner.next_plan()
        ...     tuner.record(plan, pairs=1000, seconds=1.0 if plan.chunk_size == 128 else 2.0)
        >>> tuner.best
        Plan(chunk_size=128, channels_last=False)
    """

    def __init__(self, usual: Plan, *, formats: bool) -> None:
        self.best = usual
        self._usual_format = usual.channels_last
        self._formats_agree: bool | None = None
        self._spent = self._lost = 0.0
        self._best_rate = math.inf  # seconds a pair
        self._search = self._steps(formats)
        self._trial: Plan | None = next(self._search)

    @property
    def searching(self) -> bool:
        """Whether a candidate is left to try."""
        return self._trial is not None

    def next_plan(self, updates_with: Callable[[Plan], Tensor] | None = None) -> Plan:
        """The plan for the next block of work.

        Args:
            updates_with: Finds a few updates with a plan, always the same ones. Before the other memory format is used
                for work that counts, the updates in both are compared: a model that fails on it, or takes one format
                for the other, gets none of it. None trusts both.
        """
        if self._trial is None or self._lost > _LOSS_SHARE * self._spent:
            return self.best
        if self._trial.channels_last != self._usual_format:
            if self._formats_agree is None:
                self._formats_agree = updates_with is None or _agree(updates_with, self._trial)
            if not self._formats_agree:
                self._answer(math.inf)
                return self.next_plan()
        return self._trial

    def record(self, plan: Plan, *, pairs: int, seconds: float, all_there_is: bool = False) -> None:
        """Record how long a block of work took.

        Args:
            plan: The one it was done with.
            pairs: How many masked images it was.
            seconds: How long it took; infinite if it did not fit into memory.
            all_there_is: Whether there was no more work to be put into the block.
        """
        rate = seconds / pairs
        if math.isfinite(seconds):
            self._spent += seconds
            if plan != self.best and math.isfinite(self._best_rate):
                self._lost += max(0.0, seconds - pairs * self._best_rate)
        # A block at the end of the work may be much smaller than the plan's, and says little about it.
        if plan != self._trial:
            return
        if 2 * pairs > plan.chunk_size:
            self._answer(rate)
        elif all_there_is and math.isfinite(self._best_rate):  # no chunk will ever be so large
            self._answer(math.inf)
        elif all_there_is:  # there is so little to do that nothing can be gained
            self._trial = None

    def _answer(self, rate: float) -> None:
        try:
            self._trial = self._search.send(rate)
        except StopIteration:
            self._trial = None

    def _steps(self, formats: bool) -> Generator[Plan, float, None]:
        """The search: yields the plan to try next, and is sent the seconds a pair that it took."""
        usual = self.best
        yield usual  # the first block in a process is slow whatever its plan
        self._best_rate = yield usual
        if formats:
            yield from self._try(replace(self.best, channels_last=not self.best.channels_last))
        for factor in (2, 0.5):
            size, misses = self.best.chunk_size, 0
            while misses <= _PATIENCE and 1 <= (size := int(size * factor)) <= _LARGEST_CHUNK:
                better = yield from self._try(replace(self.best, chunk_size=size))
                misses = 0 if better else misses + 1
            if self.best.chunk_size > usual.chunk_size:
                break  # larger was better, so smaller is not
        if formats and self.best.chunk_size != usual.chunk_size:
            # Weights are reordered for every chunk, which is expensive in small ones.
            yield from self._try(replace(self.best, channels_last=not self.best.channels_last))

    def _try(self, other: Plan) -> Generator[Plan, float, bool]:
        """Compare another plan with the best one, in turn, so that a busy moment of the machine hits both."""
        best_rate = other_rate = math.inf
        # The first run of a plan also prepares kernels, which takes long on a GPU, so it is not counted
        if (yield other) > _HOPELESS * self._best_rate and (yield other) > _HOPELESS * self._best_rate:
            return False
        for _ in range(_RUNS):
            best_rate = min(best_rate, (yield self.best))
            other_rate = min(other_rate, (yield other))
            if not best_rate / _CLEAR < other_rate < best_rate * _CLEAR:
                break
        better = other_rate * _BETTER < best_rate
        self.best = other if better else self.best
        self._best_rate = min(best_rate, other_rate)
        return better


_tuners: WeakKeyDictionary[nn.Module, dict[Any, Tuner]] = WeakKeyDictionary()


def tuner_for(model: nn.Module, images: Tensor, logits_fn: LogitsFn | None = None) -> Tuner:
    """The tuner for a model, an image size and a device: a new one, or the one of its last probe.

    It is remembered as long as the model lives.

    Args:
        model: The classifier.
        images: The probe images on their device, shape ``(N, C, H, W)``.
        logits_fn: With what the model is called, if not directly.

    Example:
        >>> import torch
        >>> model, images = torch.nn.Flatten(), torch.rand(4, 1, 8, 8)
        >>> tuner_for(model, images) is tuner_for(model, images), tuner_for(model, images).best
        (True, Plan(chunk_size=1024, channels_last=False))
    """
    device = images.device
    autocast = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None
    called = getattr(logits_fn, "__code__", type(logits_fn))  # the same for a lambda that is made again
    key = (tuple(images.shape[1:]), images.dtype, device, autocast, torch.get_num_threads(), called)
    tuners = _tuners.setdefault(model, {})
    if key not in tuners:
        convolves = any(parameter.ndim == 4 for parameter in model.parameters())
        tuners[key] = Tuner(Plan(usual_chunk_size(images)), formats=convolves)
    return tuners[key]


def _agree(updates_with: Callable[[Plan], Tensor], plan: Plan) -> bool:
    """Whether a few updates are the same in both memory formats."""
    plan = replace(plan, chunk_size=min(plan.chunk_size, _CHECKED_PAIRS))
    try:
        expected = updates_with(replace(plan, channels_last=not plan.channels_last))
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):  # the work itself gets by with smaller chunks
            return False
        raise
    try:
        found = updates_with(plan)
    except Exception:  # noqa: BLE001 - a model may well take images in one format only, and raise anything
        return False
    return bool((found - expected).norm() <= _ROUNDING * expected.norm())
