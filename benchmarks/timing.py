"""Times that other programs on the machine disturb little."""

from __future__ import annotations

import statistics
import sys
import time
import unittest.mock
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

__all__ = ["Clock", "cpu_seconds", "medians", "without_reliance"]

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


@contextmanager
def without_reliance() -> Iterator[None]:
    """Probes make masked updates, means and prototypes alone, and not what the model relies on.

    Older trees, which do not know of that, are left as they are.
    """
    from fitb_callbacks import FillInBlanks

    probe = sys.modules[FillInBlanks.__module__]
    if not hasattr(probe, "relies_on"):
        yield
        return
    from fitb_callbacks.probing.shortcuts import ReliesOn

    nothing = ReliesOn({}, {}, *[None] * (len(ReliesOn._fields) - 2))  # an older version has fewer
    with unittest.mock.patch.object(probe, "relies_on", return_value=nothing):
        yield
