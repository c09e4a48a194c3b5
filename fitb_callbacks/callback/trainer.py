"""What a Trainer's set-up means for the callback, before anything runs."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy

__all__ = [
    "check_package",
    "check_strategy",
    "find_class_names",
    "is_last_validation_of_epoch",
    "validates_in_this_epoch",
    "weights_probed",
]


def check_package(trainer: Trainer) -> None:
    """Raise TypeError for a Trainer of the old package, whose classes are other ones."""
    package = type(trainer).__module__.split(".")[0]
    if package == "pytorch_lightning":
        raise TypeError(
            f"FillInBlanksCallback needs a lightning.pytorch.Trainer; got that of {package}. "
            "Import Trainer, LightningModule and loggers from lightning.pytorch: it is the same code"
        )


def check_strategy(trainer: Trainer) -> None:
    """Raise ValueError for a strategy under which no process has the whole model.

    Example:
        >>> check_strategy(Trainer(logger=False, accelerator="cpu"))
    """
    if isinstance(trainer.strategy, (FSDPStrategy, DeepSpeedStrategy, ModelParallelStrategy)):
        raise ValueError(  # noqa: TRY004 - the strategy's type is the value here
            f"FillInBlanksCallback does not work with {type(trainer.strategy).__name__}, which splits the model's "
            "parameters over processes. Train with it without the callback, then probe a consolidated checkpoint "
            "with fitb_callbacks.FillInBlanks().probe(model, images, labels)"
        )


def weights_probed(trainer: Trainer, probing: Callback) -> str | None:
    """Which weights are probed where another callback swaps averaged ones in for validation, in a sentence.

    Example:
        >>> trainer = Trainer(callbacks=[probing := Callback()], logger=False, accelerator="cpu")
        >>> weights_probed(trainer, probing) is None  # no callback does that
        True
    """
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    for callback in callbacks:
        if any(base.__name__ == "WeightAveraging" for base in type(callback).__mro__):  # Lightning 2.6 and later
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
