"""``fitb probe``."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from fitb_callbacks.cli import options
from fitb_callbacks.cli.computing import Device, Precision, PrecisionName, computing, is_first_process
from fitb_callbacks.cli.console import exit_on_error, figure, say_verdict, work_bar

if TYPE_CHECKING:
    from fitb_callbacks.probing.result import FillInBlanksResult

__all__ = ["probe"]


def probe(
    module: options.ClassPath,
    data: Annotated[str, typer.Option(help=f"Images to probe on: {options.DATA_HELP}.")],
    checkpoint: Annotated[
        Path | None,
        typer.Argument(help="Lightning checkpoint or state_dict; none if --class returns a model with its weights."),
    ] = None,
    reference: options.Reference = None,
    data_dir: options.DataDir = None,
    allow_pickle: options.AllowPickle = False,
    images_per_class: options.ImagesPerClass = None,
    max_images: options.MaxImages = 64,
    masking: options.Masking = "random",
    num_masks: options.NumMasks = 256,
    mask_ratio: options.MaskRatio = 0.25,
    patch_size: options.PatchSize = None,
    seed: options.Seed = 0,
    device: Device = "auto",
    precision: Precision = PrecisionName.full,
    output: Annotated[Path, typer.Option(help="Folder for the picture and the result.")] = Path("fitb-probe"),
) -> None:
    """Probe a model that was trained before or elsewhere."""
    console = Console(quiet=not is_first_process())
    with exit_on_error("fitb probe", console), computing(device, precision) as here:
        from fitb_callbacks import FillInBlanks
        from fitb_callbacks.data.sources import open_images
        from fitb_callbacks.models.checkpoints import load_checkpoint
        from fitb_callbacks.models.logits import label_by_label
        from fitb_callbacks.scoring.judges.trusted import open_judge

        settings = FillInBlanks(
            masking=masking, num_masks=num_masks, mask_ratio=mask_ratio, patch_size=patch_size, seed=seed
        )
        model = load_checkpoint(checkpoint, module, allow_pickle=allow_pickle).to(here.device)
        chosen = open_images(data, per_class=images_per_class, max_images=max_images, data_dir=data_dir)
        judge = None if reference is None else open_judge(reference, chosen, data_dir=data_dir)
        with work_bar(console, "Probing", "masked images") as progress:
            result = settings.probe(
                model,
                chosen.images,
                chosen.labels,
                logits_fn=label_by_label() if chosen.independent else None,
                class_names=chosen.class_names,
                judge=judge,
                share=here.share,
                progress=progress,
            )
        if is_first_process():
            output.mkdir(parents=True, exist_ok=True)
            result.figure().save(output / "prototypes.png")
            result.save(output / "result.npz")
    console.print(_scores(result))
    if judge is None:
        console.print("Without --reference there is no judge: a model recognises its own gradient.", soft_wrap=True)
    console.print(f"The prototypes: {output / 'prototypes.png'}", highlight=False, soft_wrap=True, markup=False)
    console.print(f"The result: {output / 'result.npz'}", highlight=False, soft_wrap=True, markup=False)
    say_verdict(console, result.interpretation(None if judge is None else f"{judge.name} on {reference}"))


def _scores(result: FillInBlanksResult) -> Table:
    from fitb_callbacks.scoring.catalogue import METRICS

    table = Table(title=f"{len(result.images)} probe images", title_justify="left")
    for column in ("score", "value", "95% interval", "better", "chance level"):
        table.add_column(column, justify="right" if column == "value" else "left")
    for name, value in result.metrics.items():
        metric = METRICS[name]
        low, high = result.intervals.get(name, (math.nan, math.nan))
        interval = "" if math.isnan(low + high) else f"{low:.2f} to {high:.2f}"
        table.add_row(name, figure(value), interval, metric.better, re.split("[:,(]", metric.chance)[0].strip())
    return table
