"""The Lightning callback: its settings, its hooks, and the order of events.

What lasts over a run is kept in `steps`, `probe_images`, `judge`, `run_probe`, `time_budget`, `schedule`, `reporter`
and `errors`.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import time
import weakref
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Literal, Unpack, get_args

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from fitb_callbacks.callback.arguments import Stage, check_callable, check_prefix, several_maskings, several_stages
from fitb_callbacks.callback.audit import AuditError, audited
from fitb_callbacks.callback.comparison import scores_of, without_large_tensors
from fitb_callbacks.callback.errors import ErrorPolicy
from fitb_callbacks.callback.judge import RunJudge
from fitb_callbacks.callback.monitors import Monitors
from fitb_callbacks.callback.probe_images import ProbeImages
from fitb_callbacks.callback.reading import muted
from fitb_callbacks.callback.reporter import Reporter
from fitb_callbacks.callback.run_probe import RunProbe
from fitb_callbacks.callback.schedule import Moment, Schedule
from fitb_callbacks.callback.sharding import scatter_parameters
from fitb_callbacks.callback.steps import ADVICE, RunSteps, StepSettings
from fitb_callbacks.callback.time_budget import MaxOverhead, TimeBudget
from fitb_callbacks.callback.trainer import (
    is_dummy,
    logged_accuracy,
    moment_of,
    refused_strategy,
    stage_of,
    weights_probed,
)
from fitb_callbacks.data.batches import BatchAdapter, Reference, batches_of
from fitb_callbacks.integrations.probe_manifest import write_record
from fitb_callbacks.models.chunks import is_out_of_memory
from fitb_callbacks.models.logits import LogitsFn
from fitb_callbacks.probing.probe import FillInBlanks
from fitb_callbacks.probing.result import FillInBlanksResult
from fitb_callbacks.probing.settings import MaskingName, SharedSettings
from fitb_callbacks.scoring.catalogue import ScoresName
from fitb_callbacks.scoring.judges.base import Judge
from fitb_callbacks.utils.distributed import OtherRankError, all_or_none
from fitb_callbacks.utils.nested import tensors_in
from fitb_callbacks.utils.validation import check_choice, check_integer, check_known

__all__ = ["FillInBlanksCallback"]

_CHECKPOINT_BYTES = 9.5 * 10**6
"""What all tensors may take in a checkpoint."""


class FillInBlanksCallback(Callback):
    """Probe the model at the end of every training epoch and log what it learned to every logger of the Trainer.

    The probe images are fixed: the first few of each class among the images of the first validation, or of the first
    training epoch if it has no validation. The run's own first step is watched to find what enters the network, which
    output reaches the loss, and with which labels it is compared. No data loader is iterated for this. Training is not
    changed: weights, gradients, optimizer, buffers, modes, attributes and random numbers stay as they are.

    A probe runs with each validation, so that ModelCheckpoint and EarlyStopping see scores of the same weights, and at
    the end of a training epoch without one. It never runs in the sanity check. Scores and pictures are written at the
    step of Lightning's own metrics. A new Trainer's ``fit`` begins anew.

    **No training is ended by this callback.** What it cannot do costs one warning, which names it, says what was found
    and gives the line to paste; then it is quiet. Only ``on_error="raise"`` lets errors through.

    A judge classifies the prototypes in the model's place, since a model recognises its own gradient. The default one
    needs nothing: it learns from a few training images per class as they pass by in the first epoch. **It shares the
    training data, and so its shortcuts**; give ``reference=`` a small trusted set, and it can tell.

    Scores can be monitored on every rank, under ``prefix/name`` (see `fitb_callbacks.scoring.catalogue.METRICS`). A
    score that is undefined is neither logged nor monitored: while it is missing, EarlyStopping waits for it and
    ModelCheckpoint keeps the latest weights. `result.per_class` has the scores of each class.

    Pictures are logged under ``prefix/prototypes``, ``prefix/confusion`` and ``prefix/timeline``. In a notebook, the
    training's cell shows the last probe.

    Args:
        images_per_class: Probe images of each class, at least 1. None takes 4, or as many as make 40 in all where
            classes are few.
        max_images: Most probe images in all, at least 1; with very many classes, some have none.
        probe_images: Images and labels of your own to probe on: a pair of tensors, a data set or a data loader,
            prepared as for the network. None takes them from the run.
        every_n_epochs: Probe at the end of every n-th epoch only, at least 1, and at the first chance.
        every_n_train_steps: Probe when so many steps have passed since the last probe, at least 1: with the next
            validation, or after the training batch in a run without validation.
        probe_on: Calls of the Trainer that probe: "fit", "validate", "test", or several of them.
        dataloader_idx: Which validation or test loader probe images come from, from 0.
        batch_adapter: ``batch_adapter(batch)`` returns images ``(B, C, H, W)`` and integer labels ``(B,)``, for runs
            in which they are not found.
        logits_fn: ``logits_fn(lightning_module, images)`` returns logits ``(B, classes)``, for runs in which they are
            not found.
        judge: "ridge" for ridge regression on random features, "centroid" for class means, a trained ``nn.Module`` such
            as the model in production, a `Judge`, or None. A module is never trained or moved; put it on the device
            where it shall run. One that shares the training data shares its shortcuts.
        reference: Trusted images and labels for the judge to learn from, in place of the training batches: a pair of
            tensors, a data set or a data loader, prepared as for the model. Read once, before training.
        class_names: One name a class. None takes the ``classes`` of the data set, data module or model, if any.
        prefix: What the keys begin with. Two callbacks in one Trainer need different ones.
        scores: Which scores the loggers get. "key" for the eight that a person should read; "all" for every one, also
            of each of the first 20 classes, under ``prefix_by_class/name class``. Monitors, `history` and `fitb report`
            have all of them either way.
        on_error: "warn" logs each kind of error once, and training goes on; "raise" ends training.
        max_overhead: Share of the training's time that the callback may take, above 0; "auto" for 5%, or two seconds in
            all if that is more; None for any. If there is not enough time, there are fewer masks, then fewer images,
            then images are not filled in, then not every chance to probe is taken. The size of the first probe is kept,
            so that scores compare. With "auto", a training that is too short for a probe gets one of the smallest size
            within the two seconds: at its last chance, or at the first one if another callback monitors a score. A
            number is kept: a training that is too short for it is not probed. A warning says what is left out, and how
            long the training would have to be.
        audit: Compare everything that training depends on (weights, gradients, buffers, modes, attributes, hooks,
            optimizers, schedulers, other callbacks, random numbers) before and after each probe, and report what
            changed, as an error (see ``on_error``). Costs reading all of it twice a probe.
        masking: "random", "progressive", or both in a sequence. The first one's keys are ``prefix/name`` as ever, those
            of a further one ``prefix/masking/name``.
        **settings: The other settings of `fitb_callbacks.FillInBlanks`, by the same names.

    Raises:
        ValueError: If an argument is out of range; the error names it.
        TypeError: If an argument has the wrong type, or is not known; the error names the nearest one.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[FillInBlanksCallback(num_masks=64)], max_epochs=5, accelerator="cpu")
    """

    def __init__(  # noqa: PLR0913 - every setting by its name, as LightningCLI needs it
        self,
        *,
        images_per_class: int | None = None,
        max_images: int = 64,
        probe_images: Reference | None = None,
        every_n_epochs: int | None = None,
        every_n_train_steps: int | None = None,
        probe_on: Stage | Sequence[Stage] = "fit",
        dataloader_idx: int = 0,
        batch_adapter: BatchAdapter | None = None,
        logits_fn: LogitsFn | None = None,
        judge: str | nn.Module | Judge | None = "ridge",
        reference: Reference | None = None,
        class_names: Sequence[str] | None = None,
        prefix: str = "fitb",
        scores: ScoresName = "key",
        on_error: Literal["warn", "raise"] = "warn",
        max_overhead: MaxOverhead = "auto",
        audit: bool = False,
        masking: MaskingName | Sequence[MaskingName] = "random",
        **settings: Unpack[SharedSettings],
    ) -> None:
        super().__init__()
        check_known(settings, inspect.signature(FillInBlanksCallback).parameters)
        probes = {masking: FillInBlanks(masking=masking, **settings) for masking in several_maskings(masking)}
        self.probe = probes.pop(next(iter(probes)))
        self.further_probes = probes
        check_choice("audit", audit, (True, False))
        check_choice("scores", scores, get_args(ScoresName))
        check_callable(batch_adapter=batch_adapter, logits_fn=logits_fn)
        check_prefix(prefix)
        if isinstance(class_names, str):
            raise TypeError(f"class_names must be a sequence of names, one a class; got {class_names!r}")
        stages = several_stages(probe_on)
        check_integer("dataloader_idx", dataloader_idx, at_least=0)
        if probe_images is not None:
            batches_of(probe_images, name="probe_images")
        self.batch_adapter, self.logits_fn = batch_adapter, logits_fn
        self.class_names, self.prefix, self.scores, self.audit = class_names, prefix, scores, audit
        self.judge, self.reference = judge, reference
        self.probe_images, self.probe_on, self.dataloader_idx = probe_images, stages, dataloader_idx
        self.max_overhead = max_overhead
        self.result: FillInBlanksResult | None = None
        """What the last probe found."""
        self.further_results: dict[str, FillInBlanksResult] = {}
        """Further masking to what the last probe with it found."""
        self.history: list[dict[str, float]] = []
        """One entry a probe: ``epoch``, ``step`` and the scores."""
        self._errors = ErrorPolicy(on_error)
        self._images = ProbeImages(images_per_class=images_per_class, max_images=max_images)
        self._schedule = Schedule(every_n_epochs, every_n_train_steps)
        self._last_probes: dict[str, dict[str, Tensor]] = {}  # by masking
        self._monitors: Monitors | None = None
        self._trainer: Any = lambda: None  # a weak reference to that of the last fit
        self._probed_before: tuple[int, int] | None = None  # epoch and step, while a probe is under way
        self.reset()

    @property
    def on_error(self) -> str:
        """What an error in a probe does."""
        return self._errors.on_error

    @on_error.setter
    def on_error(self, on_error: str) -> None:
        self._errors.on_error = on_error

    @property
    def used_logits_fn(self) -> LogitsFn | None:
        """What computes the logits, given or found; None for the model's own ``forward``."""
        return self._steps.logits_fn

    @property
    def read_as(self) -> dict[str, str]:
        """What was found in the run's steps, in a sentence for each stage that was looked at."""
        return self._steps.in_words()

    # --- hooks -----------------------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin a run, or go on with the one before if it is the same Trainer's."""
        if stage_of(trainer) in self.probe_on:
            self._begin(trainer, pl_module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the Trainer as it was, and give loggers that send in the background a few seconds to finish."""
        self._finish(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """As `teardown`, which Lightning leaves out after an error."""
        self._finish(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show what the network fills in before it is trained, if its sanity check has shown the images for that."""
        begins = trainer.global_step == 0 and not self.history
        if begins and stage_of(trainer) in self.probe_on and _real_loggers(trainer):
            self._look_before_training(trainer, pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Look at a training batch if anything is wanted of it: class means, probe images."""
        if self._is_on(trainer) and self._steps.wants_training_batch(trainer):
            self._steps.begins("training", pl_module, batch)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """The forward pass that may be watched is over."""
        self._steps.forward_ends(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Probe in mid-epoch, if that was asked for and there is no validation."""
        self._steps.ends("training", trainer, pl_module)
        if not trainer.enable_validation and self._schedule.every_n_train_steps is not None:
            self._probe_if_due(trainer, pl_module, "batch end")

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Look at a validation batch if anything is wanted of it: how the model is used, probe images."""
        if self._is_on(trainer) and self._steps.wants_evaluation_batch(trainer, dataloader_idx):
            self._steps.begins("validation", pl_module, batch)

    def on_validation_batch_end(  # noqa: PLR0913 - Lightning's hook
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Read the batch that was looked at."""
        self._steps.ends("validation", trainer, pl_module)

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """As for validation."""
        if self._is_on(trainer) and self._steps.wants_evaluation_batch(trainer, dataloader_idx):
            self._steps.begins("test", pl_module, batch)

    def on_test_batch_end(  # noqa: PLR0913 - Lightning's hook
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """As for validation."""
        self._steps.ends("test", trainer, pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Probe with the validation, if a probe is due."""
        if not trainer.sanity_checking:
            self._probe_if_due(trainer, pl_module, "validation")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Probe with the test, if that was asked for."""
        self._probe_if_due(trainer, pl_module, "validation")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the records, now that the validation's own accuracy is known."""
        self._flush(trainer)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """As for validation."""
        self._flush(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Probe at the end of a training epoch without validation."""
        if stage_of(trainer) in self.probe_on:
            self._run_judge.epoch_ends(trainer.current_epoch)
        self._probe_if_due(trainer, pl_module, "epoch end")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Probe once in a run that had no chance before, or no time."""
        if not self.history and (self._schedule.probed_epoch < 0 or self._budget.waits):
            self._probe_if_due(trainer, pl_module, "run end")

    # --- the run ---------------------------------------------------------------------------------------------------

    def reset(self) -> None:
        """Forget the last run: its result, history, probe images, judge and times. Each new Trainer's fit does this."""
        self.result, self.further_results, self.history = None, {}, []
        self._images.begin()
        self._schedule.reset()
        self._budget = TimeBudget(self.max_overhead)
        self._run_judge = RunJudge(self.judge, self.reference, self._errors)
        self._reporter = Reporter(self._errors, self.scores)
        self._last_probes.clear()
        self._forget_steps()

    def _forget_steps(self) -> None:
        settings = StepSettings(
            probes=(self.probe, *self.further_probes.values()),
            prefix=self.prefix,
            batch_adapter=self.batch_adapter,
            logits_fn=self.logits_fn,
            probe_images=self.probe_images,
            dataloader_idx=self.dataloader_idx,
        )
        self._steps = RunSteps(
            settings,
            images=self._images,
            judge=self._run_judge,
            budget=self._budget,
            errors=self._errors,
            images_change=self._last_probes.clear,
        )
        self._run_probe = RunProbe(
            steps=self._steps,
            images=self._images,
            judge=self._run_judge,
            budget=self._budget,
            errors=self._errors,
            last_probes=self._last_probes,
            class_names=self.class_names,
        )
        self._off_everywhere = False

    def _is_on(self, trainer: Trainer) -> bool:
        return stage_of(trainer) in self.probe_on and not self._errors.off

    def _begin(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._errors.begin()
        if stage_of(trainer) == "fit":
            goes_on = self._trainer() is trainer and trainer.current_epoch > self._schedule.probed_epoch
            self._trainer = weakref.ref(trainer)
            if not goes_on:
                self.reset()
        self._forget_steps()
        self._budget.begin()
        self._budget.tick()
        self._reporter.begin()
        self._monitors = Monitors(trainer, self.prefix)
        if (reason := refused_strategy(trainer)) is not None:
            self._errors.switch_off(reason)
        elif (which := weights_probed(trainer, self)) is not None:
            rank_zero_info(f"FillInBlanksCallback: {which}")

    def _finish(self, trainer: Trainer) -> None:
        self._steps.end()
        if self._monitors is not None:
            self._monitors.restore()
            self._monitors = None
        self._flush(trainer, validated=False)  # after an error within a validation
        if trainer.is_global_zero and self.history:
            from fitb_callbacks.integrations.loggers import settle

            for logger in trainer.loggers:
                settle(logger)

    # --- the probe -------------------------------------------------------------------------------------------------

    def _probe_if_due(self, trainer: Trainer, pl_module: LightningModule, kind: str) -> None:
        if stage_of(trainer) not in self.probe_on or self._off_on_any_process(trainer):
            return
        moment = moment_of(trainer, kind)
        fitting = stage_of(trainer) == "fit"
        due, _ = self._schedule.is_due(moment) if fitting else (True, "")
        if due:
            self._probed_before = self._schedule.probed_epoch, self._schedule.probed_step
            if fitting:
                self._schedule.probed(moment)
            try:
                self._probe(trainer, pl_module, moment)
            finally:
                self._probed_before = None
        if fitting and self._monitors is not None:
            for line in self._monitors.wait_for_missing():
                self._errors.warn_once(line, f"there is no such score yet: {line}")

    def _off_on_any_process(self, trainer: Trainer) -> bool:
        """Whether nothing is probed any more, the same on every process."""
        if self._off_everywhere:
            return True
        off = self._errors.off
        if trainer.world_size > 1:
            off = bool(trainer.strategy.reduce_boolean_decision(off, all=False))
        if off:
            self._off_everywhere = True
            self._errors.switch_off("another process cannot probe; its own warning says why")
            if self._monitors is not None:
                for line in self._monitors.wait_for_missing():
                    self._errors.warn_once(line, f"there will be no such score: {line}")
        return off

    def _probe(self, trainer: Trainer, pl_module: LightningModule, moment: Moment) -> None:
        before = 0
        while self._attempt(trainer, pl_module, moment):  # out of memory: outside the handler, tensors are free by now
            before = before or self._number_of_images
            self._make_smaller()
        if before and not self._errors.off:
            self._errors.warn_once(
                "memory",
                f"a probe ran out of memory; from now on it takes {self._number_of_images} images, not {before}",
            )

    @property
    def _number_of_images(self) -> int:
        return 0 if self._images.images is None else len(self._images.images)

    def _attempt(self, trainer: Trainer, pl_module: LightningModule, moment: Moment) -> bool:
        """Probe; returns whether that failed for lack of memory, the same on every process."""
        if self._errors.off:
            return False
        results: list[FillInBlanksResult] | None = None
        scatter_parameters(trainer)
        try:
            with audited(trainer, pl_module) if self.audit else nullcontext():
                started = time.perf_counter()
                try:
                    with all_or_none(trainer.world_size), muted(pl_module):
                        cannot_wait = self._cannot_wait(trainer, moment)
                        results = self._run_probe.make(trainer, pl_module, cannot_wait=cannot_wait)
                except Exception as error:
                    if self.on_error != "raise" and self._memory_ran_out(trainer, error):
                        return True
                    raise
                seconds = time.perf_counter() - started
                if results is not None:
                    with self._budget.aside():
                        self._report(trainer, pl_module, results, moment, seconds)
        except Exception as error:  # noqa: BLE001 - a probe runs the user's model, and must not end training
            self._failed(error, moment)
        finally:
            self._budget.restart()
        return False

    def _look_before_training(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the loggers a picture of the untrained network, if there is time and every process can."""
        ready = self._steps.checked and not self._steps.forward_only and not self._errors.off
        if trainer.world_size > 1:
            ready = bool(trainer.strategy.reduce_boolean_decision(ready, all=True))
        if not ready:
            return
        scatter_parameters(trainer)
        with self._budget.aside(), self._errors.degrade("untrained", "the untrained network is not shown"):
            with audited(trainer, pl_module) if self.audit else nullcontext(), all_or_none(trainer.world_size):
                results = self._run_probe.before_training(trainer, pl_module)
            if results and trainer.is_global_zero:
                self._reporter.write_untrained(_real_loggers(trainer), results, prefix=self.prefix)

    def _memory_ran_out(self, trainer: Trainer, error: Exception) -> bool:
        """Whether a probe failed for lack of memory on any process, each of which must call this."""
        short = is_out_of_memory(error) and self._images.images is not None
        return short if trainer.world_size == 1 else bool(trainer.strategy.reduce_boolean_decision(short, all=False))

    def _failed(self, error: Exception, moment: Moment) -> None:
        """An error in a probe: raised if that was asked for, otherwise said once."""
        if self.on_error == "raise":
            raise error
        if isinstance(error, LookupError) and self._images.images is None:
            self._errors.switch_off(f"{error}. {ADVICE}")
            return
        reason = f": {error}" if isinstance(error, (OtherRankError, AuditError)) else ""
        self._errors.warn_once(
            f"probe {type(error).__name__}",
            f"the probe of epoch {moment.epoch} failed; training goes on{reason}",
            trace=True,
        )

    def _make_smaller(self) -> None:
        """After running out of memory: half the images from now on, or off."""
        number = self._number_of_images // 2
        if number == 0:
            self._errors.switch_off("there is not enough memory for a probe of a single image")
            return
        self._images.images, self._images.labels = self._images.first(number)
        self._last_probes.clear()

    def _cannot_wait(self, trainer: Trainer, moment: Moment) -> bool:
        """Whether a run that has no probe yet needs one now: it is the last chance, or another callback looks at it."""
        if moment.kind == "run end":
            return True
        last_epoch = trainer.max_epochs is not None and moment.epoch + 1 == trainer.max_epochs
        return (last_epoch and moment.last_validation) or bool(self._monitors and self._monitors.keys())

    # --- what comes of it ------------------------------------------------------------------------------------------

    def _report(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        results: Sequence[FillInBlanksResult],
        moment: Moment,
        seconds: float,
    ) -> None:
        self.result, *further = results
        self.further_results = dict(zip(self.further_probes, further, strict=True))
        metrics = scores_of(results, seconds=seconds, overhead=self._budget.last_overhead)
        self.history.append({"epoch": moment.epoch, "step": moment.step, **metrics})
        self._probed_before = None
        for name, value in metrics.items() if moment.kind != "run end" else ():  # too late for any monitor
            if not math.isnan(value):  # what is not defined is not monitored
                on_step = moment.kind == "batch end"
                key = f"{self.prefix}/{name}"
                pl_module.log(key, value, on_step=on_step, on_epoch=not on_step, logger=False, batch_size=1)
        self._report_nonfinite(moment, metrics)
        if trainer.is_global_zero:
            self._write(trainer, metrics, moment)
            title = f"{self.prefix}, epoch {moment.epoch}"
            self._reporter.show_in_notebook(self.result, title, judge=self._run_judge.in_words)

    def _report_nonfinite(self, moment: Moment, metrics: Mapping[str, float]) -> None:
        if (share := max(value for name, value in metrics.items() if name.endswith("nonfinite"))) > 0:
            self._errors.warn_once(
                "nonfinite",
                f"{share:.1%} of the masked images in epoch {moment.epoch} gave updates that are not finite; "
                f"they are left out. {self.prefix}/nonfinite says how many in each epoch",
            )

    def _write(self, trainer: Trainer, metrics: Mapping[str, float], moment: Moment) -> None:
        loggers = _real_loggers(trainer)
        if not loggers or self.result is None:
            return
        settings = write_record(  # what a later probe needs to be the same as this one
            self.probe,
            self.result,
            self._run_judge.last,
            images_per_class=self._images.images_per_class,
            max_images=self._images.max_images,
        )
        self._reporter.write(
            loggers,
            [self.result, *self.further_results.values()],
            metrics,
            settings,
            epoch=moment.epoch,
            step=moment.step,
            prefix=self.prefix,
            judge=self._run_judge.in_words,
        )
        if moment.kind != "validation":
            self._reporter.flush(loggers)

    def _flush(self, trainer: Trainer, *, validated: bool = True) -> None:
        if trainer.is_global_zero and self._reporter.waits:
            loggers = _real_loggers(trainer)
            accuracy: tuple[str, float] | None = None
            with self._errors.degrade("accuracy", "the training's own accuracy is not in the report"):
                accuracy = logged_accuracy(trainer.callback_metrics, self.prefix) if validated else None
            self._reporter.flush(loggers, accuracy)

    # --- state -----------------------------------------------------------------------------------------------------

    @property
    def state_key(self) -> str:
        """Tells this callback's state from that of another with a different prefix."""
        return self._generate_state_key(prefix=self.prefix)

    def state_dict(self) -> dict[str, Any]:
        """Probe images, history and what is compared: tensors and primitives, loadable with ``weights_only=True``.

        Less than 10 MB: probe images take what room the rest leaves, or are left out and chosen anew.

        A checkpoint from the middle of the first epoch holds the images found so far (with several processes, those
        of the first process).
        """
        # A checkpoint that a signal writes in the middle of a probe, before a job is requeued, does not hold its scores
        probed_epoch, probed_step = self._probed_before or (self._schedule.probed_epoch, self._schedule.probed_step)
        state = {
            "history": self.history,
            "probed_epoch": probed_epoch,
            "probed_step": probed_step,
            "last_probes": {masking: without_large_tensors(last) for masking, last in self._last_probes.items()},
            "timelines": self._reporter.state_dict(),
            "size": self._budget.state_dict(),
            "settings": self._settings(),
            "independent": self.result is not None and bool(self.result.settings.get("independent")),
            "class_names": None if self.result is None else self.result.class_names,
            **self._run_judge.state_dict(),
        }
        room = _CHECKPOINT_BYTES - sum(tensor.nbytes for _, tensor in tensors_in(state))
        return state | self._images.state_dict(room)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the same probe images, history, class means and last probe."""
        self._images.load_state_dict(state_dict)
        self.history = [dict(entry) for entry in state_dict["history"]]
        self._schedule.probed_epoch, self._schedule.probed_step = state_dict["probed_epoch"], state_dict["probed_step"]
        self._reporter.load_state_dict(state_dict["timelines"])
        self._budget.load_state_dict(state_dict["size"])
        self._run_judge.load_state_dict(state_dict)
        now, before = self._settings(), state_dict["settings"]
        if changed := [name for name in now if now[name] != before.get(name)]:
            listed = ", ".join(f"{name} was {before.get(name)}, is {now[name]}" for name in changed)
            self._errors.warn_once(
                "settings",
                f"the checkpoint's probes had other settings ({listed}): scores before and after do not compare",
            )
            self._budget.load_state_dict({})
            if {"images_per_class", "max_images"} & set(changed):
                self._images.begin()  # said already
        self._last_probes.clear()
        if not changed:
            self._last_probes.update(state_dict["last_probes"])

    def _settings(self) -> dict[str, Any]:
        """All that scores depend on, as primitives."""
        chosen = {"images_per_class": self._images.images_per_class, "max_images": self._images.max_images}
        return chosen | {"maskings": [self.probe.masking, *self.further_probes]} | dataclasses.asdict(self.probe)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Warn if the checkpoint was written without this callback."""
        if stage_of(trainer) == "fit" and self.state_key not in checkpoint.get("callbacks", {}):
            self._errors.warn_once(
                "no state",
                f"the checkpoint holds no state for prefix {self.prefix!r}; probe images are chosen anew, and the "
                "history begins with this run",
            )


def _real_loggers(trainer: Trainer) -> list[Logger]:
    return [logger for logger in trainer.loggers if not is_dummy(logger)]


def _full_signature() -> inspect.Signature:
    """The callback's own parameters and the probe's, so that ``help`` and editors show them all."""
    own = inspect.signature(FillInBlanksCallback.__init__).parameters
    probe = inspect.signature(FillInBlanks).parameters
    shared = [probe[name].replace(kind=inspect.Parameter.KEYWORD_ONLY) for name in SharedSettings.__annotations__]
    return inspect.Signature([*(each for name, each in own.items() if name not in ("self", "settings")), *shared])


FillInBlanksCallback.__signature__ = _full_signature()  # type: ignore[attr-defined]
