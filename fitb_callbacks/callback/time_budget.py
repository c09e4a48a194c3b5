"""How many masks a probe may take, so that it costs at most a given share of an epoch."""

from __future__ import annotations

import dataclasses
import math
import time

from fitb_callbacks.probing.probe import FillInBlanks
from fitb_callbacks.probing.result import FillInBlanksResult
from fitb_callbacks.utils.distributed import all_reduce_max
from fitb_callbacks.utils.validation import check_number_between

__all__ = ["TimeBudget"]

_PATIENCE = 1.5
"""How far later probes may exceed the budget before masks are cut again; times vary from epoch to epoch."""


class TimeBudget:
    """Keeps the time of the probes under a share of the time of the epochs.

    The first probe finds out how many masks there is time for. The later ones keep to that number, so that the scores
    of all epochs compare, also after a resume; it only ever becomes smaller, if they take half as long again.

    Args:
        max_overhead: The share, above 0. None sets no limit.

    Raises:
        ValueError: If the share is not above 0.
        TypeError: If it is no number.

    Example:
        >>> budget = TimeBudget(0.05)
        >>> budget.epoch_begins()
        >>> budget.epoch_ends(world_size=1)
        >>> budget.limited(FillInBlanks()) == FillInBlanks(), budget.seconds_for("random", num_probes=1) < 0.05
        (True, True)
    """

    def __init__(self, max_overhead: float | None) -> None:
        if max_overhead is not None:
            check_number_between("max_overhead", max_overhead, 0, math.inf)
        self.max_overhead = max_overhead
        self._began: float | None = None
        self._epoch = math.nan
        self._masks: dict[str, int] = {}  # by masking

    def epoch_begins(self) -> None:
        """Start the clock."""
        self._began = time.perf_counter()

    def epoch_ends(self, world_size: int) -> None:
        """Take the time of the epoch, the same on every process; called right before the probe."""
        elapsed = math.nan if self._began is None else time.perf_counter() - self._began
        (self._epoch,) = all_reduce_max([elapsed], world_size)

    def limited(self, probe: FillInBlanks) -> FillInBlanks:
        """The probe with as many masks as there was time for so far."""
        affordable = self._masks.get(probe.masking, probe.num_masks)
        return dataclasses.replace(probe, num_masks=min(probe.num_masks, affordable))

    def seconds_for(self, masking: str, *, num_probes: int) -> float | None:
        """The time limit of a probe with this masking, one of several; None for no limit."""
        if self.max_overhead is None or math.isnan(self._epoch):
            return None
        patience = _PATIENCE if masking in self._masks else 1.0
        return self.max_overhead * self._epoch * patience / num_probes

    def learn_from(self, probe: FillInBlanks, result: FillInBlanksResult, seconds: float) -> str | None:
        """Keep to the number of masks that a probe had time for; if it had not for all, a line that says so.

        Args:
            probe: As `limited` gave it.
            result: What it found.
            seconds: The time it took.
        """
        made = int(result.tried.max())
        if not result.out_of_time:
            self._masks.setdefault(probe.masking, probe.num_masks)
            return None
        self._masks[probe.masking] = made
        share = self.overhead(seconds)
        assert self.max_overhead is not None
        if share > _PATIENCE * self.max_overhead:
            reason = f"an epoch of {self._epoch:.2g} s is too short for more; even these take {share:.0%} of it"
        else:
            reason = "it stays at these from now on, so that the scores of all epochs compare"
        return (
            f"max_overhead={self.max_overhead} leaves time for {made} of {probe.num_masks} {probe.masking} masks an "
            f"image: {reason}"
        )

    def overhead(self, seconds: float) -> float:
        """What share of the epoch a time is; NaN where the epoch's time is not known."""
        return seconds / self._epoch if self._epoch > 0 else math.nan

    def state_dict(self) -> dict[str, int]:
        """The numbers of masks."""
        return dict(self._masks)

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Go on with the same numbers of masks."""
        self._masks = dict(state_dict)
