"""``fitb ablate``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from fitb_callbacks.cli import options
from fitb_callbacks.cli.computing import Device, Precision, PrecisionName, computing, is_first_process
from fitb_callbacks.cli.console import exit_on_error, figure, work_bar

if TYPE_CHECKING:
    from fitb_callbacks.data.sources import ImageSet
    from fitb_callbacks.probing.ablation import Ablation, Cell

__all__ = ["ablate"]

_DEMO_MODULE = "fitb_callbacks.demo:SmallCNN"
_EPOCHS = 3
_COLUMNS = {
    "accuracy_all": "accuracy\n_all",
    "coverage": "coverage",
    "accuracy": "accuracy",
    "f1_macro": "f1\nmacro",
    "reliability": "relia-\nbility",
}
"""Scores and their titles in the table, which is 80 characters wide."""


def ablate(
    data: Annotated[str, typer.Option(help=f"Images to probe on: {options.DATA_HELP}.")] = "mnist",
    data_dir: options.DataDir = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="Lightning checkpoint or state_dict; without one, the demo's network is trained."),
    ] = None,
    module: options.ClassPath = _DEMO_MODULE,
    allow_pickle: options.AllowPickle = False,
    mask_ratio: Annotated[list[float], typer.Option(help="Give it once for each ratio.")] = [0.1, 0.25, 0.5, 0.75],  # noqa: B006
    patch_size: Annotated[list[int], typer.Option(help="In pixels; give it once for each.")] = [1, 2, 4, 7],  # noqa: B006
    threshold: Annotated[
        list[str] | None, typer.Option(help="A number, or none for not binarised; give it once for each.")
    ] = None,
    masking: options.Masking = "random",
    num_masks: options.NumMasks = 256,
    images_per_class: options.ImagesPerClass = None,
    device: Device = "auto",
    precision: Precision = PrecisionName.full,
    output: Annotated[Path, typer.Option(help="Folder for the table, the pictures and every finished cell.")] = Path(
        "fitb-ablation"
    ),
) -> None:
    """Probe one model under many mask ratios, patch sizes and thresholds. Run it again to go on where it stopped."""
    console = Console(quiet=not is_first_process())
    with exit_on_error("fitb ablate", console), computing(device, precision) as here:
        from fitb_callbacks import FillInBlanks
        from fitb_callbacks.data.datasets import LOADERS
        from fitb_callbacks.data.sources import open_images
        from fitb_callbacks.models.checkpoints import load_checkpoint
        from fitb_callbacks.models.logits import label_by_label
        from fitb_callbacks.probing.ablation import ablate

        if here.share[1] > 1:
            raise ValueError("fitb ablate runs in one process; torchrun started several")
        probe = FillInBlanks(masking=masking, num_masks=num_masks)
        thresholds = None if threshold is None else [_number_or_none(value) for value in threshold]
        if checkpoint is None and data not in LOADERS:
            raise ValueError(f"--checkpoint must be given with data of your own; --data is {data}")
        chosen = open_images(data, per_class=images_per_class, data_dir=data_dir)
        for ratio, size in product(mask_ratio, patch_size):  # before a network is trained for nothing
            replace(probe, mask_ratio=ratio, patch_size=size).patch_grid(chosen.images)
        output.mkdir(parents=True, exist_ok=True)
        if checkpoint is None:
            module, checkpoint = _DEMO_MODULE, output / f"{data}.ckpt"
            if not checkpoint.exists():
                console.print(f"Training the demo's network on {data}, for {_EPOCHS} epochs.", highlight=False)
                _train(data, data_dir, checkpoint)
        model = load_checkpoint(checkpoint, module, allow_pickle=allow_pickle).to(here.device)
        with work_bar(console, "Probing", "settings") as show:
            ablation = ablate(
                model,
                chosen.images,
                chosen.labels,
                probe=probe,
                mask_ratios=mask_ratio,
                patch_sizes=patch_size,
                thresholds=thresholds,
                folder=output / "cells",
                logits_fn=label_by_label() if chosen.independent else None,
                class_names=chosen.class_names,
                on_cell=show,
            )
        ablation.write_csv(output / "scores.csv")
        _write_pictures(ablation, chosen, output / "pictures")
    best = max(ablation.cells, key=_quality)
    console.print(_table(ablation.cells, best))
    console.print(
        f"The scores of {len(ablation.cells)} settings: {output / 'scores.csv'}", highlight=False, soft_wrap=True
    )
    console.print(f"The prototypes, a picture a class: {output / 'pictures'}", highlight=False, soft_wrap=True)
    scores = best.result.metrics
    console.print(
        f"[bold green]★ best: mask_ratio={best.mask_ratio:g}, patch_size={best.patch_size}, "
        f"binarize={best.binarize}.[/] "
        f"The model recognises the prototypes of {scores['accuracy_all']:.0%} of the images, "
        f"and they come out the same from other masks by {figure(scores['reliability'], 2)} of 1.",
        highlight=False,
        soft_wrap=True,
    )


def _quality(cell: Cell) -> tuple[float, float]:
    """First how many images' prototypes are recognised, then how steady they are."""
    reliability = cell.result.metrics["reliability"]
    return cell.result.metrics["accuracy_all"], 0.0 if math.isnan(reliability) else reliability


def _table(cells: Sequence[Cell], best: Cell) -> Table:
    table = Table(title="What each setting finds, on the same images and model", title_justify="left")
    for title in ("", "mask\nratio", "patch\nsize", "thres-\nhold", *_COLUMNS.values()):
        table.add_column(title, justify="right")
    for cell in cells:
        threshold = "none" if cell.binarize is None else f"{cell.binarize:g}"
        values = [figure(cell.result.metrics[name]) for name in _COLUMNS]
        mark, style = ("★", "bold green") if cell is best else ("", "")
        table.add_row(mark, f"{cell.mask_ratio:g}", str(cell.patch_size), threshold, *values, style=style)
    return table


def _number_or_none(text: str) -> float | None:
    if text.lower() == "none":
        return None
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"--threshold must be a number or none; got {text!r}") from None


def _train(data: str, data_dir: Path | None, checkpoint: Path) -> None:
    """Train the demo's network for three epochs and save it."""
    from lightning.pytorch import Trainer, seed_everything
    from torch.utils.data import DataLoader

    from fitb_callbacks.data.datasets import LOADERS
    from fitb_callbacks.demo import SmallCNN, quiet

    labelled = LOADERS[data](data_dir)
    with quiet():
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


def _write_pictures(ablation: Ablation, chosen: ImageSet, folder: Path) -> None:
    """Write one PNG per class, of its first image."""
    from PIL import Image

    folder.mkdir(exist_ok=True)
    for index, label in enumerate(chosen.labels.tolist()):
        name = chosen.class_names[label] if chosen.class_names else str(label)
        if label not in chosen.labels[:index]:
            Image.fromarray(ablation.picture(index)).save(folder / f"{name.replace('/', '_')}.png")
