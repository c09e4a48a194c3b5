"""What a Trainer's set-up means for the callback."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from fitb_callbacks.callback.schedule import Moment

__all__ = [
    "find_class_names",
    "has_base",
    "images_of_an_epoch",
    "is_dummy",
    "is_last_validation_of_epoch",
    "logged_accuracy",
    "moment_of",
    "refused_strategy",
    "stage_of",
    "steps_by_itself",
    "validates_in_this_epoch",
    "weights_probed",
]


def stage_of(trainer: Trainer) -> str:
    """What a Trainer of either package is doing: "fit", "validate", "test" or "predict".

    Example:
        >>> trainer = Trainer(logger=False, accelerator="cpu")
        >>> trainer.state.fn = "fit"
        >>> stage_of(trainer)
        'fit'
    """
    function = trainer.state.fn
    return str(getattr(function, "value", function))


def is_dummy(logger: Any) -> bool:
    """Whether a logger of either package is the one that does nothing."""
    return any(base.__name__ == "DummyLogger" for base in type(logger).__mro__)


def has_base(instance: object, *names: str) -> bool:
    """Whether an instance has a class of this name among its bases: `lightning` and `pytorch_lightning` both count.

    Example:
        >>> has_base(Trainer(logger=False, accelerator="cpu").strategy, "DDPStrategy", "SingleDeviceStrategy")
        True
    """
    return any(base.__name__ in names for base in type(instance).__mro__)


def refused_strategy(trainer: Trainer) -> str | None:
    """Say why a strategy cannot be probed under; None if it can.

    Example:
        >>> refused_strategy(Trainer(logger=False, accelerator="cpu")) is None
        True
    """
    for kind, reason in _REFUSED.items():
        if has_base(trainer.strategy, kind):
            return (
                f"{type(trainer.strategy).__name__} {reason}, so nothing is probed. Train with "
                "strategy=ModelParallelStrategy() (FSDP2) or FSDPStrategy(), which can be probed, or probe a "
                "consolidated checkpoint: "
                "FillInBlanks().probe(model, images, labels)"
            )
    return None


_REFUSED = {
    "DeepSpeedStrategy": "takes gradients by its own engine, which gives none for the images",
}


def steps_by_itself(pl_module: LightningModule) -> bool:
    """Whether the module steps its optimizers in ``training_step``, which then cannot be run again.

    Example:
        >>> from lightning.pytorch.demos.boring_classes import BoringModel
        >>> steps_by_itself(BoringModel())
        False
    """
    return not pl_module.automatic_optimization


def weights_probed(trainer: Trainer, probing: Callback) -> str | None:
    """Which weights are probed where another callback swaps averaged ones in for validation, in a sentence.

    Example:
        >>> trainer = Trainer(callbacks=[probing := Callback()], logger=False, accelerator="cpu")
        >>> weights_probed(trainer, probing) is None  # no callback does that
        True
    """
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    for callback in callbacks:
        if has_base(callback, "WeightAveraging"):  # Lightning 2.6 and later
            first = callbacks.index(probing) < callbacks.index(callback)
            kind = type(callback).__name__
            return (
                f"where an epoch ends with validation, the {'averaged' if first else 'current, not averaged,'} weights "
                f"are probed, because this callback stands {'before' if first else 'after'} {kind} in the Trainer's "
                "callbacks. Without validation it is always the current weights"
            )
    return None


def find_class_names(trainer: Trainer, pl_module: LightningModule) -> Sequence[str] | None:
    """Find the names of the classes: ``classes`` or ``class_names`` of the data set, the data module or the model.

    The data set is that of the first validation loader, or without validation that of training.

    Example:
        >>> from lightning.pytorch.demos.boring_classes import BoringModel
        >>> model = BoringModel()
        >>> model.classes = ["cat", "dog"]
        >>> find_class_names(Trainer(logger=False, accelerator="cpu"), model)
        ['cat', 'dog']
    """
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


_HELD_OUT = re.compile(r"(^|[^a-z])(val|valid|validation|eval|dev|test)([^a-z]|$)")


def logged_accuracy(metrics: Mapping[str, Tensor], prefix: str) -> tuple[str, float] | None:
    """Name and value of the accuracy that a training logs of its validation; None where no name says that it is one.

    Args:
        metrics: ``Trainer.callback_metrics`` once the validation is over; before, reading them computes them.
        prefix: What the keys of the callback's own scores begin with.

    Example:
        >>> from torch import tensor
        >>> logged_accuracy({"train_acc": tensor(0.9), "val_acc": tensor(0.5)}, "fitb")
        ('val_acc', 0.5)
    """
    found = [
        name
        for name, value in metrics.items()
        if "acc" in name.lower() and _HELD_OUT.search(name.lower()) and not name.startswith(f"{prefix}/")
        if isinstance(value, Tensor) and value.numel() == 1 and 0 <= value <= 1
    ]
    name = min(found, key=lambda each: (len(each), each), default=None)
    return None if name is None else (name, round(float(metrics[name]), 6))


def moment_of(trainer: Trainer, kind: str) -> Moment:
    """Where a run is, the same on every process; each must call this. See `Moment` for the kinds."""
    # Ranks with loaders of different lengths may see this differently; where one is not sure, all wait.
    last = True
    if kind == "validation" and stage_of(trainer) == "fit":
        last = bool(trainer.strategy.reduce_boolean_decision(is_last_validation_of_epoch(trainer), all=True))
    step = trainer.fit_loop.epoch_loop._batches_that_stepped
    # At the epoch's end the counter has moved on; Lightning steps back by one, too, to log the epoch's metrics
    return Moment(trainer.current_epoch, step - 1 if kind in ("epoch end", "run end") else step, kind, last)


def images_of_an_epoch(trainer: Trainer) -> float:
    """How many images an epoch, or a shorter run, trains on; a batch counts as one where its size is unknown."""
    batches = float(trainer.num_training_batches)
    steps = trainer.max_steps * trainer.accumulate_grad_batches if trainer.max_steps > 0 else math.inf
    batch_size = getattr(trainer.train_dataloader, "batch_size", None)
    return min(batches, steps) * (batch_size if isinstance(batch_size, int) else 1)


def validates_in_this_epoch(trainer: Trainer) -> bool:
    """Whether a validation is certain to come before this epoch ends."""
    every = trainer.check_val_every_n_epoch
    return trainer.enable_validation and every is not None and (trainer.current_epoch + 1) % every == 0


def is_last_validation_of_epoch(trainer: Trainer) -> bool:
    """Whether no further validation comes in this epoch. Where that cannot be known, it is decided at its end."""
    loop = trainer.fit_loop.epoch_loop
    if loop.batch_progress.is_last_batch:
        return True
    interval = trainer.val_check_batch
    remaining = trainer.num_training_batches - (loop.batch_idx + 1)
    return interval is not None and math.isfinite(remaining) and remaining < interval
