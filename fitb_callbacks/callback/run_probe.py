"""One probe of a run: in the size that there is time for, on the run's images, compared with the probe before it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from fitb_callbacks.callback.comparison import compared
from fitb_callbacks.callback.errors import ErrorPolicy
from fitb_callbacks.callback.first_try import tried
from fitb_callbacks.callback.judge import RunJudge
from fitb_callbacks.callback.probe_images import ProbeImages, first_of_each
from fitb_callbacks.callback.progress_bar import probing_line
from fitb_callbacks.callback.sharding import is_sharded
from fitb_callbacks.callback.steps import OTHER_IMAGES, RunSteps, as_in_the_run
from fitb_callbacks.callback.time_budget import ProbeSize, Speeds, TimeBudget
from fitb_callbacks.callback.trainer import find_class_names, images_of_an_epoch, stage_of
from fitb_callbacks.models.chunks import usual_chunk_size
from fitb_callbacks.probing.probe import FillInBlanks
from fitb_callbacks.probing.result import FillInBlanksResult
from fitb_callbacks.scoring.judges.base import Judge
from fitb_callbacks.utils.distributed import all_reduce_max

__all__ = ["RunProbe"]


class RunProbe:
    """Makes the probes of a run, the same on every process, each of which must call its methods.

    Args:
        steps: Know the model and the probes.
        images: To probe on.
        judge: Of the run.
        budget: Says how large a probe may be.
        errors: Is told what is left out.
        last_probes: Masking to what the next probe with it is compared with.
        class_names: Those that the user gave.
    """

    def __init__(  # noqa: PLR0913 - all that a probe takes part of
        self,
        *,
        steps: RunSteps,
        images: ProbeImages,
        judge: RunJudge,
        budget: TimeBudget,
        errors: ErrorPolicy,
        last_probes: dict[str, dict[str, Tensor]],
        class_names: Sequence[str] | None,
    ) -> None:
        self._steps, self._images, self._run_judge, self._budget = steps, images, judge, budget
        self._errors, self._last_probes, self._class_names = errors, last_probes, class_names
        self._speeds: Speeds | None = None  # once they were tried

    def make(
        self, trainer: Trainer, pl_module: LightningModule, *, cannot_wait: bool
    ) -> list[FillInBlanksResult] | None:
        """What every probe finds; None if there is no time for any.

        Args:
            trainer: Of the run.
            pl_module: Its model, left as it was found.
            cannot_wait: Whether a run that has no probe yet needs one now.
        """
        if (reason := self._steps.postponed) and stage_of(trainer) == "fit":
            self._budget.waits = True
            self._errors.warn_once("time", f"{reason}. {self._budget.advice}")
            return None
        if self._images.fix(trainer.world_size):
            self._errors.warn_once("other images", OTHER_IMAGES)
            self._last_probes.clear()
        assert self._images.images is not None
        self._settle_times(trainer)
        wanted = self._wanted_size(len(self._images.images))
        asked_for = stage_of(trainer) != "fit"
        size, why = self._budget.plan(wanted, cannot_wait=cannot_wait, asked_for=asked_for)
        if size is not None and not asked_for and self._wants_a_try:  # there may be time, so it is worth that
            with self._budget.aside():
                self._try(trainer, pl_module, self._images.images)
            self._settle_times(trainer)
            size, why = self._budget.plan(wanted, cannot_wait=cannot_wait)
        if size is None:
            self._errors.warn_once("time", f"{why}. {self._budget.advice}")
            return None
        started = time.perf_counter()
        with as_in_the_run(trainer, pl_module):
            chosen, judge = self._images.first(size.images), self._run_judge.present(trainer.current_epoch)
            results = [
                self._one_probe(trainer, pl_module, probe, size, chosen, judge=judge) for probe in self._steps.probes
            ]
            results = [self._compared(pl_module, result) for result in results]
        (seconds,) = all_reduce_max([time.perf_counter() - started], trainer.world_size)
        made = max(int(result.tried.max()) for result in results) if any(each.out_of_time for each in results) else None
        self._budget.spend(size, seconds, masks_made=made)
        self._say_size(wanted, size, made)
        return results

    def before_training(self, trainer: Trainer, pl_module: LightningModule) -> list[FillInBlanksResult]:
        """What every probe finds before training, without a judge, which knows nothing yet; none if time is short."""
        chosen = self._images.early(self._steps.num_classes, trainer.world_size)
        if chosen is None:
            return []
        images, labels = chosen
        self._settle_times(trainer)
        expected = images_of_an_epoch(trainer) * self._budget.speeds.masked_image
        wanted = self._wanted_size(len(images))
        size = self._budget.plan_before_training(wanted, epoch_seconds=expected)
        if size is not None and self._wants_a_try:
            self._try(trainer, pl_module, images)
            self._settle_times(trainer)
            size = self._budget.plan_before_training(wanted, epoch_seconds=expected)
        if size is None:
            return []
        some = first_of_each(labels, size.images)
        with as_in_the_run(trainer, pl_module):
            return [
                self._one_probe(trainer, pl_module, probe, size, (images[some], labels[some]), judge=None)
                for probe in self._steps.probes
            ]

    def _settle_times(self, trainer: Trainer) -> None:
        """Give the budget the times of the slowest process."""
        times = [self._budget.tick(), self._budget.take_aside(), *(self._speeds or self._steps.speeds)]
        elapsed, aside, *speeds = all_reduce_max(times, trainer.world_size)
        self._budget.trained(elapsed)
        self._budget.spend_aside(aside)
        self._budget.measure(Speeds(*speeds))

    @property
    def _wants_a_try(self) -> bool:
        return self._speeds is None and self._budget.max_overhead is not None

    def _try(self, trainer: Trainer, pl_module: LightningModule, images: Tensor) -> None:
        """Find out what a probe takes, which takes some time itself."""
        with as_in_the_run(trainer, pl_module):
            self._speeds = tried(
                self._steps.probes, pl_module, images, self._steps.logits_fn, world_size=trainer.world_size
            )

    def _wanted_size(self, images: int) -> ProbeSize:
        """How large a probe would be if there were time for all."""
        probes = self._steps.probes
        fills = any(probe.fill is not None and probe.update != "none" for probe in probes)
        return ProbeSize(max(probe.num_masks for probe in probes), images, fills)

    def _say_size(self, wanted: ProbeSize, size: ProbeSize, made: int | None) -> None:
        masks = min(size.masks, made or size.masks)
        made_size = dataclasses.replace(size, masks=masks)
        if made_size != wanted and "size of the probe" not in self._errors.topics:
            self._errors.topics.add("size of the probe")
            fill = "" if size.fill == wanted.fill else ", which are not filled in"
            rank_zero_info(
                f"FillInBlanksCallback: {self._budget.in_words} leaves time for {masks} of {wanted.masks} masks an "
                f"image, on {size.images} of {wanted.images} images{fill}; it stays at these, so that scores compare"
            )

    def _one_probe(  # noqa: PLR0913 - what is probed, how, and by whom it is judged
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        probe: FillInBlanks,
        size: ProbeSize,
        chosen: tuple[Tensor, Tensor],
        *,
        judge: Judge | None,
    ) -> FillInBlanksResult:
        images, labels = chosen
        share, limit = (trainer.global_rank, trainer.world_size), self._budget.limit(size)
        fill = probe.fill if size.fill else None
        probe = dataclasses.replace(probe, num_masks=min(probe.num_masks, size.masks), fill=fill)
        if is_sharded(trainer):  # each forward pass needs every process, so all do the same ones
            share, limit = (0, 1), None
            probe = dataclasses.replace(probe, chunk_size=probe.chunk_size or usual_chunk_size(images))
        with probing_line(trainer) as progress:
            return probe.probe(
                pl_module,
                images,
                labels,
                logits_fn=self._steps.logits_fn,
                class_names=self._names(trainer, pl_module),
                judge=judge,
                share=share,
                progress=progress,
                seconds=None if limit is None else limit / len(self._steps.probes),
            )

    def _names(self, trainer: Trainer, pl_module: LightningModule) -> Sequence[str] | None:
        names = find_class_names(trainer, pl_module) if self._class_names is None else self._class_names
        if names is not None and len(names) != self._steps.num_classes:
            self._errors.warn_once(
                "class names",
                f"there are {len(names)} class names for {self._steps.num_classes} classes, so none are shown: "
                f"FillInBlanksCallback(class_names=[...]) takes {self._steps.num_classes}",
            )
            return None
        return names

    def _compared(self, pl_module: LightningModule, result: FillInBlanksResult) -> FillInBlanksResult:
        """The result with what has changed since the last probe, undefined in the first."""
        if self._steps.forward_only:
            return result
        masking = result.settings["masking"]
        result, self._last_probes[masking] = compared(
            pl_module, result, self._last_probes.get(masking), self._steps.logits_fn
        )
        return result
