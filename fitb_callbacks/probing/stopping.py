"""When an image has had enough masks."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["StoppingRule"]

_FIRST_MASKS = 64
"""Masks before which nothing is decided: with fewer, prototypes are hardly worth a look."""

_GROWTH = 1.5
"""How much longer each stage is, from the first mask on, than the one before."""

_SAFETY = 0.9
"""Share of a time limit that is planned for; speed varies."""


@dataclass(frozen=True)
class StoppingRule:
    """Decides after how many updates the means are looked at, and which images then get more.

    Without a tolerance or a time limit there is a single stage of all updates. With one, updates come in stages, each
    half as long as all before it: the first of 64 masks, or of partitions with as many. The rule remembers nothing, so
    processes that ask it with the same numbers decide the same.

    Attributes:
        num_updates: Most updates of an image: masks, or partitions of progressive masking.
        round_length: How many consecutive updates depend on each other; stages are whole pairs of rounds.
        masks_per_update: 1, or the masks of a partition.
        tolerance: Relative standard error of a mean that is small enough. None makes all updates.
        seconds: Time limit. The first stage runs however long it takes.

    Example:
        >>> rule = StoppingRule(num_updates=256, round_length=4, tolerance=0.2)
        >>> [rule.stage_end(done) for done in (0, 64, 96, 144, 216)]
        [64, 96, 144, 216, 256]
        >>> StoppingRule(num_updates=256, round_length=4).stage_end(0)
        256
    """

    num_updates: int
    round_length: int = 1
    masks_per_update: int = 1
    tolerance: float | None = None
    seconds: float | None = None

    def stage_end(self, done: int, *, spent: float = 0.0, seconds_each: float = 0.0) -> int:
        """After how many updates the next stage ends.

        Args:
            done: How many updates there have been.
            spent: Seconds since the time limit began to count.
            seconds_each: Seconds that one more update of all remaining images is going to take.

        Returns:
            A number from ``done`` to ``num_updates``; ``done`` if the time that is left is not enough for a stage.

        Example:
            >>> rule = StoppingRule(num_updates=256, round_length=4, seconds=10)
            >>> rule.stage_end(64, spent=8, seconds_each=0.1), rule.stage_end(64, spent=8.5, seconds_each=0.1)
            (72, 64)
        """
        if self.tolerance is None and self.seconds is None:
            return self.num_updates
        unit = 2 * self.round_length
        wanted = max(1, _FIRST_MASKS // self.masks_per_update, round(done * _GROWTH))
        end = min(max(-(-wanted // unit), done // unit + 1) * unit, self.num_updates)
        if self.seconds is None or done == 0:
            return end
        affordable = int(max(done + (_SAFETY * self.seconds - spent) / seconds_each, 0)) // unit * unit
        return max(done, min(end, affordable))

    def needs_more(self, errors: Tensor) -> Tensor:
        """Which images get more updates, given the relative standard error of each mean; boolean, ``(N,)``.

        Example:
            >>> import torch
            >>> StoppingRule(num_updates=256, tolerance=0.2).needs_more(torch.tensor([0.1, 0.3, torch.nan])).tolist()
            [False, True, True]
        """
        if self.tolerance is None:
            return errors.new_ones(errors.shape).bool()
        return ~(errors <= self.tolerance)
