"""``fitb ablate``: an ablation of a checkpoint, or of the demo's network, written to a folder."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from lightning.pytorch import LightningModule, Trainer, seed_everything
from PIL import Image
from torch.utils.data import DataLoader

from fitb_callbacks.ablation import ablate
from fitb_callbacks.batches import ProbeImages
from fitb_callbacks.data import LOADERS, LabelledImages
from fitb_callbacks.demo import SmallCNN
from fitb_callbacks.probe import FillInBlanks

__all__ = ["AblationRun", "run_ablation"]

_EPOCHS = 3


@dataclass(frozen=True)
class AblationRun:
    """What the command leaves behind.

    Attributes:
        cells: How many settings were probed.
        table: The scores of every setting, a CSV file.
        pictures: Folder of the prototypes' grids, a PNG a class.
    """

    cells: int
    table: Path
    pictures: Path


def run_ablation(
    *,
    data: str,
    data_dir: Path | None,
    checkpoint: Path | None,
    module: str,
    mask_ratios: Sequence[float],
    patch_sizes: Sequence[int],
    thresholds: Sequence[float | None] | None,
    masking: str,
    num_masks: int,
    images_per_class: int,
    output: Path,
    on_cell: Callable[[int, int], None],
) -> AblationRun:
    """Load or train a model, ablate the probe on validation images, and write table and pictures.

    Args:
        data: Name of a data set, see `fitb_callbacks.data.LOADERS`.
        data_dir: Its folder, if it is not in the default place.
        checkpoint: Lightning checkpoint. None trains the demo's network for three epochs and keeps it in the folder.
        module: The checkpoint's class, as ``package.module:Class``.
        mask_ratios: See `ablate`.
        patch_sizes: See `ablate`.
        thresholds: See `ablate`.
        masking: See `FillInBlanks`.
        num_masks: See `FillInBlanks`.
        images_per_class: Probe images of each class.
        output: Folder for everything; made if it does not exist. A second run with it goes on where the first stopped.
        on_cell: See `ablate`.
    """
    probe = FillInBlanks(masking=masking, num_masks=num_masks)
    labelled = LOADERS[data](data_dir)
    images, labels = labelled.validation.tensors
    for ratio, patch_size in product(mask_ratios, patch_sizes):  # before a network is trained for nothing
        replace(probe, mask_ratio=ratio, patch_size=patch_size).resolved_patch_size(images)
    output.mkdir(parents=True, exist_ok=True)
    model: LightningModule
    if checkpoint is None:
        checkpoint = output / f"{data}.ckpt"
        if not checkpoint.exists():
            _train(labelled, checkpoint)
        model = SmallCNN.load_from_checkpoint(checkpoint, map_location="cpu", weights_only=True)
    else:
        model = _class_named(module).load_from_checkpoint(checkpoint, map_location="cpu", weights_only=True)
    probed = ProbeImages(per_class=images_per_class, max_images=images_per_class * len(labelled.classes))
    probed.offer(images, labels)
    ablation = ablate(
        model,
        probed.images,
        probed.labels,
        probe=probe,
        mask_ratios=mask_ratios,
        patch_sizes=patch_sizes,
        thresholds=thresholds,
        folder=output / "cells",
        class_names=labelled.classes,
        on_cell=on_cell,
    )
    ablation.write_csv(output / "scores.csv")
    pictures = output / "pictures"
    pictures.mkdir(exist_ok=True)
    for index, label in enumerate(probed.labels.tolist()):
        path = pictures / f"{labelled.classes[label]}.png"
        if label not in probed.labels[:index]:
            Image.fromarray(ablation.picture(index)).save(path)
    return AblationRun(len(ablation.cells), output / "scores.csv", pictures)


def _train(labelled: LabelledImages, checkpoint: Path) -> None:
    seed_everything(0, verbose=False)
    trainer = Trainer(
        max_epochs=_EPOCHS,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    trainer.fit(SmallCNN(len(labelled.classes)), DataLoader(labelled.train, batch_size=64, shuffle=True))
    trainer.save_checkpoint(checkpoint)


def _class_named(path: str) -> type[LightningModule]:
    module, _, name = path.partition(":")
    if not name:
        raise ValueError(f"--class must be package.module:Class; got {path!r}")
    found = getattr(importlib.import_module(module), name, None)
    if not isinstance(found, type) or not issubclass(found, LightningModule):
        raise ValueError(f"--class must name a LightningModule; {path!r} is {found!r}")  # noqa: TRY004 - of the name
    return found
