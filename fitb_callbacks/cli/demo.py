"""``fitb demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from fitb_callbacks.cli.options import DataSet

__all__ = ["demo"]


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
        from fitb_callbacks.data.datasets import LOADERS
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
    console.print("Make a page of the run, or open the dashboards, with", highlight=False)
    console.print(f"  fitb report {run.run}", highlight=False, soft_wrap=True)
    console.print(
        f"  tensorboard --logdir {run.tensorboard} --samples_per_plugin images=200", highlight=False, soft_wrap=True
    )
    console.print(f"  mlflow ui --backend-store-uri {run.mlflow_uri}", highlight=False, soft_wrap=True)
