"""``fitb ablate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fitb_callbacks.cli.work_bar import work_bar

__all__ = ["ablate"]


def ablate(
    data: Annotated[
        str,
        typer.Option(
            help="Images to probe on: mnist, fashion-mnist, a folder with one folder a class, an .npz file, or "
            "package.module:function."
        ),
    ] = "mnist",
    data_dir: Annotated[Path | None, typer.Option(help="Folder of Fashion-MNIST's four .gz files.")] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="Lightning checkpoint or state_dict; without one, the demo's network is trained."),
    ] = None,
    module: Annotated[
        str, typer.Option("--class", help="The checkpoint's module, as package.module:Class.")
    ] = "fitb_callbacks.demo:SmallCNN",
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Load checkpoints that hold more than tensors: runs code in them.")
    ] = False,
    mask_ratio: Annotated[list[float], typer.Option(help="Give it once for each ratio.")] = [0.1, 0.25, 0.5, 0.75],  # noqa: B006
    patch_size: Annotated[list[int], typer.Option(help="In pixels; give it once for each.")] = [1, 2, 4, 7],  # noqa: B006
    threshold: Annotated[
        list[str] | None, typer.Option(help="A number, or none for not binarised; give it once for each.")
    ] = None,
    masking: Annotated[str, typer.Option(help="random or progressive.")] = "random",
    num_masks: Annotated[int, typer.Option(min=1, help="Masks an image.")] = 256,
    images_per_class: Annotated[int, typer.Option(min=1, help="Probe images of each class.")] = 4,
    output: Annotated[Path, typer.Option(help="Folder for the table, the pictures and every finished cell.")] = Path(
        "fitb-ablation"
    ),
) -> None:
    """Probe one model under many mask ratios, patch sizes and thresholds. Run it again to go on where it stopped."""
    console = Console()
    try:
        from fitb_callbacks.cli.ablation_run import run_ablation

        with work_bar(console, "Probing", "settings") as show:
            run = run_ablation(
                data=data,
                data_dir=data_dir,
                checkpoint=checkpoint,
                module=module,
                allow_pickle=allow_pickle,
                mask_ratios=mask_ratio,
                patch_sizes=patch_size,
                thresholds=None if threshold is None else [_number_or_none(value) for value in threshold],
                masking=masking,
                num_masks=num_masks,
                images_per_class=images_per_class,
                output=output,
                on_cell=show,
            )
    except (FileNotFoundError, ModuleNotFoundError, RuntimeError, ValueError) as error:
        console.print(f"[red]fitb ablate:[/red] {error}", highlight=False, soft_wrap=True)
        raise typer.Exit(2) from error
    console.print(f"The scores of {run.cells} settings: {run.table}", highlight=False, soft_wrap=True)
    console.print(f"The prototypes, a picture a class: {run.pictures}", highlight=False, soft_wrap=True)


def _number_or_none(text: str) -> float | None:
    if text.lower() == "none":
        return None
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"--threshold must be a number or none; got {text!r}") from None
