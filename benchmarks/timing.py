"""Times that other programs on the machine disturb little."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

__all__ = ["Clock", "cpu_seconds", "medians"]

Clock = Callable[[], float]
"""Seconds since some moment."""


def cpu_seconds(run: Callable[[], object], clock: Clock = time.process_time) -> float:
    """CPU seconds of this process for one run, unless another clock is given."""
    started = clock()
    run()
    return clock() - started


def medians(
    candidates: Mapping[str, Callable[[], object]], rounds: int, clock: Clock = time.process_time
) -> dict[str, float]:
    """Median seconds of each, taken in turn; the first round is not counted."""
    taken = [{name: cpu_seconds(run, clock) for name, run in candidates.items()} for _ in range(rounds + 1)][1:]
    return {name: statistics.median(each[name] for each in taken) for name in candidates}
