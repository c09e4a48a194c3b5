"""The mean update of every image over as many masks as it needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from fitb_callbacks.blocks import in_blocks
from fitb_callbacks.clock import seconds_on
from fitb_callbacks.moments import Moments

__all__ = ["AddUpdates", "Average", "average"]

AddUpdates = Callable[[Moments, Tensor, Tensor, slice], None]
"""``add(moments, indices, images, rows)`` adds the updates of masks, by index, of images, by index, to rows."""

_FIRST = 64
"""Masks before which nothing is decided: with fewer, prototypes are hardly worth a look."""

_FEWEST = 16
"""Kept masks from which a standard error can be told."""

_GROWTH = 1.5
"""How much longer each look at the means is put off than the one before."""

_SAFETY = 0.9
"""Share of a time limit that is planned for; speed varies."""


@dataclass(frozen=True)
class Average:
    """What `average` found.

    Attributes:
        halves: Moments of the even rounds of masks and of the odd ones, which know nothing of each other.
        tried: Masks that went into each image's moments, kept or not, shape ``(N,)``.
        out_of_time: Whether there was no time for more masks, though some images were to get them.
    """

    halves: tuple[Moments, Moments]
    tried: Tensor
    out_of_time: bool


def average(
    add: AddUpdates,
    images: Tensor,
    *,
    num_masks: int,
    masks_per_round: int,
    masks_per_index: int = 1,
    chunk_size: int,
    share: tuple[int, int] = (0, 1),
    tolerance: float | None = None,
    seconds: float | None = None,
) -> Average:
    """Stream the kept updates of every image into moments, in memory that does not depend on the number of masks.

    Without a tolerance or a time limit, every image gets all masks. With one, masks come in stages, each half as large
    as all before it. After each, images whose mean is known well enough are left alone, and if the time that is left
    is not enough for the next stage at the speed so far, that was the last one. All processes decide the same.

    Args:
        add: See `AddUpdates`.
        images: Shape ``(N, C, H, W)``.
        num_masks: Most masks an image.
        masks_per_round: How many consecutive masks depend on each other; stages end with whole pairs of rounds.
        masks_per_index: How many masks an index stands for: 1, or those of a partition.
        chunk_size: Pairs of masks and images at once.
        share: This process's rank and the number of processes.
        tolerance: The relative standard error, see `Moments.relative_error`, that is small enough.
        seconds: The time limit. The first stage, of 64 masks, runs however long it takes.

    Raises:
        fitb_callbacks.ranks.OtherRankError: If another process failed.

    Example:
        >>> import torch
        >>> def add(moments, indices, images, rows):
        ...     shape = (len(indices), len(images), 1, 1, 1)
        ...     moments.add(torch.ones(shape), torch.ones(shape[:2], dtype=torch.bool), rows)
        >>> average(add, torch.rand(2, 1, 1, 1), num_masks=512, masks_per_round=4, chunk_size=100, tolerance=0.1).tried
        tensor([64, 64])
    """
    rank, world_size = share
    device = images.device
    started = seconds_on(device)
    halves = Moments.of(images), Moments.of(images)
    tried = torch.zeros(len(images), dtype=torch.long, device=device)
    active = torch.arange(len(images), device=device)
    stages = _Stages(num_masks, unit=2 * masks_per_round, first=max(1, _FIRST // masks_per_index))
    staged = tolerance is not None or seconds is not None
    done, pairs = 0, 0
    while True:
        stop = stages.after(done) if staged else num_masks
        if seconds is not None and done:
            elapsed = _slowest(seconds_on(device) - started, share, device)
            affordable = (_SAFETY * seconds - elapsed) / elapsed * pairs / len(active)
            stop = min(stop, stages.whole(done + affordable))
            if stop <= done:
                return Average(halves, tried, out_of_time=True)
        indices = torch.arange(done + (rank - done) % world_size, stop, world_size, device=device)
        rounds = indices // masks_per_round
        for parity, half in enumerate(halves):
            part = Moments.of(images[active])
            work = partial(_add_block, add, part, active)
            chunk_size = in_blocks(work, indices[rounds % 2 == parity], len(active), chunk_size)
            if world_size > 1:
                part.all_reduce()
            half.merge(part, active)
        tried[active] += (stop - done) * masks_per_index
        done, pairs = stop, pairs + (stop - done) * len(active)
        if done == num_masks:
            break
        if tolerance is not None:
            active = active[_unsure(halves, tolerance)[active]]
            if not len(active):
                break
    return Average(halves, tried, out_of_time=False)


class _Stages:
    """After how many masks the means are looked at."""

    def __init__(self, num_masks: int, *, unit: int, first: int) -> None:
        self._num_masks = num_masks
        self._unit = unit
        self._first = first

    def after(self, done: int) -> int:
        """The stage that follows."""
        wanted = max(self._first, round(done * _GROWTH))
        return min(max(-(-wanted // self._unit), done // self._unit + 1) * self._unit, self._num_masks)

    def whole(self, masks: float) -> int:
        """So many masks, or a few less."""
        return min(max(int(masks), 0) // self._unit * self._unit, self._num_masks)


def _add_block(add: AddUpdates, moments: Moments, active: Tensor, indices: Tensor, rows: slice) -> None:
    add(moments, indices, active[rows], rows)


def _unsure(halves: tuple[Moments, Moments], tolerance: float) -> Tensor:
    """Which images need more masks, boolean, shape ``(N,)``."""
    whole = halves[0].merged(halves[1])
    return (whole.count < _FEWEST) | ~(whole.relative_error() <= tolerance)


def _slowest(elapsed: float, share: tuple[int, int], device: torch.device) -> float:
    """The longest time of all processes."""
    if share[1] == 1:
        return elapsed
    import torch.distributed as dist

    from fitb_callbacks.ranks import confirm

    confirm()
    longest = torch.tensor(elapsed, device=device)
    dist.all_reduce(longest, dist.ReduceOp.MAX)
    return float(longest)
