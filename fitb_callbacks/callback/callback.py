"""The Lightning callback: its settings, its hooks, and the order of events.

What lasts over a run is kept in `probe_images`, `reading`, `judge`, `reporter`, `time_budget`, `schedule` and `errors`.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, Unpack, get_args

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from fitb_callbacks.callback.audit import AuditError, audited
from fitb_callbacks.callback.comparison import compared, scores_of, without_large_tensors
from fitb_callbacks.callback.errors import ErrorPolicy, ProbeOffError
from fitb_callbacks.callback.first_try import tried
from fitb_callbacks.callback.judge import RunJudge
from fitb_callbacks.callback.monitors import Monitors
from fitb_callbacks.callback.probe_images import ProbeImages, first_of_each
from fitb_callbacks.callback.progress_bar import probing_line
from fitb_callbacks.callback.reading import StepReader, muted
from fitb_callbacks.callback.reporter import Reporter
from fitb_callbacks.callback.schedule import Moment, Schedule
from fitb_callbacks.callback.time_budget import ProbeSize, Speeds, TimeBudget
from fitb_callbacks.callback.trainer import (
    find_class_names,
    images_of_an_epoch,
    is_dummy,
    is_last_validation_of_epoch,
    is_sharded,
    logged_accuracy,
    refused_strategy,
    stage_of,
    validates_in_this_epoch,
    weights_probed,
)
from fitb_callbacks.data.batches import BatchAdapter, Reference, batches_of, read_batch
from fitb_callbacks.data.selection import every_label, one_label_each
from fitb_callbacks.integrations.probe_manifest import write_record
from fitb_callbacks.models.chunks import is_out_of_memory, usual_chunk_size
from fitb_callbacks.models.logits import LogitsFn
from fitb_callbacks.models.observation import Observation
from fitb_callbacks.models.volumes import folded
from fitb_callbacks.probing.probe import FillInBlanks
from fitb_callbacks.probing.result import FillInBlanksResult
from fitb_callbacks.probing.settings import MaskingName, SharedSettings
from fitb_callbacks.scoring.catalogue import ScoresName
from fitb_callbacks.scoring.judges.base import Judge
from fitb_callbacks.utils.distributed import OtherRankError, all_or_none, all_reduce_max
from fitb_callbacks.utils.messages import one_line
from fitb_callbacks.utils.nested import tensors_in
from fitb_callbacks.utils.rng import isolate_rng
from fitb_callbacks.utils.validation import check_choice, check_integer, check_known

__all__ = ["FillInBlanksCallback"]

Stage = Literal["fit", "validate", "test"]
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
        max_overhead: Share of the training's time that the callback may take, above 0, or two seconds in all if that is
            more; None for any. If there is not enough time, there are fewer masks, then fewer images, then images are
            not filled in, then not every chance to probe is taken. The size of the first probe is kept, so that scores
            compare. A training that is too short for a probe gets one of the smallest size within the two seconds: at
            its last chance, or at the first one if another callback monitors a score. If that is not enough, either,
            there is none, and a warning that says so.
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
        max_overhead: float | None = 0.05,
        audit: bool = False,
        masking: MaskingName | Sequence[MaskingName] = "random",
        **settings: Unpack[SharedSettings],
    ) -> None:
        super().__init__()
        check_known(settings, inspect.signature(FillInBlanksCallback).parameters)
        maskings = tuple(masking) if isinstance(masking, (list, tuple)) else (masking,)
        for value in maskings:
            check_choice("masking", value, ("random", "progressive"))
        if not maskings or len(set(maskings)) < len(maskings):
            raise ValueError(f"masking must be one masking or several different ones; got {masking!r}")
        probes = {masking: FillInBlanks(masking=masking, **settings) for masking in maskings}
        self.probe = probes.pop(maskings[0])
        self.further_probes = probes
        check_choice("audit", audit, (True, False))
        check_choice("scores", scores, get_args(ScoresName))
        for name, function in (("batch_adapter", batch_adapter), ("logits_fn", logits_fn)):
            if function is not None and not callable(function):
                raise TypeError(f"{name} must be callable or None; got {function!r}")
        if not isinstance(prefix, str) or not prefix.strip("/ "):
            raise ValueError(f"prefix must be a string that is not empty; got {prefix!r}")
        if not re.fullmatch(r"[\w\-. /]{1,100}", prefix, re.ASCII) or {"", ".", ".."} & set(prefix.split("/")):
            raise ValueError(
                "prefix must be at most 100 letters, digits, '_', '-', '.', ' ' and '/', as it is a part of keys and "
                f"file names, with no part between slashes that is empty, '.' or '..'; got {prefix!r}"
            )
        if isinstance(class_names, str):
            raise TypeError(f"class_names must be a sequence of names, one a class; got {class_names!r}")
        stages = (probe_on,) if isinstance(probe_on, str) else tuple(probe_on)
        for stage in stages:
            check_choice("probe_on", stage, get_args(Stage))
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
        self._readers: dict[str, StepReader] = {}
        self._monitors: Monitors | None = None
        self._trainer: Any = lambda: None  # a weak reference to that of the last fit
        self.used_logits_fn: LogitsFn | None = None
        """What computes the logits, given or found; None for the model's own ``forward``."""
        self._speeds = Speeds()
        self._probed_before: tuple[int, int] | None = None  # epoch and step, while a probe is under way
        self.reset()

    @property
    def on_error(self) -> str:
        """What an error in a probe does."""
        return self._errors.on_error

    @on_error.setter
    def on_error(self, on_error: str) -> None:
        self._errors.on_error = on_error

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
        if self._wants_training_batch(trainer):
            self._step_begins("training", pl_module, batch)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """The forward pass that may be watched is over."""
        self._step_ends("training", trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Probe in mid-epoch, if that was asked for and there is no validation."""
        self._step_ends("training", trainer, pl_module)
        if not trainer.enable_validation and self._schedule.every_n_train_steps is not None:
            self._probe_if_due(trainer, pl_module, "batch end")

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Look at a validation batch if anything is wanted of it: how the model is used, probe images."""
        if self._wants_evaluation_batch(trainer, dataloader_idx):
            self._step_begins("validation", pl_module, batch)

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
        self._step_ends("validation", trainer, pl_module)

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """As for validation."""
        if self._wants_evaluation_batch(trainer, dataloader_idx):
            self._step_begins("test", pl_module, batch)

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
        self._step_ends("test", trainer, pl_module)

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
        self._last_probes = {}
        self._forget_steps()

    def _forget_steps(self) -> None:
        self._readers = {
            stage: StepReader(stage, self.batch_adapter, self.logits_fn) for stage in ("validation", "training", "test")
        }
        self._pending: tuple[Tensor, Tensor] | None = None
        self._batch: Any = None
        self._checked, self._checked_by = False, ""
        self._given_taken = False
        self._forward_only = False
        self._image_shape: tuple[int, ...] | None = None
        self._num_classes = 0
        self._off_everywhere = False

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
        for reader in self._readers.values():
            reader.end()
        if self._monitors is not None:
            self._monitors.restore()
            self._monitors = None
        self._flush(trainer, validated=False)  # after an error within a validation
        if trainer.is_global_zero and self.history:
            from fitb_callbacks.integrations.loggers import settle

            for logger in trainer.loggers:
                settle(logger)

    # --- the steps -------------------------------------------------------------------------------------------------

    def _is_on(self, trainer: Trainer) -> bool:
        return stage_of(trainer) in self.probe_on and not self._errors.off

    def _wants_training_batch(self, trainer: Trainer) -> bool:
        if not self._is_on(trainer):
            return False
        wants_images = self._images.images is None and not validates_in_this_epoch(trainer)
        return wants_images or not self._checked or self._run_judge.wants_batches(trainer.current_epoch)

    def _wants_evaluation_batch(self, trainer: Trainer, dataloader_idx: int) -> bool:
        return (
            self._is_on(trainer)
            and dataloader_idx == self._loader_looked_at(trainer)
            and (
                not self._checked
                or self._images.images is None
                or self._images.wants_to_look
                or self._is_first_batch(trainer)
            )
        )

    def _loader_looked_at(self, trainer: Trainer) -> int:
        """`dataloader_idx`, or 0 if there is no such loader."""
        number = len(trainer.num_test_batches if stage_of(trainer) == "test" else trainer.num_val_batches)
        if self.dataloader_idx < number:
            return self.dataloader_idx
        self._errors.warn_once(
            "dataloader_idx",
            f"dataloader_idx must be less than {number}, the number of loaders; got {self.dataloader_idx}. Probe "
            "images come from loader 0",
        )
        return 0

    def _is_first_batch(self, trainer: Trainer) -> bool:
        return bool(trainer.fit_loop.epoch_loop.val_loop.batch_progress.current.ready <= 1)

    def _step_begins(self, stage: str, pl_module: LightningModule, batch: Any) -> None:
        reader = self._readers[stage]
        with self._budget.aside(), self._degrade("batch", f"a {stage} batch could not be read"):
            reader.begin(pl_module, batch)
            self._batch = batch
            if reader.understood and not reader.watches:  # now, as a step may change its batch in place
                self._pending = reader.read(batch)

    def _step_ends(self, stage: str, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the step that was looked at, if one was; called once or twice for each."""
        reader, batch, self._batch = self._readers[stage], self._batch, None
        seen = reader.end()
        if batch is None:
            return
        pending, self._pending = self._pending, None
        with self._budget.aside(), self._degrade("batch", f"a {stage} batch could not be read"):
            if not reader.understood:
                self._understand(reader, trainer, pl_module, batch, seen)
            if reader.understood and not self._errors.off:
                self._use(stage, trainer, pl_module, *(pending or reader.read(batch, seen)))

    def _understand(
        self, reader: StepReader, trainer: Trainer, pl_module: LightningModule, batch: Any, seen: Observation | None
    ) -> None:
        try:
            with trainer.precision_plugin.forward_context(), isolate_rng():
                reader.understand(pl_module, batch, seen, self._image_shape)
            if not reader.watches:
                reader.read(batch)
        except TypeError as error:
            if self._checked:  # the validation serves for everything but the class means
                self._run_judge.give_up()
                raise
            self._errors.switch_off(f"{error}. The batch is {reader.batch_words}. {_ADVICE}")
            return
        for note in () if reader.usage is None else reader.usage.notes:
            rank_zero_info(f"FillInBlanksCallback: {note}")

    def _use(self, stage: str, trainer: Trainer, pl_module: LightningModule, images: Tensor, labels: Tensor) -> None:
        """Take what is wanted of a step's images ``(B, C, H, W)`` and labels."""
        if not self._checked and (stage == "training" or not self._readers[stage].silent):
            self._check(trainer, pl_module, self._readers[stage], images, labels)
        if self._errors.off or not self._checked:
            return
        self._follow_labels(stage)
        everything = self._without_bad_items(*(every_label(images, labels) if labels.ndim == 2 else (images, labels)))
        images, labels = self._without_bad_items(*self._one_label_each(images, labels))
        self._follow_size(images)
        wanted = stage != "training" or not validates_in_this_epoch(trainer)
        if wanted and self._images.images is None and trainer.sanity_checking:
            self._images.offer_spare(images, labels)
        elif wanted and self._images.images is None:
            self._images.offer(images, labels)
        elif stage != "training" and self._images.wants_to_look and not trainer.sanity_checking:
            self._images.look_for(images, labels)
        if stage == "training":
            images, labels = everything
            self._run_judge.stream(folded(images), labels, epoch=trainer.current_epoch)

    def _follow_labels(self, stage: str) -> None:
        """Choose new probe images if labels turn out not to exclude each other."""
        logits_fn = self._readers[stage].logits_fn
        if stage == self._checked_by and logits_fn is not self.used_logits_fn:
            self.used_logits_fn = logits_fn
            self._errors.warn_once(
                "labels",
                "an image has several labels, unlike those before it: each label is probed by itself from now on, and "
                "scores before and after do not compare",
            )
            self._images.begin()
            self._last_probes = {}

    def _one_label_each(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Of independent labels ``(B, labels)``, one of each image's own; otherwise what was given."""
        return one_label_each(images, labels) if labels.ndim == 2 else (images, labels)

    def _without_bad_items(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Leave out images that hold NaN and labels that are no class."""
        no_class = (labels < 0) | (labels >= self._num_classes)
        not_finite = _not_finite(images)
        bad = no_class.to(images.device) | not_finite
        if not bad.any():
            return images, labels
        found = sorted(set(labels[no_class].tolist()))[:5]
        what = [f"labels {found} are none of the {self._num_classes} classes"] if found else []
        what += ["images hold NaN or infinite values"] if not_finite.any() else []
        self._errors.warn_once("items", f"items are left out: {' and '.join(what)}")
        return images[~bad], labels[~bad.to(labels.device)]

    def _follow_size(self, images: Tensor) -> None:
        """Choose new probe images if the run's images have changed their size."""
        chosen = self._images.images
        if chosen is None or self.probe_images is not None or not len(images) or images.shape[1:] == chosen.shape[1:]:
            return
        self._errors.warn_once(
            "size",
            f"the run's images are now {tuple(images.shape[1:])}, no longer {tuple(chosen.shape[1:])}: probe images "
            "are chosen anew, and scores before and after do not compare",
        )
        self._images.begin()
        self._last_probes = {}

    def _check(
        self, trainer: Trainer, pl_module: LightningModule, reader: StepReader, images: Tensor, labels: Tensor
    ) -> None:
        """Put a few images of the first step through everything once, to find out now what cannot work."""
        images, labels = self._one_label_each(images, labels)
        good = (labels >= 0) & images.flatten(1).isfinite().all(dim=1).to(labels.device)
        images, labels = images[good.to(images.device)], labels[good]
        if not len(images):
            return
        self._forward_only = reader.usage is not None and not reader.usage.differentiable
        if self._forward_only:
            self._run_judge.give_up()
            self._errors.warn_once(
                "gradients",
                "no gradient passes from the logits back to the images, so nothing is filled in; what the model relies "
                f"on is measured by forward passes: {self.prefix}/shortcut, {self.prefix}/spot_share",
            )
        with self._errors_switch_off(reader):
            with self._as_in_the_run(trainer, pl_module):
                result, self._speeds = tried(self._probes(), pl_module, images, reader.logits_fn)
            self._num_classes = int(result.settings["num_classes"])
            self.used_logits_fn, self._checked_by = reader.logits_fn, reader.stage
            self._checked, self._image_shape = True, tuple(images.shape[1:])
            if not trainer.sanity_checking:
                self._images.offer_spare(*self._without_bad_items(images, labels))
            self._take_given_images(images)
        with self._degrade("judge", "the judge does not fit, so there is none"):
            try:
                shape, depth = tuple(folded(images).shape[1:]), images.shape[2] if images.ndim == 5 else None
                self._run_judge.check(shape, self._num_classes, depth=depth, batch_adapter=self.batch_adapter)
            except Exception:
                self._run_judge.give_up()
                raise

    def _take_given_images(self, like: Tensor) -> None:
        if self.probe_images is None or self._given_taken:
            return
        self._given_taken = True
        self._images.give_up_images()
        with isolate_rng():
            for batch in batches_of(self.probe_images, name="probe_images"):
                images, labels = read_batch(batch, self.batch_adapter)
                if images.shape[1:] != like.shape[1:]:
                    raise ValueError(
                        f"probe_images must be of the shape {tuple(like.shape[1:])}, as they enter the network; got "
                        f"{tuple(images.shape[1:])}"
                    )
                self._images.offer(*self._without_bad_items(images.to(like.dtype), labels))
        if self._images.fix(world_size=1):  # every process has the same ones
            self._errors.warn_once("other images", _OTHER_IMAGES)
            self._last_probes = {}

    # --- the probe -------------------------------------------------------------------------------------------------

    def _probe_if_due(self, trainer: Trainer, pl_module: LightningModule, kind: str) -> None:
        if stage_of(trainer) not in self.probe_on or self._off_on_any_process(trainer):
            return
        moment = self._moment(trainer, kind)
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

    def _moment(self, trainer: Trainer, kind: str) -> Moment:
        # Ranks with loaders of different lengths may see this differently; where one is not sure, all wait.
        last = True
        if kind == "validation" and stage_of(trainer) == "fit":
            last = bool(trainer.strategy.reduce_boolean_decision(is_last_validation_of_epoch(trainer), all=True))
        step = trainer.fit_loop.epoch_loop._batches_that_stepped
        # At the epoch's end the counter has moved on; Lightning steps back by one, too, to log the epoch's metrics
        return Moment(trainer.current_epoch, step - 1 if kind in ("epoch end", "run end") else step, kind, last)

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
        try:
            with audited(trainer, pl_module) if self.audit else nullcontext():
                started = time.perf_counter()
                try:
                    with all_or_none(trainer.world_size), muted(pl_module):
                        results = self._run(trainer, pl_module, moment)
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
        ready = self._checked and not self._forward_only and not self._errors.off
        if trainer.world_size > 1:
            ready = bool(trainer.strategy.reduce_boolean_decision(ready, all=True))
        if not ready:
            return
        with self._budget.aside(), self._degrade("untrained", "the untrained network is not shown"):
            with audited(trainer, pl_module) if self.audit else nullcontext(), all_or_none(trainer.world_size):
                results = self._untrained(trainer, pl_module)
            if results and trainer.is_global_zero:
                self._reporter.write_untrained(_real_loggers(trainer), results, prefix=self.prefix)

    def _untrained(self, trainer: Trainer, pl_module: LightningModule) -> list[FillInBlanksResult]:
        """What every probe finds before training, without a judge, which knows nothing yet; none if time is short."""
        chosen = self._images.early(self._num_classes, trainer.world_size)
        if chosen is None:
            return []
        images, labels = chosen
        aside, *speeds = all_reduce_max([self._budget.take_aside(), *self._speeds], trainer.world_size)
        self._budget.spend_aside(aside)
        self._budget.measure(Speeds(*speeds))
        expected = images_of_an_epoch(trainer) * self._budget.speeds.masked_image
        size = self._budget.plan_before_training(self._wanted_size(len(images)), epoch_seconds=expected)
        if size is None:
            return []
        some = first_of_each(labels, size.images)
        with self._as_in_the_run(trainer, pl_module):
            return [
                self._one_probe(trainer, pl_module, probe, size, (images[some], labels[some]), judge=None)
                for probe in self._probes()
            ]

    def _memory_ran_out(self, trainer: Trainer, error: Exception) -> bool:
        """Whether a probe failed for lack of memory on any process, each of which must call this."""
        short = is_out_of_memory(error) and self._images.images is not None
        return short if trainer.world_size == 1 else bool(trainer.strategy.reduce_boolean_decision(short, all=False))

    def _failed(self, error: Exception, moment: Moment) -> None:
        """An error in a probe: raised if that was asked for, otherwise said once."""
        if self.on_error == "raise":
            raise error
        if isinstance(error, LookupError) and self._images.images is None:
            self._errors.switch_off(f"{error}. {_ADVICE}")
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
        self._last_probes = {}

    def _run(self, trainer: Trainer, pl_module: LightningModule, moment: Moment) -> list[FillInBlanksResult] | None:
        """What every probe finds, the same on every process; None if there is no time for any."""
        if self._images.fix(trainer.world_size):
            self._errors.warn_once("other images", _OTHER_IMAGES)
            self._last_probes = {}
        assert self._images.images is not None
        times = [self._budget.tick(), self._budget.take_aside(), *self._speeds]
        elapsed, aside, *speeds = all_reduce_max(times, trainer.world_size)
        self._budget.trained(elapsed)
        self._budget.spend_aside(aside)
        self._budget.measure(Speeds(*speeds))
        wanted = self._wanted_size(len(self._images.images))
        size, why = self._budget.plan(wanted, cannot_wait=self._cannot_wait(trainer, moment))
        if size is None:
            self._errors.warn_once("time", f"{why}. max_overhead=None takes every chance")
            return None
        started = time.perf_counter()
        with self._as_in_the_run(trainer, pl_module):
            chosen, judge = self._images.first(size.images), self._run_judge.present(trainer.current_epoch)
            results = [
                self._one_probe(trainer, pl_module, probe, size, chosen, judge=judge) for probe in self._probes()
            ]
            results = [self._compared(pl_module, result) for result in results]
        (seconds,) = all_reduce_max([time.perf_counter() - started], trainer.world_size)
        made = max(int(result.tried.max()) for result in results) if any(each.out_of_time for each in results) else None
        self._budget.spend(size, seconds, masks_made=made)
        self._say_size(wanted, size, made)
        return results

    def _cannot_wait(self, trainer: Trainer, moment: Moment) -> bool:
        """Whether a run that has no probe yet needs one now: it is the last chance, or another callback looks at it."""
        if moment.kind == "run end" or stage_of(trainer) != "fit":
            return True
        last_epoch = trainer.max_epochs is not None and moment.epoch + 1 == trainer.max_epochs
        return (last_epoch and moment.last_validation) or bool(self._monitors and self._monitors.keys())

    def _wanted_size(self, images: int) -> ProbeSize:
        """How large a probe would be if there were time for all."""
        probes = self._probes()
        fills = any(probe.fill is not None and probe.update != "none" for probe in probes)
        return ProbeSize(max(probe.num_masks for probe in probes), images, fills)

    def _say_size(self, wanted: ProbeSize, size: ProbeSize, made: int | None) -> None:
        masks = min(size.masks, made or size.masks)
        made_size = dataclasses.replace(size, masks=masks)
        if made_size != wanted and "size of the probe" not in self._errors.topics:
            self._errors.topics.add("size of the probe")
            fill = "" if size.fill == wanted.fill else ", which are not filled in"
            rank_zero_info(
                f"FillInBlanksCallback: max_overhead={self.max_overhead} leaves time for {masks} of {wanted.masks} "
                f"masks an image, on {size.images} of {wanted.images} images{fill}; it stays at these, so that scores "
                "compare"
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
                logits_fn=self.used_logits_fn,
                class_names=self._names(trainer, pl_module),
                judge=judge,
                share=share,
                progress=progress,
                seconds=None if limit is None else limit / len(self._probes()),
            )

    def _names(self, trainer: Trainer, pl_module: LightningModule) -> Sequence[str] | None:
        names = find_class_names(trainer, pl_module) if self.class_names is None else self.class_names
        if names is not None and len(names) != self._num_classes:
            self._errors.warn_once(
                "class names",
                f"there are {len(names)} class names for {self._num_classes} classes, so none are shown: "
                f"FillInBlanksCallback(class_names=[...]) takes {self._num_classes}",
            )
            return None
        return names

    def _compared(self, pl_module: LightningModule, result: FillInBlanksResult) -> FillInBlanksResult:
        """The result with what has changed since the last probe, undefined in the first."""
        if self._forward_only:
            return result
        masking = result.settings["masking"]
        result, self._last_probes[masking] = compared(
            pl_module, result, self._last_probes.get(masking), self.used_logits_fn
        )
        return result

    @contextmanager
    def _as_in_the_run(self, trainer: Trainer, pl_module: LightningModule) -> Iterator[None]:
        """The precision of the run's own forward passes, and nothing logged by them."""
        with trainer.precision_plugin.forward_context(), muted(pl_module):
            yield

    def _probes(self) -> list[FillInBlanks]:
        probes = [self.probe, *self.further_probes.values()]
        return [dataclasses.replace(probe, update="none") for probe in probes] if self._forward_only else probes

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
            with self._degrade("accuracy", "the training's own accuracy is not in the report"):
                accuracy = logged_accuracy(trainer.callback_metrics, self.prefix) if validated else None
            self._reporter.flush(loggers, accuracy)

    # --- errors ----------------------------------------------------------------------------------------------------

    @contextmanager
    def _degrade(self, topic: str, what: str) -> Iterator[None]:
        """Run a block; an error in it is said in one line, or raised if that was asked for."""
        try:
            yield
        except ProbeOffError:
            raise
        except Exception as error:
            if self.on_error == "raise":
                raise
            self._errors.warn_once(topic, f"{what}: {one_line(error)}")

    @contextmanager
    def _errors_switch_off(self, reader: StepReader) -> Iterator[None]:
        """Run a block; an error in it switches the callback off, or is raised if that was asked for."""
        try:
            yield
        except Exception as error:
            if self.on_error == "raise":
                raise
            self._errors.switch_off(f"{one_line(error)}. The batch is {reader.batch_words}. {_ADVICE}")

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
        self._last_probes = {} if changed else dict(state_dict["last_probes"])

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


_OTHER_IMAGES = (
    "the probe images are not those of the checkpoint, which are not among this run's: scores before and after do not "
    "compare"
)
_ADVICE = (
    "If this run does classify images, say how: FillInBlanksCallback(batch_adapter=lambda batch: (images, labels), "
    "logits_fn=lambda module, images: logits)"
)


def _real_loggers(trainer: Trainer) -> list[Logger]:
    return [logger for logger in trainer.loggers if not is_dummy(logger)]


def _not_finite(images: Tensor) -> Tensor:
    """Which images ``(B, C, H, W)`` hold a value that is not finite; boolean, shape ``(B,)``."""
    if images.numel() and all(end.isfinite() for end in images.aminmax()):  # much quicker, and nearly always enough
        return torch.zeros(len(images), dtype=torch.bool, device=images.device)
    return ~images.flatten(1).isfinite().all(dim=1)


def _full_signature() -> inspect.Signature:
    """The callback's own parameters and the probe's, so that ``help`` and editors show them all."""
    own = inspect.signature(FillInBlanksCallback.__init__).parameters
    probe = inspect.signature(FillInBlanks).parameters
    shared = [probe[name].replace(kind=inspect.Parameter.KEYWORD_ONLY) for name in SharedSettings.__annotations__]
    return inspect.Signature([*(each for name, each in own.items() if name not in ("self", "settings")), *shared])


FillInBlanksCallback.__signature__ = _full_signature()  # type: ignore[attr-defined]
