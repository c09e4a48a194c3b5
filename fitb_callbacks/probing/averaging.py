"""The mean update of every image over as many masks as it needs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fitb_callbacks.models.chunks import in_blocks
from fitb_callbacks.probing.adjustment import Adjustment
from fitb_callbacks.probing.autotune import Plan
from fitb_callbacks.probing.moments import Moments
from fitb_callbacks.probing.stopping import StoppingRule
from fitb_callbacks.probing.strategies import Masking
from fitb_callbacks.probing.updates import UpdateFinder
from fitb_callbacks.utils.arithmetic import safe_divide
from fitb_callbacks.utils.devices import seconds_on, working_seconds_on
from fitb_callbacks.utils.distributed import all_reduce_max, confirm

__all__ = ["MOST_ANSWERS", "Answers", "Average", "Progress", "average"]

Progress = Callable[[int, int], None]
"""Called every few chunks with how much is done, and of how much: images times masks, or times partitions."""

MOST_ANSWERS = 2048
"""Updates of an image for which answers are remembered. Means over more are not adjusted: chance has little left to
say."""

_MASKS_DRAWN = 64
"""How many masks are drawn at a time, at least: few enough to take little memory, enough to take little time."""

_LARGEST_BLOCK = 2**62

_Work = Callable[[UpdateFinder, slice, slice], None]

_FEWEST_KEPT = 16
"""Kept updates from which a standard error can be told."""

_BOUND, _LEAST = 1.2, 0.6
"""The error of adjusted means is told by how far the halves are apart. That varies, so a bit more is taken, and not
much less than the error of the plain mean; both chosen so that 9 of 10 images that stop are as near as was asked."""


@dataclass(frozen=True)
class Answers:
    """What the model made of the first masked images, at most `MOST_ANSWERS` of each image.

    Row ``k`` belongs to the mask, or partition, with index ``k``. It is about image ``n`` if ``k`` is less than the
    number of updates that went into that image's mean; elsewhere it holds zeros.

    Attributes:
        log_p: log p(label), shape ``(K, N)``, float32.
        kept: Whether the update counts, uint8, shape ``(K, N)``.
    """

    log_p: Tensor
    kept: Tensor

    @classmethod
    def none_yet(cls, num_updates: int, images: Tensor) -> Answers:
        """Room for the answers to some updates of each image."""
        shape = (min(num_updates, MOST_ANSWERS), len(images))
        log_p = torch.zeros(shape, dtype=torch.float32, device=images.device)
        return cls(log_p, torch.zeros_like(log_p, dtype=torch.uint8))  # not booleans: all backends can add these up

    def __len__(self) -> int:
        return len(self.log_p)

    def put(self, indices: Tensor, images: Tensor, log_p: Tensor, kept: Tensor) -> None:
        """Remember answers, both ``(K, R)``, of masks and images with some indices ``(K,)`` and ``(R,)``."""
        where = indices[:, None], images
        self.log_p[where] = log_p.to(self.log_p.dtype)
        self.kept[where] = kept.to(self.kept.dtype)

    def all_reduce(self, start: int, stop: int) -> None:
        """Share the rows from start to stop, which are zero but on one process, with all processes."""
        if start < len(self):
            confirm()
            torch.distributed.all_reduce(self.log_p[start:stop])
            torch.distributed.all_reduce(self.kept[start:stop])


@dataclass(frozen=True)
class Average:
    """What `average` found.

    Attributes:
        halves: Moments of the even rounds of masks and of the odd ones, which know nothing of each other.
        means: Mean updates of the halves, adjusted if they were to be, each ``(N, C, H, W)``.
        standard_error: Of the mean updates of both halves together, ``(N, C, H, W)``: that of plain means, and of
            adjusted ones as much smaller as their halves are nearer to each other, in the mean over an image.
        num_updates: Updates that went into each image's moments, kept or not, shape ``(N,)``.
        out_of_time: Whether there was no time for more, though some images were to get them.
        answers: What the model made of the masked images, a row for each of the first updates.
        masking: What was hidden.
        steps: With partitions, each image after every step of partition 0, shape ``(N, S, C, H, W)``.
    """

    halves: tuple[Moments, Moments]
    means: tuple[Tensor, Tensor]
    standard_error: Tensor
    num_updates: Tensor
    out_of_time: bool
    answers: Answers
    masking: Masking
    steps: Tensor | None

    @property
    def mean(self) -> Tensor:
        """Mean update of each image, shape ``(N, C, H, W)``."""
        return _mean(self.means, self.halves)

    @property
    def covered(self) -> Tensor:
        """Whether any update of an image was kept, boolean, shape ``(N,)``."""
        return self.halves[0].count + self.halves[1].count > 0

    def with_rows(self, other: Average, rows: Tensor) -> Average:
        """This average, with further updates of some images, by index, of which none was kept so far.

        Answers, and what they did without, stay those of this average.
        """
        halves = [half.merged(Moments.of(half.mean)) for half in self.halves]  # copies
        means = [mean.clone() for mean in self.means]
        for half, mean, part, part_mean in zip(halves, means, other.halves, other.means, strict=True):
            half.merge(part, rows)
            mean[rows] = part_mean
        standard_error, num_updates = self.standard_error.clone(), self.num_updates.clone()
        standard_error[rows] = other.standard_error
        num_updates[rows] += other.num_updates
        return replace(
            self,
            halves=(halves[0], halves[1]),
            means=(means[0], means[1]),
            standard_error=standard_error,
            num_updates=num_updates,
        )

    @property
    def moments(self) -> Moments:
        """Moments of both halves together."""
        return self.halves[0].merged(self.halves[1])


def average(  # noqa: PLR0913 - the parts of a probe, and how it is run
    masking: Masking,
    finder: UpdateFinder,
    stopping: StoppingRule,
    adjustment: Adjustment | None = None,
    *,
    share: tuple[int, int] = (0, 1),
    started: float | None = None,
    progress: Progress | None = None,
) -> Average:
    """Stream the kept updates of every image into moments, in memory that does not grow with the number of masks.

    But for the answers, five bytes for each of an image's first `MOST_ANSWERS` updates.

    Args:
        masking: What is hidden.
        finder: How updates are found.
        stopping: How many there are, and when an image has had enough.
        adjustment: Of the means of images with at most `MOST_ANSWERS` updates. None leaves plain means.
        share: This process's rank and the number of processes. All processes decide the same.
        started: When the time limit began to count, as `fitb_callbacks.utils.devices.seconds_on` gave it. None is now.
        progress: See `Progress`.

    Raises:
        fitb_callbacks.utils.distributed.OtherRankError: If another process failed.

    Example:
        >>> import torch
        >>> from fitb_callbacks.probing.autotune import Plan
        >>> from fitb_callbacks.probing.strategies import RandomMasking, Targets
        >>> from fitb_callbacks.probing.updates import GradientUpdate
        >>> from fitb_callbacks.utils.patch_grid import PatchGrid
        >>> grid, baseline = PatchGrid(4, 4, patch_size=2), torch.zeros(1, 1, 1)
        >>> targets = Targets(torch.rand(2, 1, 4, 4), torch.tensor([0, 0]), baseline, grid, seed=0)
        >>> finder = UpdateFinder(GradientUpdate(), torch.nn.Flatten(), Plan(chunk_size=100))
        >>> average(RandomMasking(targets, mask_ratio=0.25), finder, StoppingRule(num_updates=8)).mean.shape
        torch.Size([2, 1, 4, 4])
    """
    images = masking.targets.images
    began = seconds_on(images.device)
    started = began if started is None else started
    report = _Report(progress, stopping.num_updates * len(images), step=share[1])
    running = _Running(masking, finder, share, stopping.num_updates, report)
    out_of_time = False
    while running.done < stopping.num_updates and len(running.active):
        spent = seconds_each = 0.0
        if stopping.seconds is not None and running.done:
            now = seconds_on(images.device)
            spent, elapsed = all_reduce_max([now - started, now - began], share[1])
            seconds_each = elapsed / running.pairs * len(running.active)
        end = stopping.stage_end(running.done, spent=spent, seconds_each=seconds_each)
        if end == running.done:
            out_of_time = True
            break
        running.go_on_to(end)
        if stopping.tolerance is not None and end < stopping.num_updates:
            running.update_means(adjustment)
            running.go_on_with(stopping.needs_more(running.errors()))
    running.update_means(adjustment)
    report.end()
    return running.average(out_of_time)


class _Running:
    """The running means of every image.

    Attributes:
        active: Images that get more updates, as indices.
        done: Updates of each of them so far.
        pairs: Updates of all images so far.
    """

    def __init__(
        self, masking: Masking, finder: UpdateFinder, share: tuple[int, int], num_updates: int, report: _Report
    ) -> None:
        images = masking.targets.images
        self._masking = masking
        self._finder = finder
        self._share = share
        self._largest_block = _LARGEST_BLOCK  # until memory runs out
        self._num_updates = num_updates
        self._report = report
        self._halves = Moments.of(images), Moments.of(images)
        self._means = torch.zeros_like(self._halves[0].mean), torch.zeros_like(self._halves[0].mean)
        self._adjusted = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        self._answers = Answers.none_yet(num_updates, images)
        self._steps: Tensor | None = None
        if masking.num_steps:
            self._steps = images.new_zeros(len(images), masking.num_steps, *images.shape[1:])
        self._tried = torch.zeros(len(images), dtype=torch.long, device=images.device)
        self.active = torch.arange(len(images), device=images.device)
        self.done = 0
        self.pairs = 0

    def go_on_to(self, end: int) -> None:
        """Let all updates with indices from `done` to ``end`` go into the moments of the active images."""
        rank, world_size = self._share
        images = self._masking.targets.images
        indices, length = (
            range(self.done + (rank - self.done) % world_size, end, world_size),
            self._masking.round_length,
        )
        self._report.left_alone((self._num_updates - self.done) * len(self.active))
        together = max(_MASKS_DRAWN, self._finder.plan.chunk_size // len(self.active))
        for parity, half in enumerate(self._halves):
            part = Moments.of(images[self.active])
            own = [index for index in indices if index // length % 2 == parity]
            for start in range(0, len(own), together):
                self._add(part, own[start : start + together])
            if world_size > 1:
                part.all_reduce()
            half.merge(part, self.active)
        if world_size > 1:
            self._answers.all_reduce(self.done, end)
            if self._steps is not None and self.done == 0:  # one process made partition 0, the others hold zeros
                confirm()
                torch.distributed.all_reduce(self._steps)
        self._tried[self.active] += end - self.done
        self.pairs += (end - self.done) * len(self.active)
        self.done = end

    def _add(self, part: Moments, indices: list[int]) -> None:
        """Add the updates of the active images under the masks with some indices, which ascend."""
        on_device = torch.tensor(indices, device=self.active.device)
        drawn = self._masking.draw(on_device)
        remembered = sum(index < len(self._answers) for index in indices)

        def work(finder: UpdateFinder, masks: slice, rows: slice) -> None:
            images = self.active[rows]
            updates = self._masking.find(finder, drawn[masks], on_device[masks], images)
            kept = part.add(updates.values, updates.kept, rows)
            if (number := min(masks.stop, remembered) - masks.start) > 0:
                known = on_device[masks][:number]
                self._answers.put(known, images, updates.log_p[:number], kept[:number])
            if self._steps is not None and updates.steps is not None and indices[masks.start] == 0:
                self._steps[images] = updates.steps.to(self._steps.dtype)
            self._report.done((masks.stop - masks.start) * (rows.stop - rows.start))

        start = 0
        while start < len(self.active):
            start = self._work_on_columns(work, len(indices), start)

    def _work_on_columns(self, work: _Work, num_masks: int, start: int) -> int:
        """Work on the active images from one on, under some masks: on all, or on a block with the tuner's next plan.

        Returns:
            The first image that is left.
        """
        images, num_images, tuner = self._masking.targets.images, len(self.active), self._finder.tuner
        finder, searching = self._finder, tuner is not None and tuner.searching
        if tuner is not None:
            finder = replace(finder, plan=tuner.next_plan(self._updates_with) if searching else tuner.best)
        size = min(finder.block_size(images), self._largest_block)
        stop = min(start + max(1, size // num_masks), num_images) if searching else num_images
        began = working_seconds_on(images.device) if searching else 0.0

        def shifted(masks: slice, rows: slice) -> None:
            work(finder, masks, slice(start + rows.start, start + rows.stop))

        left = in_blocks(shifted, num_masks, stop - start, size)
        if left < size:
            self._largest_block = left
        if tuner is not None and searching:
            seconds = working_seconds_on(images.device) - began if left == size else math.inf
            everything = start == 0 and stop == num_images
            tuner.record(finder.plan, pairs=num_masks * (stop - start), seconds=seconds, all_there_is=everything)
        return stop

    def _updates_with(self, plan: Plan) -> Tensor:
        """The updates of the first image under as many masks as go through the model at once with a plan."""
        finder = replace(self._finder, plan=plan)
        indices = torch.arange(plan.chunk_size, device=self.active.device)
        return self._masking.find(finder, self._masking.draw(indices), indices, self.active[:1]).values

    def update_means(self, adjustment: Adjustment | None) -> None:
        """Bring the means of the active images up to date."""
        if not len(self.active):
            return
        adjust = adjustment is not None and self.done <= len(self._answers)
        indices = torch.arange(self.done, device=self.active.device)
        for parity, (half, mean) in enumerate(zip(self._halves, self._means, strict=True)):
            new = half.mean[self.active]
            some = indices[indices // self._masking.round_length % 2 == parity]
            if adjustment is not None and adjust and len(some):
                hidden = self._masking.hidden(self._masking.draw(some))
                where = some[:, None], self.active
                log_p, kept = self._answers.log_p[where], self._answers.kept[where].bool()
                new = new * adjustment.factors(hidden, log_p, kept, self.active)
            mean[self.active] = new
        self._adjusted[self.active] = adjust

    def errors(self) -> Tensor:
        """Estimate the relative error of the active images' means, ``(A,)``."""
        plain = self._halves[0].merged(self._halves[1])
        errors = plain.relative_error().where(plain.count >= _FEWEST_KEPT, torch.inf)
        adjusted = torch.maximum(_BOUND * _apart(self._means, self._halves), _LEAST * errors)
        return torch.where(self._adjusted & errors.isfinite(), adjusted, errors)[self.active]

    def _standard_error(self) -> Tensor:
        plain = self._halves[0].merged(self._halves[1]).standard_error()
        variance = plain.square().flatten(1).mean(dim=1)
        share = safe_divide(_error_squared(self._means, self._halves), variance).sqrt().clamp(max=1)
        return plain * share.where(self._adjusted & (variance > 0), 1)[:, None, None, None]

    def go_on_with(self, unsure: Tensor) -> None:
        """Give more updates to those of the active images alone that this says, boolean, shape ``(A,)``."""
        if self._share[1] > 1:  # sums of floats may differ in the last digit between devices; all have to agree
            unsure = torch.tensor(all_reduce_max(unsure.tolist(), self._share[1]), device=unsure.device).bool()
        self.active = self.active[unsure]

    def average(self, out_of_time: bool) -> Average:
        """Return the result so far."""
        answers = Answers(self._answers.log_p[: self.done], self._answers.kept[: self.done])
        return Average(
            halves=self._halves,
            means=self._means,
            standard_error=self._standard_error(),
            num_updates=self._tried,
            out_of_time=out_of_time,
            answers=answers,
            masking=self._masking,
            steps=self._steps,
        )


class _Report:
    """Reports progress."""

    def __init__(self, progress: Progress | None, total: int, *, step: int) -> None:
        self._progress = progress
        self._total = total
        self._step = step
        self._done = 0

    def left_alone(self, still_to_do: int) -> None:
        """Count images that get no more updates as done."""
        self._done = self._total - still_to_do

    def done(self, pairs: int) -> None:
        """Report some more pairs, which as many were done as on each other process."""
        if self._progress is not None:
            self._done += pairs * self._step
            self._progress(min(self._done, self._total), self._total)

    def end(self) -> None:
        """Report that all is done, unless it was."""
        if self._progress is not None and self._done < self._total:
            self._progress(self._total, self._total)


def _mean(means: tuple[Tensor, Tensor], halves: tuple[Moments, Moments]) -> Tensor:
    first, second = (half.count[:, None, None, None] for half in halves)
    return safe_divide(first * means[0] + second * means[1], first + second)


def _apart(means: tuple[Tensor, Tensor], halves: tuple[Moments, Moments]) -> Tensor:
    """Estimate each image's relative standard error from the two halves, shape ``(N,)``."""
    error = _error_squared(means, halves)
    signal = (_mean(means, halves).square().flatten(1).mean(dim=1) - error).clamp(min=0)
    known = (halves[0].count > 0) & (halves[1].count > 0) & ((signal > 0) | (error == 0))
    return torch.where(known, safe_divide(error, signal).sqrt(), torch.inf)


def _error_squared(means: tuple[Tensor, Tensor], halves: tuple[Moments, Moments]) -> Tensor:
    """Estimate each image's mean square error from the two halves, shape ``(N,)``."""
    first, second = halves[0].count, halves[1].count
    squares = (means[0] - means[1]).square().flatten(1).mean(dim=1)
    return squares * safe_divide(first * second, (first + second).square())
