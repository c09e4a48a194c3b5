"""The names of the classes, where a training knows them."""

from __future__ import annotations

from collections.abc import Sequence

from lightning.pytorch import LightningModule, Trainer

__all__ = ["find_class_names"]


def find_class_names(trainer: Trainer, pl_module: LightningModule) -> Sequence[str] | None:
    """``classes`` or ``class_names`` of the data set, else of the data module, else of the model; None without any.

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
