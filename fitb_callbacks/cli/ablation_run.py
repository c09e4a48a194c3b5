"""``fitb ablate``: an ablation of a checkpoint, or of the demo's network, written to a folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from lightning.pytorch import Trainer, seed_everything
from PIL import Image
from torch.utils.data import DataLoader

from fitb_callbacks.data.datasets import LOADERS
from fitb_callbacks.data.sources import open_images
from fitb_callbacks.demo import SmallCNN
from fitb_callbacks.models.checkpoints import load_checkpoint
from fitb_callbacks.probing.ablation import ablate
from fitb_callbacks.probing.probe import FillInBlanks

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
    allow_pickle: bool,
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
        data: See `fitb_callbacks.data.sources.open_images`.
        data_dir: Its folder, if it is not in the default place.
        checkpoint: See `fitb_callbacks.models.checkpoints.load_checkpoint`. None trains the demo's network for three epochs,
            on a data set of `fitb_callbacks.data.datasets.LOADERS`, and keeps it in the folder.
        module: The checkpoint's class, as ``package.module:Class``.
        allow_pickle: See `fitb_callbacks.models.checkpoints.load_checkpoint`.
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
    if checkpoint is None and data not in LOADERS:
        raise ValueError(f"--checkpoint must be given with data of your own; --data is {data}")
    chosen = open_images(data, per_class=images_per_class, data_dir=data_dir)
    for ratio, patch_size in product(mask_ratios, patch_sizes):  # before a network is trained for nothing
        replace(probe, mask_ratio=ratio, patch_size=patch_size).resolved_patch_size(chosen.images)
    if checkpoint is None:
        module, checkpoint = "fitb_callbacks.demo:SmallCNN", output / f"{data}.ckpt"
        if not checkpoint.exists():
            output.mkdir(parents=True, exist_ok=True)
            _train(data, data_dir, checkpoint)
    model = load_checkpoint(checkpoint, module, allow_pickle=allow_pickle)
    output.mkdir(parents=True, exist_ok=True)
    ablation = ablate(
        model,
        chosen.images,
        chosen.labels,
        probe=probe,
        mask_ratios=mask_ratios,
        patch_sizes=patch_sizes,
        thresholds=thresholds,
        folder=output / "cells",
        class_names=chosen.class_names,
        on_cell=on_cell,
    )
    ablation.write_csv(output / "scores.csv")
    pictures = output / "pictures"
    pictures.mkdir(exist_ok=True)
    for index, label in enumerate(chosen.labels.tolist()):
        name = chosen.class_names[label] if chosen.class_names else str(label)
        if label not in chosen.labels[:index]:
            Image.fromarray(ablation.picture(index)).save(pictures / f"{name.replace('/', '_')}.png")
    return AblationRun(len(ablation.cells), output / "scores.csv", pictures)


def _train(data: str, data_dir: Path | None, checkpoint: Path) -> None:
    labelled = LOADERS[data](data_dir)
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
