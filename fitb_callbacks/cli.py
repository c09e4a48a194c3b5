"""The command line."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from pickle import UnpicklingError
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress
from rich.table import Table

import fitb_callbacks

__all__ = ["app"]

app = typer.Typer(
    name="fitb",
    help="Fill in the blanks: see what an image classifier learned.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def version(
    show: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """Fill in the blanks: see what an image classifier learned."""
    if show:
        typer.echo(f"fitb-callbacks {fitb_callbacks.__version__}")
        raise typer.Exit


class DataSet(str, Enum):
    """The demo's data sets."""

    mnist = "mnist"
    fashion_mnist = "fashion-mnist"


@app.command()
def demo(
    data: Annotated[DataSet, typer.Option(help="5,000 handwritten digits, or 70,000 pictures of clothes.")] = (
        DataSet.mnist
    ),
    data_dir: Annotated[Path | None, typer.Option(help="Folder of Fashion-MNIST's four .gz files.")] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs to train.")] = 5,
    output: Annotated[Path, typer.Option(help="Folder for everything but MLflow's database.")] = Path("fitb-demo"),
    mlflow_uri: Annotated[str, typer.Option(help="Address of the MLflow store.")] = "sqlite:///mlflow.db",
) -> None:
    """Train a small network with the callback on, and see what it learned in TensorBoard and MLflow."""
    console = Console()
    if data_dir is not None and data is DataSet.mnist:
        raise typer.BadParameter(
            "goes with --data fashion-mnist; the digits come with a package", param_hint="--data-dir"
        )
    try:
        from fitb_callbacks.data import LOADERS
        from fitb_callbacks.demo import run_demo

        images = LOADERS[data.value](data_dir)
    except (FileNotFoundError, ModuleNotFoundError, ValueError) as error:
        console.print(f"[red]fitb demo:[/red] {error}", highlight=False, soft_wrap=True)
        raise typer.Exit(2) from error
    console.print(
        f"Training a small CNN on {len(images.train):,} images of {data.value} for {epochs} epochs; "
        "the callback probes it after each."
    )
    run = run_demo(images, name=data.value, epochs=epochs, output=output, mlflow_uri=mlflow_uri)

    table = Table(title="What the model learned, by epoch", title_justify="left")
    columns = {
        "epoch": "epoch",
        "val_acc": "val\nacc",
        "accuracy": "accuracy",
        "f1_macro": "F1\nmacro",
        "f1_weighted": "F1\nweighted",
        "coverage": "coverage",
        "structure": "structure",
        "seconds": "seconds",
    }
    for title in columns.values():
        table.add_column(title, justify="right")
    for row in run.history:
        table.add_row(*(f"{row[key]:.0f}" if key == "epoch" else f"{row[key]:.3f}" for key in columns))
    console.print(table)
    console.print(f"The last prototypes: {run.picture}", highlight=False, soft_wrap=True)
    console.print("Open the dashboards with", highlight=False)
    console.print(
        f"  tensorboard --logdir {run.tensorboard} --samples_per_plugin images=200", highlight=False, soft_wrap=True
    )
    console.print(f"  mlflow ui --backend-store-uri {run.mlflow_uri}", highlight=False, soft_wrap=True)


@app.command()
def resend(
    folder: Annotated[
        Path,
        typer.Argument(envvar="FITB_OUTBOX", help="Where they wait.", exists=False, file_okay=False),
    ] = Path("fitb-outbox"),
) -> None:
    """Send scores and pictures that a tracking server, or a full disk, could not take."""
    console = Console()
    if not folder.is_dir():
        console.print(f"Nothing waits: there is no folder {folder}", highlight=False, soft_wrap=True, markup=False)
        return
    from fitb_callbacks.integrations.outbox import resend

    sent, failures = resend(folder)
    console.print(f"{sent} parcels sent")
    for run, error in failures.items():
        console.print(f"Not sent: {run}: {error}", highlight=False, soft_wrap=True, markup=False)
    if failures:
        raise typer.Exit(1)


@app.command()
def ablate(
    data: Annotated[DataSet, typer.Option(help="Whose validation images to probe on.")] = DataSet.mnist,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of Fashion-MNIST's four .gz files.")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Lightning checkpoint; without one, the demo's network is trained first.")
    ] = None,
    module: Annotated[
        str, typer.Option("--class", help="The checkpoint's LightningModule, as package.module:Class.")
    ] = "fitb_callbacks.demo:SmallCNN",
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
        from fitb_callbacks.ablation_run import run_ablation

        with Progress(
            *Progress.get_default_columns(), MofNCompleteColumn(), console=console, disable=not console.is_terminal
        ) as progress:
            bar = progress.add_task("Probing")
            run = run_ablation(
                data=data.value,
                data_dir=data_dir,
                checkpoint=checkpoint,
                module=module,
                mask_ratios=mask_ratio,
                patch_sizes=patch_size,
                thresholds=None if threshold is None else [_number_or_none(value) for value in threshold],
                masking=masking,
                num_masks=num_masks,
                images_per_class=images_per_class,
                output=output,
                on_cell=lambda done, total: progress.update(bar, completed=done, total=total),
            )
    except (FileNotFoundError, ModuleNotFoundError, RuntimeError, UnpicklingError, ValueError) as error:
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
