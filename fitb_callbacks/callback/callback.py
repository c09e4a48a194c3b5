"""The Lightning callback: its settings, and what happens when.

What lasts over a run is kept in `probe_images`, `judge`, `reporter`, `time_budget` and `errors`.
"""

from __future__ import annotations

import dataclasses
import math
import re
import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn

from fitb_callbacks.callback.audit import audited
from fitb_callbacks.callback.comparison import compared, scores_of
from fitb_callbacks.callback.errors import ErrorPolicy
from fitb_callbacks.callback.judge import RunJudge
from fitb_callbacks.callback.probe_images import ProbeImages
from fitb_callbacks.callback.progress_bar import probing_line
from fitb_callbacks.callback.reporter import Reporter
from fitb_callbacks.callback.time_budget import TimeBudget
from fitb_callbacks.callback.trainer import (
    check_package,
    check_strategy,
    find_class_names,
    is_last_validation_of_epoch,
    validates_in_this_epoch,
    weights_probed,
)
from fitb_callbacks.data.batches import BatchAdapter, Reference, read_batch
from fitb_callbacks.integrations.probe_manifest import write_record
from fitb_callbacks.models.logits import LogitsFn
from fitb_callbacks.probing.probe import FillInBlanks
from fitb_callbacks.probing.result import FillInBlanksResult
from fitb_callbacks.scoring.catalogue import METRICS
from fitb_callbacks.scoring.judges.base import Judge
from fitb_callbacks.utils.distributed import OtherRankError, all_or_none
from fitb_callbacks.utils.validation import check_choice

__all__ = ["FillInBlanksCallback"]


class FillInBlanksCallback(Callback):
    """Probe the model at the end of every training epoch and log what it learned to every logger of the Trainer.

    The probe images are fixed: the first few of each class among the first validation batches that pass by, or among
    the first epoch's training batches if that epoch has no validation. No data loader is iterated for them. Training
    is not changed: weights, gradients, optimizer, buffers, module modes and random numbers stay as they are.

    Where an epoch ends with validation, the probe runs with it (the last one, if there are several), so that
    ModelCheckpoint and EarlyStopping see the scores of the same epoch; otherwise when the training epoch ends. It
    never runs in the sanity check. Scores and pictures are written at the step of Lightning's own epoch metrics.

    A judge classifies the prototypes in the model's place, since a model recognises its own gradient. The default one
    needs nothing: it learns from a few training images per class as they pass by in the first epoch. **It shares the
    training data, and so its shortcuts**; give ``reference=`` a small trusted set, and it can tell.

    Scores can be monitored on every rank, under ``prefix/name`` (see `fitb_callbacks.scoring.catalogue.METRICS`). A
    score that is undefined (no image is covered, or nothing has been probed yet) is not written to the loggers;
    monitors see 0, or 2 for drift, so that it never ends a training. The first 20 classes have scores of their own in
    the loggers, under ``prefix_by_class/name class``; `result.per_class` has those of all.

    Pictures are logged under ``prefix/prototypes``, ``prefix/confusion`` and ``prefix/timeline``. In a notebook, the
    training's cell shows the last probe.

    Args:
        images_per_class: Probe images of each class, at least 1.
        max_images: Most probe images in all, at least 1; with very many classes, some have none.
        batch_adapter: ``batch_adapter(batch)`` returns images ``(B, C, H, W)`` and integer labels ``(B,)``, for
            batches in which `fitb_callbacks.data.batches.read_batch` does not find them.
        logits_fn: ``logits_fn(lightning_module, images)`` returns logits ``(B, classes)``, for modules from whose
            ``forward`` `fitb_callbacks.models.logits.find_logits` does not find them.
        judge: "ridge" for ridge regression on random features, "centroid" for class means, a trained ``nn.Module`` such
            as the model in production, a `Judge`, or None. A module is never trained or moved; put it on the device
            where it shall run. One that shares the training data shares its shortcuts.
        reference: Trusted images and labels for the judge to learn from, in place of the training batches: a pair of
            tensors, a data set or a data loader, prepared as for the model. Read once, before training.
        class_names: One name a class. None takes the ``classes`` of the data set, data module or model, if any.
        prefix: What the keys begin with. Two callbacks in one Trainer need different ones.
        on_error: What an error in a probe does: "warn" logs it once with its traceback and training goes on; "raise"
            ends training. Errors found in the check of the first batch always raise.
        max_overhead: Share of an epoch's time that a probe may take, above 0; None for any. If there is no time for all
            masks, there are fewer, but at least 64 an image; the number found in the first probe is kept, so that the
            scores of all epochs compare. Drawing and writing the pictures is not counted.
        audit: Compare everything that training depends on (weights, gradients, buffers, modes, hooks, optimizers,
            schedulers, other callbacks, random numbers) before and after each probe, and report what changed, as an
            error (see ``on_error``). Costs reading all of it twice an epoch.
        masking: "random", "progressive", or both in a sequence. The first one's keys are ``prefix/name`` as ever, those
            of a further one ``prefix/masking/name``.
        **settings: The other settings of `fitb_callbacks.FillInBlanks`, by the same names.

    Raises:
        ValueError: If an argument is out of range; the error names it. When training starts: if the patch size, the
            labels, the judge or the reference do not fit the first batch and the model's classes.
        TypeError: If an argument has the wrong type. When training starts: if images, labels or logits are not found.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[FillInBlanksCallback(num_masks=64)], max_epochs=5, accelerator="cpu")
    """

    def __init__(  # noqa: PLR0913 - every setting by its name, as LightningCLI needs it
        self,
        *,
        images_per_class: int = 4,
        max_images: int = 64,
        batch_adapter: BatchAdapter | None = None,
        logits_fn: LogitsFn | None = None,
        judge: str | nn.Module | Judge | None = "ridge",
        reference: Reference | None = None,
        class_names: Sequence[str] | None = None,
        prefix: str = "fitb",
        on_error: str = "warn",
        max_overhead: float | None = 0.05,
        audit: bool = False,
        masking: str | Sequence[str] = "random",
        **settings: Any,
    ) -> None:
        super().__init__()
        maskings = tuple(masking) if isinstance(masking, (list, tuple)) else (masking,)
        for value in maskings:
            check_choice("masking", value, ("random", "progressive"))
        if not maskings or len(set(maskings)) < len(maskings):
            raise ValueError(f"masking must be one masking or several different ones; got {masking!r}")
        probes = {masking: FillInBlanks(masking=masking, **settings) for masking in maskings}
        self.probe = probes.pop(maskings[0])
        self.further_probes = probes
        check_choice("audit", audit, (True, False))
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
        self.batch_adapter = batch_adapter
        self.logits_fn = logits_fn
        self.class_names = class_names
        self.prefix = prefix
        self.audit = audit
        self.judge = judge
        self.reference = reference
        self.result: FillInBlanksResult | None = None
        """What the last probe found."""
        self.further_results: dict[str, FillInBlanksResult] = {}
        """Further masking to what the last probe with it found."""
        self.history: list[dict[str, float]] = []
        """One entry a probe: ``epoch``, ``step`` and the scores."""
        self._budget = TimeBudget(max_overhead)
        self._probe_images = ProbeImages(images_per_class=images_per_class, max_images=max_images)
        self._errors = ErrorPolicy(on_error)
        self._run_judge = RunJudge(judge, reference, self._errors)
        self._reporter = Reporter(self._errors)
        self._last_probes: dict[str, dict[str, Tensor]] = {}  # by masking
        self._probed_epoch = -1
        self._checked = False

    @property
    def on_error(self) -> str:
        """What an error in a probe does."""
        return self._errors.on_error

    @on_error.setter
    def on_error(self, on_error: str) -> None:
        self._errors.on_error = on_error

    # --- when: Lightning's hooks -------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse set-ups that cannot work, before anything runs."""
        check_package(trainer)
        if stage != TrainerFn.FITTING:
            return
        check_strategy(trainer)
        self._checked = False
        self._reporter.begin()
        if (which := weights_probed(trainer, self)) is not None:
            rank_zero_info(f"FillInBlanksCallback: {which}")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give loggers that send in the background a few seconds to finish."""
        if stage == TrainerFn.FITTING:
            self._settle(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """As `teardown`, which Lightning leaves out after an error."""
        self._settle(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the time."""
        self._budget.epoch_begins()

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Check the first batch of all, and take probe images of the first validation."""
        if trainer.state.fn != TrainerFn.FITTING or dataloader_idx != 0:
            return
        self._check(trainer, pl_module, batch)
        if not trainer.sanity_checking:
            self._take(batch)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Check the first batch of all, and take from it what is wanted: class means, probe images."""
        self._check(trainer, pl_module, batch)
        if not validates_in_this_epoch(trainer):
            self._take(batch)
        self._run_judge.stream(batch, epoch=trainer.current_epoch, batch_adapter=self.batch_adapter)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Probe, if this is the epoch's last validation."""
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        # Ranks with loaders of different lengths may see this differently; where one is not sure, all wait.
        if trainer.strategy.reduce_boolean_decision(is_last_validation_of_epoch(trainer), all=True):
            self._probe_once(trainer, pl_module, step=trainer.fit_loop.epoch_loop._batches_that_stepped)
        else:
            self._make_monitorable_if_nothing_was_probed(pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Probe, if no validation did in this epoch."""
        self._run_judge.epoch_ends(trainer.current_epoch)
        # The batch counter has already moved on here; Lightning steps back by one, too, to log the epoch's metrics.
        self._probe_once(trainer, pl_module, step=trainer.fit_loop.epoch_loop._batches_that_stepped - 1)

    # --- on which images ---------------------------------------------------------------------------------------

    def _check(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> None:
        """Put the first batch of a run through everything once, so that what cannot work fails before training."""
        if self._checked:
            return
        images, labels = read_batch(batch, self.batch_adapter)
        with trainer.precision_plugin.forward_context():
            for probe in (self.probe, *self.further_probes.values()):
                result = dataclasses.replace(probe, num_masks=1).probe(
                    pl_module, images[:2], labels[:2], logits_fn=self.logits_fn, class_names=self.class_names
                )
        outside = sorted({label for label in labels.tolist() if not 0 <= label < result.settings["num_classes"]})
        if outside:
            raise ValueError(
                f"labels must be from 0 to {result.settings['num_classes'] - 1}, as the model has "
                f"{result.settings['num_classes']} classes; got {outside[:10]} in the first batch"
            )
        self._probe_images.offer_spare(images, labels)
        num_classes = int(result.settings["num_classes"])
        self._run_judge.check(tuple(images.shape[1:]), num_classes, batch_adapter=self.batch_adapter)
        self._checked = True

    def _take(self, batch: Any) -> None:
        if self._probe_images.images is None:
            with self._errors.survive("batch", "a batch gave no probe images; the others will do"):
                self._probe_images.offer(*read_batch(batch, self.batch_adapter))

    # --- probe and log -----------------------------------------------------------------------------------------

    def _probe_once(self, trainer: Trainer, pl_module: LightningModule, *, step: int) -> None:
        if self._probed_epoch >= trainer.current_epoch:
            return
        self._probed_epoch = trainer.current_epoch
        try:
            with audited(trainer, pl_module) if self.audit else nullcontext():
                started = time.perf_counter()
                with all_or_none(trainer.world_size):
                    self.result, *further = self._run(trainer, pl_module)
                self.further_results = dict(zip(self.further_probes, further, strict=True))
                seconds = time.perf_counter() - started
                overhead = self._budget.overhead(seconds)
                metrics = scores_of([self.result, *further], seconds=seconds, overhead=overhead)
                self.history.append({"epoch": trainer.current_epoch, "step": step, **metrics})
                self._make_monitorable(pl_module, metrics)
                self._report_nonfinite(trainer, metrics)
                if trainer.is_global_zero:
                    self._write(trainer, metrics, step)
                    self._reporter.show_in_notebook(self.result, f"{self.prefix}, epoch {self._probed_epoch}:")
        except Exception as error:
            if self.on_error == "raise":
                raise
            self._make_monitorable_if_nothing_was_probed(pl_module)
            reason = f": {error}" if isinstance(error, OtherRankError) else ""
            self._errors.warn_once(
                f"probe {type(error).__name__}",
                f"the probe of epoch {trainer.current_epoch} failed; training goes on{reason}",
                trace=True,
            )

    def _run(self, trainer: Trainer, pl_module: LightningModule) -> list[FillInBlanksResult]:
        """What every probe finds, the same on every rank."""
        self._probe_images.fix(trainer.world_size)
        assert self._probe_images.images is not None
        self._budget.epoch_ends(trainer.world_size)
        results, num_probes = [], 1 + len(self.further_probes)
        class_names = find_class_names(trainer, pl_module) if self.class_names is None else self.class_names
        with trainer.precision_plugin.forward_context():
            for asked in (self.probe, *self.further_probes.values()):
                probe, started = self._budget.limited(asked), time.perf_counter()
                with probing_line(trainer) as progress:
                    result = probe.probe(
                        pl_module,
                        self._probe_images.images,
                        self._probe_images.labels,
                        logits_fn=self.logits_fn,
                        class_names=class_names,
                        judge=self._run_judge.present(trainer.current_epoch),
                        share=(trainer.global_rank, trainer.world_size),
                        progress=progress,
                        seconds=self._budget.seconds_for(probe.masking, num_probes=num_probes),
                    )
                line = self._budget.learn_from(probe, result, time.perf_counter() - started)
                if line is not None:
                    rank_zero_info(f"FillInBlanksCallback: {line}")
                results.append(result)
            return [self._compared(pl_module, result) for result in results]

    def _report_nonfinite(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        if (share := max(value for name, value in metrics.items() if name.endswith("nonfinite"))) > 0:
            self._errors.warn_once(
                "nonfinite",
                f"{share:.1%} of the masked images in epoch {trainer.current_epoch} gave updates that are not finite; "
                f"they are left out. {self.prefix}/nonfinite says how many in each epoch",
            )

    def _compared(self, pl_module: LightningModule, result: FillInBlanksResult) -> FillInBlanksResult:
        """The result with what has changed since the last probe, undefined in the first."""
        masking = result.settings["masking"]
        result, self._last_probes[masking] = compared(pl_module, result, self._last_probes.get(masking), self.logits_fn)
        return result

    def _make_monitorable(self, pl_module: LightningModule, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            monitored = METRICS[name.rpartition("/")[2]].undefined if math.isnan(value) else value
            if monitored is not None:
                pl_module.log(f"{self.prefix}/{name}", monitored, on_epoch=True, logger=False, batch_size=1)

    def _make_monitorable_if_nothing_was_probed(self, pl_module: LightningModule) -> None:
        # EarlyStopping and ModelCheckpoint look after every validation, and raise if the key does not exist yet.
        if not self.history:
            wanted = [name for name, metric in METRICS.items() if self.judge is not None or not metric.needs_judge]
            for prefix in ("", *(f"{masking}/" for masking in self.further_probes)):
                self._make_monitorable(pl_module, {f"{prefix}{name}": math.nan for name in wanted})

    def _write(self, trainer: Trainer, metrics: dict[str, float], step: int) -> None:
        loggers = [logger for logger in trainer.loggers if not isinstance(logger, DummyLogger)]
        if not loggers or self.result is None:
            return
        settings = write_record(  # what a later probe needs to be the same as this one
            self.probe,
            self.result,
            self._run_judge.last,
            images_per_class=self._probe_images.images_per_class,
            max_images=self._probe_images.max_images,
        )
        self._reporter.write(
            loggers,
            [self.result, *self.further_results.values()],
            metrics,
            settings,
            epoch=self._probed_epoch,
            step=step,
            prefix=self.prefix,
            judge=self._run_judge.in_words,
        )

    def _settle(self, trainer: Trainer) -> None:
        if trainer.is_global_zero and self.history:
            from fitb_callbacks.integrations.loggers import settle

            for logger in trainer.loggers:
                settle(logger)

    # --- state -------------------------------------------------------------------------------------------------

    @property
    def state_key(self) -> str:
        """Tells this callback's state from that of another with a different prefix."""
        return self._generate_state_key(prefix=self.prefix)

    def state_dict(self) -> dict[str, Any]:
        """Probe images, history and what is compared: tensors and primitives, loadable with ``weights_only=True``.

        A checkpoint from the middle of the first epoch holds the images found so far (with several processes, those
        of the first process).
        """
        return {
            **self._probe_images.state_dict(),
            "history": self.history,
            "probed_epoch": self._probed_epoch,
            "last_probes": self._last_probes,
            "timelines": self._reporter.state_dict(),
            "num_masks": self._budget.state_dict(),
            **self._run_judge.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the same probe images, history, class means and last probe."""
        self._probe_images.load_state_dict(state_dict)
        self.history = [dict(entry) for entry in state_dict["history"]]
        self._probed_epoch = state_dict["probed_epoch"]
        self._last_probes = state_dict["last_probes"]
        self._reporter.load_state_dict(state_dict["timelines"])
        self._budget.load_state_dict(state_dict["num_masks"])
        self._run_judge.load_state_dict(state_dict)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Warn if the checkpoint was written without this callback."""
        if trainer.state.fn == TrainerFn.FITTING and self.state_key not in checkpoint.get("callbacks", {}):
            rank_zero_warn(
                f"FillInBlanksCallback: the checkpoint holds no state for prefix {self.prefix!r}; "
                "probe images are chosen anew, and the history begins with this run"
            )
