"""The Lightning callback: when to probe, on which images, and what to log."""

from __future__ import annotations

import dataclasses
import logging
import math
import re
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn

from fitb_callbacks.audit import audited
from fitb_callbacks.bars import probing_line
from fitb_callbacks.batches import BatchAdapter, ProbeImages, read_batch
from fitb_callbacks.budget import Budget
from fitb_callbacks.checks import check_choice, check_integer
from fitb_callbacks.judges import CentroidJudge, Judge, ModuleJudge, Reference
from fitb_callbacks.logits import LogitsFn
from fitb_callbacks.metrics import METRICS
from fitb_callbacks.over_training import compared, scores_of
from fitb_callbacks.probe import FillInBlanks
from fitb_callbacks.ranks import OtherRankError, all_or_none, confirm
from fitb_callbacks.result import FillInBlanksResult
from fitb_callbacks.timeline import Timeline
from fitb_callbacks.training_record import write_record

__all__ = ["FillInBlanksCallback"]

_log = logging.getLogger(__name__)


class FillInBlanksCallback(Callback):
    """Probe the model at the end of every training epoch and log what it learned to every logger of the Trainer.

    The probe images are fixed: the first few of each class among the first validation batches that pass by, or among
    the first epoch's training batches if that epoch has no validation. No data loader is iterated for them. Training
    is not changed: weights, gradients, optimizer, buffers, module modes and random numbers stay as they are.

    Where an epoch ends with validation, the probe runs with it (the last one, if there are several), so that
    ModelCheckpoint and EarlyStopping see the scores of the same epoch; otherwise when the training epoch ends. It
    never runs in the sanity check. Scores and pictures are written at the step of Lightning's own epoch metrics.

    A judge classifies the prototypes in the model's place, since a model recognises its own gradient. The default one
    needs nothing: its class means are streamed from the training batches of the first epoch. **It shares the training
    data, and so its shortcuts**; give ``reference=`` a small trusted set, and it can tell.

    Scores can be monitored on every rank, under ``prefix/name`` (see `fitb_callbacks.metrics.METRICS`). A
    score that is undefined (no image is covered, or nothing has been probed yet) is not written to the loggers;
    monitors see 0, or 2 for drift, so that it never ends a training. The first 20 classes have scores of their own in
    the loggers, under ``prefix_by_class/name class``; `result.per_class` has those of all.

    Pictures are logged under ``prefix/prototypes``, ``prefix/confusion`` and ``prefix/timeline``. In a notebook, the
    training's cell shows the last probe.

    Args:
        images_per_class: Probe images of each class, at least 1.
        max_images: Most probe images in all, at least 1; with very many classes, some have none.
        batch_adapter: ``batch_adapter(batch)`` returns images ``(B, C, H, W)`` and integer labels ``(B,)``, for
            batches in which `fitb_callbacks.batches.read_batch` does not find them.
        logits_fn: ``logits_fn(lightning_module, images)`` returns logits ``(B, classes)``, for modules from whose
            ``forward`` `fitb_callbacks.logits.find_logits` does not find them.
        judge: "centroid" for class means, a trained ``nn.Module`` such as the model in production, or None. A module is
            never trained or moved; put it on the device where it shall run. One that shares the training data shares
            its shortcuts.
        reference: Trusted images and labels for the class means, in place of the training batches: a pair of tensors,
            a data set or a data loader, prepared as for the model. Read once, before training.
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

    def __init__(
        self,
        *,
        images_per_class: int = 4,
        max_images: int = 64,
        batch_adapter: BatchAdapter | None = None,
        logits_fn: LogitsFn | None = None,
        judge: str | nn.Module | None = "centroid",
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
        check_integer("images_per_class", images_per_class, at_least=1)
        check_integer("max_images", max_images, at_least=1)
        check_choice("on_error", on_error, ("warn", "raise"))
        check_choice("audit", audit, (True, False))
        for name, function in (("batch_adapter", batch_adapter), ("logits_fn", logits_fn)):
            if function is not None and not callable(function):
                raise TypeError(f"{name} must be callable or None; got {function!r}")
        if not (judge is None or judge == "centroid" or isinstance(judge, nn.Module)):
            raise ValueError(f"judge must be 'centroid', a torch.nn.Module or None; got {judge!r}")
        if reference is not None and judge != "centroid":
            raise ValueError(f"reference needs judge='centroid', whose class means it gives; got judge={judge!r}")
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
        self.on_error = on_error
        self.audit = audit
        self.judge = judge
        self.reference = reference
        self.result: FillInBlanksResult | None = None
        """What the last probe found."""
        self.further_results: dict[str, FillInBlanksResult] = {}
        """Further masking to what the last probe with it found."""
        self.history: list[dict[str, float]] = []
        """One entry a probe: ``epoch``, ``step`` and the scores."""
        self._budget = Budget(max_overhead)
        self._candidates = ProbeImages(per_class=images_per_class, max_images=max_images)
        self._spare = ProbeImages(per_class=images_per_class, max_images=max_images)
        self._images: Tensor | None = None
        self._labels: Tensor | None = None
        # Class means that the training batches give, in the epoch in which they do
        self._streamed = CentroidJudge() if judge == "centroid" and reference is None else None
        self._gathered: CentroidJudge | None = None  # the same of all ranks, as of the last probe
        self._streamed_epoch: int | None = None
        self._fixed_judge: Judge | None = ModuleJudge(judge) if isinstance(judge, nn.Module) else None
        self._last_probes: dict[str, dict[str, Tensor]] = {}  # by masking
        self._recorded: dict[str, bytes] = {}  # what loggers were told of this probe's settings
        self._timelines: dict[str, Timeline] = {}  # by masking; only where something is logged
        self._num_classes = 0
        self._probed_epoch = -1
        self._checked = False
        self._warned: set[str] = set()
        self._display: Any = None  # in a notebook, where in the cell's output

    # --- when: Lightning's hooks -------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse set-ups that cannot work, before anything runs."""
        package = type(trainer).__module__.split(".")[0]
        if package == "pytorch_lightning":
            raise TypeError(
                f"FillInBlanksCallback needs a lightning.pytorch.Trainer; got that of {package}. "
                "Import Trainer, LightningModule and loggers from lightning.pytorch: it is the same code"
            )
        if stage != TrainerFn.FITTING:
            return
        if isinstance(trainer.strategy, (FSDPStrategy, DeepSpeedStrategy, ModelParallelStrategy)):
            raise ValueError(  # noqa: TRY004 - the strategy's type is the value here
                f"FillInBlanksCallback does not work with {type(trainer.strategy).__name__}, which splits the model's "
                "parameters over processes. Train with it without the callback, then probe a consolidated checkpoint "
                "with fitb_callbacks.FillInBlanks().probe(model, images, labels)"
            )
        self._checked = False
        self._display = None
        self._report_averaging(trainer)

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
        if not _validates_in_this_epoch(trainer):
            self._take(batch)
        self._stream(trainer, batch)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Probe, if this is the epoch's last validation."""
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        # Ranks with loaders of different lengths may see this differently; where one is not sure, all wait.
        if trainer.strategy.reduce_boolean_decision(_is_last_validation_of_epoch(trainer), all=True):
            self._probe_once(trainer, pl_module, step=trainer.fit_loop.epoch_loop._batches_that_stepped)
        else:
            self._make_monitorable_if_nothing_was_probed(pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Probe, if no validation did in this epoch."""
        if self._streamed is not None and self._streamed_epoch == trainer.current_epoch:
            self._streamed = self._streamed.gathered()
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
        self._spare.offer(images, labels)  # for a first epoch that ends, by max_steps, before its validation
        image_shape, num_classes = tuple(images.shape[1:]), int(result.settings["num_classes"])
        if self.reference is not None and self._fixed_judge is None:
            self._fixed_judge = CentroidJudge.from_reference(
                self.reference, image_shape=image_shape, num_classes=num_classes, batch_adapter=self.batch_adapter
            )
        if self._fixed_judge is not None:
            self._fixed_judge.check(image_shape, num_classes)
        self._num_classes = num_classes
        self._checked = True

    def _take(self, batch: Any) -> None:
        if self._images is not None:
            return
        try:
            self._candidates.offer(*read_batch(batch, self.batch_adapter))
        except Exception:
            if self.on_error == "raise":
                raise
            self._warn_once("batch", "a batch gave no probe images; the others will do", trace=True)

    def _stream(self, trainer: Trainer, batch: Any) -> None:
        """Let the training batches of one epoch go into the class means."""
        if self._streamed is None:
            return
        if self._streamed_epoch is None:
            self._streamed_epoch = trainer.current_epoch
        if self._streamed_epoch != trainer.current_epoch:
            return
        try:
            self._streamed.update(*read_batch(batch, self.batch_adapter))
        except Exception:
            if self.on_error == "raise":
                raise
            self._warn_once("stream", "a training batch was left out of the class means", trace=True)

    def _present_judge(self, trainer: Trainer) -> Judge | None:
        """The judge as it is now, the same on every rank."""
        if self._streamed is None:
            return self._fixed_judge
        complete = self._streamed_epoch is not None and self._streamed_epoch < trainer.current_epoch
        judge = self._streamed if complete else self._streamed.gathered()
        if judge.image_shape is None:
            self._warn_once("judge", "no training batch has given class means, so there is no judge")
            return None
        if absent := judge.absent_classes(self._num_classes):
            named = ", ".join(map(str, absent[:20])) + (" and more" if len(absent) > 20 else "")
            self._warn_once("absent", f"the training batches hold no image of class {named}: the judge never sees it")
        self._gathered = judge
        return judge

    def _fix_images(self, trainer: Trainer) -> None:
        """Settle on the probe images, the same ones on every rank."""
        for candidates in (self._candidates, self._spare):
            if trainer.world_size > 1:
                parts: list[Any] = [None] * trainer.world_size
                confirm()
                torch.distributed.all_gather_object(parts, candidates)
                candidates = candidates.merged(parts)
            if len(candidates):
                self._images, self._labels = candidates.images, candidates.labels
                break
        per_class, max_images = self._candidates.per_class, self._candidates.max_images
        self._candidates = self._spare = ProbeImages(per_class=per_class, max_images=max_images)

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
                    self._show_in_notebook(self.result)
        except Exception as error:
            if self.on_error == "raise":
                raise
            self._make_monitorable_if_nothing_was_probed(pl_module)
            reason = f": {error}" if isinstance(error, OtherRankError) else ""
            self._warn_once(
                f"probe {type(error).__name__}",
                f"the probe of epoch {trainer.current_epoch} failed; training goes on{reason}",
                trace=True,
            )

    def _run(self, trainer: Trainer, pl_module: LightningModule) -> list[FillInBlanksResult]:
        """What every probe finds, the same on every rank."""
        if self._images is None:
            self._fix_images(trainer)
        if self._images is None:
            raise RuntimeError("no batch has passed by yet from which to take probe images")
        self._budget.epoch_ends(trainer.world_size)
        results, num_probes = [], 1 + len(self.further_probes)
        with trainer.precision_plugin.forward_context():
            for asked in (self.probe, *self.further_probes.values()):
                probe, started = self._budget.limited(asked), time.perf_counter()
                with probing_line(trainer) as progress:
                    result = probe.probe(
                        pl_module,
                        self._images,
                        self._labels,
                        logits_fn=self.logits_fn,
                        class_names=self._names(trainer, pl_module),
                        judge=self._present_judge(trainer),
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
            self._warn_once(
                "nonfinite",
                f"{share:.1%} of the masked images in epoch {trainer.current_epoch} gave updates that are not finite; "
                f"they are left out. {self.prefix}/nonfinite says how many in each epoch",
            )

    def _compared(self, pl_module: LightningModule, result: FillInBlanksResult) -> FillInBlanksResult:
        """The result with what has changed since the last probe, undefined in the first."""
        masking = result.settings["masking"]
        result, self._last_probes[masking] = compared(pl_module, result, self._last_probes.get(masking), self.logits_fn)
        return result

    def _names(self, trainer: Trainer, pl_module: LightningModule) -> Sequence[str] | None:
        if self.class_names is not None:
            return self.class_names
        # not "or": a loader of an IterableDataset has no truth value
        loaders = trainer.train_dataloader if trainer.val_dataloaders is None else trainer.val_dataloaders
        loader = loaders[0] if isinstance(loaders, (list, tuple)) else loaders
        dataset = getattr(loader, "dataset", None)
        while (inner := getattr(dataset, "dataset", None)) is not None:  # Subset and the like
            dataset = inner
        for owner in (dataset, getattr(trainer, "datamodule", None), pl_module):
            for attribute in ("classes", "class_names"):
                names = getattr(owner, attribute, None)
                if isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names):
                    return names
        return None

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
        from fitb_callbacks.logged import compose, give
        from fitb_callbacks.loggers import log_files

        results = [self.result, *self.further_results.values()]
        for result in results:
            masking = result.settings["masking"]
            self._timelines[masking] = self._timelines.get(masking, Timeline()).with_probe(result, self._probed_epoch)
        logged = compose(
            results,
            metrics,
            self._timelines,
            epoch=self._probed_epoch,
            step=step,
            prefix=self.prefix,
            judge=self._judge_in_words(),
            draw=self._can_draw(),
        )
        settings = self._settings_files(self.result)
        changed, self._recorded = settings != self._recorded, settings
        for logger in loggers:
            kind = type(logger).__name__
            try:
                if changed:
                    log_files(logger, self.prefix, settings)
                if not give(logger, logged):
                    self._warn_once(
                        kind,
                        f"{kind} gets the scores but no pictures: register a function for it with "
                        "fitb_callbacks.loggers.log_picture.register",
                    )
            except Exception:  # one logger's trouble is not another's
                if self.on_error == "raise":
                    raise
                self._warn_once(
                    f"{kind} failed",
                    f"{kind} did not take what was probed in epoch {trainer.current_epoch}; training goes on",
                    trace=True,
                )

    def _can_draw(self) -> bool:
        try:
            import PIL  # noqa: F401
        except ModuleNotFoundError:
            self._warn_once("Pillow", "there are scores but no pictures without Pillow: pip install pillow")
            return False
        return True

    def _settings_files(self, result: FillInBlanksResult) -> dict[str, bytes]:
        """What a later probe needs to be the same as this one."""
        return write_record(
            self.probe,
            result,
            self._fixed_judge if self._streamed is None else self._gathered,
            images_per_class=self._candidates.per_class,
            max_images=self._candidates.max_images,
        )

    def _show_in_notebook(self, result: FillInBlanksResult) -> None:
        """Show the last probe in the output of the training's cell, if there is one."""
        if "IPython" not in sys.modules or not self._can_draw():
            return
        from fitb_callbacks.integrations.notebook import in_notebook, live_display

        if in_notebook():
            self._display = live_display(result, f"{self.prefix}, epoch {self._probed_epoch}:", self._display)

    def _judge_in_words(self) -> str | None:
        if isinstance(self.judge, nn.Module):
            return f"the module {type(self.judge).__name__}"
        source = "training images" if self.reference is None else "trusted images"
        return None if self.judge is None else f"class means of {source}"

    def _settle(self, trainer: Trainer) -> None:
        if trainer.is_global_zero and self.history:
            from fitb_callbacks.loggers import settle

            for logger in trainer.loggers:
                settle(logger)

    def _report_averaging(self, trainer: Trainer) -> None:
        """Say which weights are probed where a callback swaps averaged ones in for validation."""
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        for callback in callbacks:
            if any(base.__name__ == "WeightAveraging" for base in type(callback).__mro__):  # Lightning 2.6 and later
                first = callbacks.index(self) < callbacks.index(callback)
                kind = type(callback).__name__
                rank_zero_info(
                    f"FillInBlanksCallback: where an epoch ends with validation, the "
                    f"{'averaged' if first else 'current, not averaged,'} weights are probed, because this callback "
                    f"stands {'before' if first else 'after'} {kind} in the Trainer's callbacks. Without validation "
                    "it is always the current weights"
                )

    def _warn_once(self, topic: str, message: str, *, trace: bool = False) -> None:
        if topic in self._warned:
            return
        self._warned.add(topic)
        rank_zero_warn(f"FillInBlanksCallback: {message}")
        if trace:
            _log.error("FillInBlanksCallback: %s", message, exc_info=True)

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
            "images": self._images,
            "labels": self._labels,
            "candidates": self._candidates.state_dict(),
            "history": self.history,
            "probed_epoch": self._probed_epoch,
            "last_probes": self._last_probes,
            "timelines": {masking: timeline.state_dict() for masking, timeline in self._timelines.items()},
            "num_masks": self._budget.state_dict(),
            "streamed": None if self._streamed is None else (self._gathered or self._streamed).state_dict(),
            "streamed_epoch": self._streamed_epoch,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the same probe images, history, class means and last probe."""
        self._images, self._labels = state_dict["images"], state_dict["labels"]
        self._candidates.load_state_dict(state_dict["candidates"])
        self.history = [dict(entry) for entry in state_dict["history"]]
        self._probed_epoch = state_dict["probed_epoch"]
        self._last_probes = state_dict["last_probes"]
        self._timelines = {
            masking: Timeline.from_state_dict(state) for masking, state in state_dict["timelines"].items()
        }
        self._budget.load_state_dict(state_dict["num_masks"])
        if self._streamed is not None and state_dict["streamed"] is not None:
            self._streamed.load_state_dict(state_dict["streamed"])
            self._streamed_epoch = state_dict["streamed_epoch"]

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Warn if the checkpoint was written without this callback."""
        if trainer.state.fn == TrainerFn.FITTING and self.state_key not in checkpoint.get("callbacks", {}):
            rank_zero_warn(
                f"FillInBlanksCallback: the checkpoint holds no state for prefix {self.prefix!r}; "
                "probe images are chosen anew, and the history begins with this run"
            )


def _validates_in_this_epoch(trainer: Trainer) -> bool:
    """Whether a validation is certain to come before this epoch ends."""
    every = trainer.check_val_every_n_epoch
    return trainer.enable_validation and every is not None and (trainer.current_epoch + 1) % every == 0


def _is_last_validation_of_epoch(trainer: Trainer) -> bool:
    """Whether no further validation comes in this epoch. Where that cannot be known, it is decided at its end."""
    loop = trainer.fit_loop.epoch_loop
    if loop.batch_progress.is_last_batch:
        return True
    interval = trainer.val_check_batch
    remaining = trainer.num_training_batches - (loop.batch_idx + 1)
    return interval is not None and math.isfinite(remaining) and remaining < interval
