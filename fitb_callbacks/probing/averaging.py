"""The mean update of every image over as many masks as it needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from fitb_callbacks.probing.adjustment import MOST_MASKS, Adjustment
from fitb_callbacks.probing.chunks import in_blocks, masks_together
from fitb_callbacks.probing.moments import Moments
from fitb_callbacks.utils.devices import seconds_on
from fitb_callbacks.utils.distributed import all_reduce_max, confirm

__all__ = ["AddUpdates", "Average", "Progress", "average"]

AddUpdates = Callable[[Moments, Tensor, Tensor, slice], tuple[Tensor, Tensor] | None]
"""``add(moments, masks, images, rows)`` adds to rows the updates under masks, as prepared, of images, by index.

Where means are to be adjusted, it returns the doubt, 1 - p(label), under each mask for each image, and which updates
were kept, both ``(K, R)``.
"""

Progress = Callable[[int, int], None]
"""Called every few chunks with how much is done, and of how much: images times masks, or times partitions."""

_FIRST = 64
"""Masks before which nothing is decided: with fewer, prototypes are hardly worth a look."""

_FEWEST = 16
"""Kept masks from which a standard error can be told."""

_GROWTH = 1.5
"""How much longer each look at the means is put off than the one before."""

_SAFETY = 0.9
"""Share of a time limit that is planned for; speed varies."""

_BOUND, _LEAST = 1.2, 0.6
"""The error of adjusted means is told by how far the halves are apart. That varies, so a bit more is taken, and not
much less than the error of the plain mean; both chosen so that 9 of 10 images that stop are as near as was asked."""


@dataclass(frozen=True)
class Average:
    """What `average` found.

    Attributes:
        halves: Moments of the even rounds of masks and of the odd ones, which know nothing of each other.
        means: Mean updates of the halves, adjusted if they were to be, each ``(N, C, H, W)``.
        standard_error: Of the mean updates of both halves together, ``(N, C, H, W)``: that of plain means, and of
            adjusted ones as much smaller as their halves are nearer to each other, in the mean over an image.
        tried: Masks that went into each image's moments, kept or not, shape ``(N,)``.
        out_of_time: Whether there was no time for more masks, though some images were to get them.
    """

    halves: tuple[Moments, Moments]
    means: tuple[Tensor, Tensor]
    standard_error: Tensor
    tried: Tensor
    out_of_time: bool

    @property
    def mean(self) -> Tensor:
        """Mean update of each image, shape ``(N, C, H, W)``."""
        return _mean(self.means, self.halves)


def average(
    prepare: Callable[[Tensor], Tensor],
    add: AddUpdates,
    images: Tensor,
    *,
    num_masks: int,
    masks_per_round: int,
    masks_per_index: int = 1,
    block_size: int,
    adjustment: Adjustment | None = None,
    share: tuple[int, int] = (0, 1),
    tolerance: float | None = None,
    seconds: float | None = None,
    started: float | None = None,
    progress: Progress | None = None,
) -> Average:
    """Stream the kept updates of every image into moments, in memory that does not grow with the number of masks.

    But for the adjustment, which remembers five bytes for each of an image's masks.

    Without a tolerance or a time limit, every image gets all masks. With one, masks come in stages, each half as large
    as all before it. After each, images whose mean is known well enough are left alone, and if the time that is left
    is not enough for the next stage at the speed so far, that was the last one. All processes decide the same.

    Args:
        prepare: From indices of masks, shape ``(K,)``, to what ``add`` needs of them, first dimension K.
        add: See `AddUpdates`.
        images: Shape ``(N, C, H, W)``.
        num_masks: Most masks an image.
        masks_per_round: How many consecutive masks depend on each other; stages end with whole pairs of rounds.
        masks_per_index: How many masks an index stands for: 1, or those of a partition.
        block_size: Pairs of masks and images at once.
        adjustment: Of the means of images that get no more masks than
            `fitb_callbacks.probing.adjustment.MOST_MASKS`. None leaves plain means.
        share: This process's rank and the number of processes.
        tolerance: The relative standard error, see `Moments.relative_error`, that is small enough. That of adjusted
            means is told by how far the two halves are apart.
        seconds: The time limit, the same on every process. The first stage, of 64 masks, runs however long it takes.
        started: When the time began to count, as `fitb_callbacks.utils.devices.seconds_on` gave it. None is now.
        progress: See `Progress`.

    Raises:
        fitb_callbacks.utils.distributed.OtherRankError: If another process failed.

    Example:
        >>> import torch
        >>> def add(moments, masks, images, rows):
        ...     shape = (len(masks), len(images), 1, 1, 1)
        ...     return torch.ones(shape[:2]), moments.add(torch.ones(shape), torch.ones(shape[:2]).bool(), rows)
        >>> settings = {"num_masks": 512, "masks_per_round": 4, "block_size": 100, "tolerance": 0.1}
        >>> average(torch.clone, add, torch.rand(2, 1, 1, 1), **settings).tried
        tensor([64, 64])
    """
    began = seconds_on(images.device)
    streams = _Streams(
        prepare,
        add,
        images,
        masks_per_round,
        block_size,
        share,
        total=num_masks,
        adjustment=adjustment,
        progress=progress,
    )
    stages = _Stages(num_masks, unit=2 * masks_per_round, first=max(1, _FIRST // masks_per_index))
    out_of_time = False
    while streams.done < num_masks and len(streams.active):
        stop = stages.after(streams.done) if tolerance is not None or seconds is not None else num_masks
        if seconds is not None and streams.done:
            now = seconds_on(images.device)
            spent, elapsed = all_reduce_max([now - (began if started is None else started), now - began], share[1])
            affordable = (_SAFETY * seconds - spent) / elapsed * streams.pairs / len(streams.active)
            stop = min(stop, stages.whole(streams.done + affordable))
            if stop <= streams.done:
                out_of_time = True
                break
        streams.go_on_to(stop)
        if tolerance is not None and stop < num_masks:
            streams.go_on_with(~(streams.look() <= tolerance))
    streams.look()
    streams.report_end()
    tried = streams.tried * masks_per_index
    return Average(streams.halves, streams.means, streams.standard_error(), tried, out_of_time)


class _Streams:
    """The moments of every image, as far as they have come.

    Attributes:
        halves: Of the even rounds and of the odd ones, the same on every process.
        means: Of the halves as of the last look, adjusted if they are to be.
        adjusted: Images whose means are adjusted, boolean, shape ``(N,)``.
        tried: Indices that went into each image's moments, shape ``(N,)``.
        active: Images that get more of them, as indices.
        done: Where the next stage begins.
        pairs: Pairs of indices and images so far.
    """

    def __init__(
        self,
        prepare: Callable[[Tensor], Tensor],
        add: AddUpdates,
        images: Tensor,
        masks_per_round: int,
        block_size: int,
        share: tuple[int, int],
        *,
        total: int,
        adjustment: Adjustment | None,
        progress: Progress | None,
    ) -> None:
        self._prepare = prepare
        self._add = add
        self._images = images
        self._masks_per_round = masks_per_round
        self._block_size = block_size
        self._share = share
        self._total = total
        self._adjustment = adjustment
        self._progress = progress
        self._reported = 0
        self._all_pairs = total * len(images)
        self.halves = Moments.of(images), Moments.of(images)
        self.means = torch.zeros_like(self.halves[0].mean), torch.zeros_like(self.halves[0].mean)
        self.adjusted = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        # By index and image: a few bytes each, and only as many as are ever looked at.
        remembered = 0 if adjustment is None else min(total, MOST_MASKS)
        self._doubts = torch.zeros(remembered, len(images), dtype=torch.float32, device=images.device)
        self._kept = torch.zeros_like(self._doubts, dtype=torch.uint8)  # which all backends can add up
        self.tried = torch.zeros(len(images), dtype=torch.long, device=images.device)
        self.active = torch.arange(len(images), device=images.device)
        self.done = 0
        self.pairs = 0

    def go_on_to(self, stop: int) -> None:
        """Let all indices before ``stop`` go into the moments of the active images."""
        rank, world_size = self._share
        first = self.done + (rank - self.done) % world_size
        indices = torch.arange(first, stop, world_size, device=self._images.device)
        rounds = indices // self._masks_per_round
        # Images that are left alone count as done.
        self._reported = self._all_pairs - (self._total - self.done) * len(self.active)
        together = masks_together(len(self.active), self._block_size)
        for parity, half in enumerate(self.halves):
            part = Moments.of(self._images[self.active])
            for some in indices[rounds % 2 == parity].split(together):
                work = partial(self._add_block, part, self._prepare(some), some if stop <= len(self._doubts) else None)
                self._block_size = in_blocks(work, len(some), len(self.active), self._block_size)
            if world_size > 1:
                part.all_reduce()
            half.merge(part, self.active)
        if world_size > 1 and stop <= len(self._doubts):
            confirm()
            torch.distributed.all_reduce(self._doubts[self.done : stop])
            torch.distributed.all_reduce(self._kept[self.done : stop])
        self.tried[self.active] += stop - self.done
        self.pairs += (stop - self.done) * len(self.active)
        self.done = stop

    def _add_block(self, part: Moments, masks: Tensor, indices: Tensor | None, block: slice, rows: slice) -> None:
        added = self._add(part, masks[block], self.active[rows], rows)
        if indices is not None and added is not None:
            where = indices[block, None], self.active[rows]
            doubt, kept = added
            self._doubts[where] = doubt.to(self._doubts.dtype)
            self._kept[where] = kept.to(self._kept.dtype)
        if self._progress is not None:
            self._reported += (block.stop - block.start) * (rows.stop - rows.start) * self._share[1]
            self._progress(min(self._reported, self._all_pairs), self._all_pairs)

    def look(self) -> Tensor:
        """Look at the active images: bring their means up to date; how far each mean is likely to be off, ``(A,)``."""
        if not len(self.active):
            return torch.zeros(0)
        adjustment = self._adjustment if self.done <= len(self._doubts) else None
        indices = torch.arange(self.done, device=self.active.device)
        for parity, (half, mean) in enumerate(zip(self.halves, self.means, strict=True)):
            new = half.mean[self.active]
            these = indices[indices // self._masks_per_round % 2 == parity]
            if adjustment is not None and len(these):
                where = these[:, None], self.active
                doubts = self._doubts[where].nan_to_num(nan=1.0)
                new = new * adjustment.factors(these, doubts, self._kept[where].bool(), self.active)
            mean[self.active] = new
        self.adjusted[self.active] = adjustment is not None
        plain = self.halves[0].merged(self.halves[1])
        errors = plain.relative_error().where(plain.count >= _FEWEST, torch.inf)[self.active]
        if adjustment is not None:
            apart = _apart(self.means, self.halves)[self.active]
            errors = torch.where(errors.isfinite(), torch.maximum(_BOUND * apart, _LEAST * errors), errors)
        return errors

    def standard_error(self) -> Tensor:
        """Of the means of both halves together, as of the last look, shape ``(N, C, H, W)``."""
        plain = self.halves[0].merged(self.halves[1]).standard_error()
        variance = plain.square().flatten(1).mean(dim=1)
        share = (_error_squared(self.means, self.halves) / variance).sqrt().clamp(max=1)
        return plain * share.where(self.adjusted & (variance > 0), 1)[:, None, None, None]

    def go_on_with(self, unsure: Tensor) -> None:
        """Give more masks to those of the active images alone that this says, boolean, shape ``(A,)``."""
        if self._share[1] > 1:  # sums of floats may differ in the last digit between devices; all have to agree
            unsure = torch.tensor(all_reduce_max(unsure.tolist(), self._share[1]), device=unsure.device).bool()
        self.active = self.active[unsure]

    def report_end(self) -> None:
        """Report that all is done, if the last block did not: images were left alone, or time ran out."""
        if self._progress is not None and self._reported < self._all_pairs:
            self._progress(self._all_pairs, self._all_pairs)


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


def _mean(means: tuple[Tensor, Tensor], halves: tuple[Moments, Moments]) -> Tensor:
    first, second = (half.count[:, None, None, None] for half in halves)
    return (first * means[0] + second * means[1]) / (first + second).clamp(min=1)


def _apart(means: tuple[Tensor, Tensor], halves: tuple[Moments, Moments]) -> Tensor:
    """The relative standard error of each image's mean, as far as the halves can tell it, shape ``(N,)``."""
    error = _error_squared(means, halves)
    signal = (_mean(means, halves).square().flatten(1).mean(dim=1) - error).clamp(min=0)
    known = (halves[0].count > 0) & (halves[1].count > 0) & ((signal > 0) | (error == 0))
    return torch.where(known, (error / signal.where(signal > 0, 1)).sqrt(), torch.inf)


def _error_squared(means: tuple[Tensor, Tensor], halves: tuple[Moments, Moments]) -> Tensor:
    """Mean square error of each image's mean, as far as the halves can tell it, shape ``(N,)``."""
    first, second = halves[0].count, halves[1].count
    squares = (means[0] - means[1]).square().flatten(1).mean(dim=1)
    return squares * first * second / (first + second).square().clamp(min=1)
