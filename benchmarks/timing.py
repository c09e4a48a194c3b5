"""Times that other programs on the machine disturb little."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

__all__ = ["cpu_seconds", "medians"]


def cpu_seconds(run: Callable[[], object]) -> float:
    """CPU seconds of this process for one run."""
    started = time.process_time()
    run()
    return time.process_time() - started


def medians(candidates: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median CPU seconds of each, taken in turn; the first round is not counted."""
    taken = [{name: cpu_seconds(run) for name, run in candidates.items()} for _ in range(rounds + 1)][1:]
    return {name: statistics.median(each[name] for each in taken) for name in candidates}
