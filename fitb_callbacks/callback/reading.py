"""Read images, labels and logits of a run's steps: as its batches show them, or as its own steps use them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from fitb_callbacks.data.batches import BatchAdapter, read_batch
from fitb_callbacks.models.logits import LogitsFn
from fitb_callbacks.models.losses import (
    NotAClassifierError,
    images_and_targets,
    labels_from,
    place_in,
    takes_independent_labels,
)
from fitb_callbacks.models.observation import Observation, Observer, can_observe
from fitb_callbacks.models.usage import Usage, Way, as_multi_label, find_inputs, find_usage, same_way
from fitb_callbacks.utils.messages import describe
from fitb_callbacks.utils.nested import Path, at_path, in_words, tensors_in

__all__ = ["StepReader", "muted"]


class StepReader:
    """Reads the steps of one stage of a run: where its images and labels are, and what its logits are.

    The first step is watched while it runs. What entered the network are the images, what the loss compared its output
    with are the labels. If both are in the batch as they are, later batches are read without being watched.

    Args:
        stage: "validation", "training" or "test".
        batch_adapter: As for `fitb_callbacks.data.batches.read_batch`; if given, the batch is read by it alone.
        logits_fn: As for the probe; if given, it alone says what the logits are.
    """

    def __init__(self, stage: str, batch_adapter: BatchAdapter | None, logits_fn: LogitsFn | None) -> None:
        self.stage, self._adapter, self._given_logits_fn = stage, batch_adapter, logits_fn
        self._observer: Observer | None = None
        self._paths: tuple[Path, Path] | None = None
        self._batch: Any = None
        self.usage: Usage | None = None
        """How the run uses its model, as far as that was observed."""
        self.understood = False
        """Whether the first step was read."""
        self.silent = False
        """Whether the first step called no module and no loss, so that it says nothing."""
        self.batch_words = ""
        """The first batch in words."""

    @property
    def logits_fn(self) -> LogitsFn | None:
        """What computes the logits; None for the model's own ``forward``."""
        if self._given_logits_fn is not None or self.usage is None:
            return self._given_logits_fn
        return self.usage.logits_fn

    @property
    def watches(self) -> bool:
        """Whether images or labels are known only from the steps themselves."""
        known = self._adapter is None and self.understood and self.usage is not None
        return known and self.usage.targets is not None and self._paths is None  # type: ignore[union-attr]

    def begin(self, pl_module: LightningModule, batch: Any) -> None:
        """Before a step: watch it, if need be."""
        self.end()
        self._batch = batch
        if not self.understood:
            self.batch_words = describe(batch)
        settled = self._adapter is not None and self._given_logits_fn is not None
        if not settled and (not self.understood or self.watches) and can_observe(pl_module):
            self._observer = Observer(pl_module)
            self._observer.start(batch)

    def end(self) -> Observation | None:
        """After a step, or an error in it: stop watching; returns what was seen, if it was watched."""
        observer, self._observer, self._batch = self._observer, None, None
        return None if observer is None else observer.stop()

    def understand(
        self,
        pl_module: LightningModule,
        batch: Any,
        seen: Observation | None,
        known: tuple[tuple[int, ...], int] | None = None,
        way: Way = same_way,
    ) -> None:
        """Learn from the first step how the later ones are read.

        Args:
            pl_module: The model.
            batch: The step's batch.
            seen: What was observed of it.
            known: ``(C, H, W)`` and the number of classes, if another stage's steps have told how the model is used.
            way: How the model must be called.

        Raises:
            NotAClassifierError: If the step does not classify images; the error says what it does.
        """
        self.silent = seen is not None and not seen.calls and not seen.losses
        if seen is not None and not self.silent:
            try:
                if known is not None:
                    self.usage = find_inputs(seen, known[0], batch, known[1])
                else:
                    with muted(pl_module):
                        self.usage = find_usage(pl_module, seen, batch, self._rerun(pl_module), way)
            except LookupError:  # no loss of torch's: the batch and forward must do
                self.usage = None
            except NotAClassifierError:
                if self._given_logits_fn is None:
                    raise
        if self.usage is not None and self._adapter is None:
            self._paths = _paths_in(batch, self.usage)
            if self.usage.targets is None and place_in(self.usage.images, batch) is None:
                raise NotAClassifierError(
                    "the step changes the images before they enter the network, and with which labels the logits are "
                    "compared was not seen"
                )
        self.understood = True

    def read(self, batch: Any, seen: Observation | None = None) -> tuple[Tensor, Tensor]:
        """Images ``(B, C, H, W)`` as they enter the network, and labels ``(B,)``, or ``(B, classes)`` if independent.

        Raises:
            TypeError: If they are not found; the error says what the batch is.
        """
        if self.watches:
            return self._read_seen(batch, seen)
        if self._paths is None:
            return read_batch(batch, self._adapter)
        images, targets = (at_path(batch, path) for path in self._paths)
        return images.detach(), self._labels(targets)

    def _read_seen(self, batch: Any, seen: Observation | None) -> tuple[Tensor, Tensor]:
        if seen is None or self.usage is None:
            raise TypeError("the step was not watched")
        usage = self.usage
        images, targets = images_and_targets(
            seen, batch, shape=tuple(usage.images.shape[1:]), loss=usage.loss, num_classes=usage.num_classes
        )
        return images.float(), self._labels(targets)

    def _labels(self, targets: Tensor) -> Tensor:
        if self.usage is not None and self._are_independent(targets, self.usage):
            return (targets.detach() > 0.5).long()
        return labels_from(targets)

    def _are_independent(self, targets: Tensor, usage: Usage) -> bool:
        """Whether labels do not exclude each other, which a batch may be the first to show."""
        several = takes_independent_labels(usage.loss, targets) and bool(((targets > 0.5).sum(dim=1) > 1).any())
        if several and not usage.multi_label:
            self.usage = as_multi_label(usage)
        return several or usage.multi_label

    def _rerun(self, pl_module: LightningModule) -> Callable[[Any], Any] | None:
        """Runs the step again; not a training step, which may step optimizers or draw random numbers."""
        if self.stage == "training":
            return None
        step = getattr(pl_module, f"{self.stage}_step")
        beside_the_batch = list(inspect.signature(step).parameters.values())[1:]  # batch_idx by any name
        numbers = {each.name: 0 for each in beside_the_batch if each.kind is each.POSITIONAL_OR_KEYWORD}
        return lambda batch: step(batch, **numbers)

    def in_words(self) -> str:
        """Where images and labels were found, in a sentence."""
        if self.usage is None:
            return "images and labels as the batch shows them"
        where = [in_words(path) for path in self._paths] if self._paths else ["what enters the network", "its target"]
        return f"images: {where[0]}; labels: {where[1]}, as {self.usage.loss} takes them"


def _paths_in(batch: Any, usage: Usage) -> tuple[Path, Path] | None:
    """Where in a batch the images and targets are just as they were used; None if they are not in it."""
    images = _path_of(usage.images, batch)
    targets = None if usage.targets is None else _path_of(usage.targets, batch)
    if targets is None and usage.targets is not None and not usage.multi_label:  # one-hot or float only in the step
        targets = _path_of(labels_from(usage.targets), batch)
    return None if images is None or targets is None else (images, targets)


def _path_of(wanted: Tensor, batch: Any) -> Path | None:
    for path, tensor in tensors_in(batch):
        same_kind = tensor.shape == wanted.shape and tensor.dtype == wanted.dtype
        if same_kind and (tensor.data_ptr() == wanted.data_ptr() or torch.equal(tensor, wanted)):
            return path
    return None


@contextmanager
def muted(pl_module: LightningModule) -> Iterator[None]:
    """Let ``self.log`` and ``self.log_dict`` do nothing, for a forward that logs.

    Example:
        >>> from lightning.pytorch.demos.boring_classes import BoringModel
        >>> model = BoringModel()
        >>> with muted(model):
        ...     model.log("steps", 3.0)
    """

    def nothing(*_: Any, **__: Any) -> None:
        return None

    loggers = [module for module in pl_module.modules() if hasattr(module, "log_dict") and hasattr(module, "log")]
    names = ("log", "log_dict")
    before = [(vars(module), name, vars(module).get(name)) for module in loggers for name in names]
    for namespace, name, _ in before:
        namespace[name] = nothing
    try:
        yield
    finally:
        for namespace, name, value in before:
            if value is None:
                del namespace[name]
            else:
                namespace[name] = value
