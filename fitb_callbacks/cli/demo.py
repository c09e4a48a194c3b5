"""``fitb demo``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from fitb_callbacks.cli.console import exit_on_error, figure, say_verdict, work_bar

__all__ = ["demo"]

_EXPLANATION = """
After each epoch, parts of four validation images of each class were hidden, and
the model's gradients showed how it would fill them in.
  val acc    how often the model is right: all you see without this package
  structure  the headline: it is right, a judge sees the class in what it
             fills in, and no simple cue explains that. 1 is best
  knows      how high a judge ranks the class of what the model fills in
  shortcut   how far one simple cue explains the answers; lower is better
  coverage   images whose class the model knew while parts were hidden
  accuracy   how often it recognises its own prototypes, as in the paper
"""

_TENSORBOARD = (
    "http://127.0.0.1:6006/?smoothing=0&tagFilter=fitb%2F(at_a_glance%7Cstructure%7Cknows%7Cshortcut)%24#timeseries"
)
"""Where the summary and the deciding scores stand on one page, as they are."""

_DIGITS = {"epoch": 0, "seconds": 1}  # of the table


class DemoData(StrEnum):
    """What the demo can show."""

    mnist = "mnist"
    fashion_mnist = "fashion-mnist"
    photos = "photos"


def demo(
    data: Annotated[
        DemoData,
        typer.Option(help="5,000 handwritten digits, 70,000 pictures of clothes, or four photographs: no training."),
    ] = DemoData.mnist,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of Fashion-MNIST's four .gz files.")] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs to train.")] = 5,
    output: Annotated[Path, typer.Option(help="Folder for everything but MLflow's database.")] = Path("fitb-demo"),
    mlflow_uri: Annotated[
        str, typer.Option("--tracking-uri", "--mlflow-uri", help="Address of the MLflow store.")
    ] = "sqlite:///mlflow.db",
) -> None:
    """Train a small network with the callback on, and see what it learned in TensorBoard and MLflow.

    With --data photos, probe EfficientNet-Lite0 as it comes from ImageNet on four photographs instead.
    """
    console = Console()
    if data_dir is not None and data is not DemoData.fashion_mnist:
        raise typer.BadParameter(
            "goes with --data fashion-mnist; the others come with a package", param_hint="--data-dir"
        )
    if data is DemoData.photos:
        _photographs(console, output)
        return
    try:
        from fitb_callbacks.data.datasets import LOADERS
        from fitb_callbacks.demo import run_demo

        images = LOADERS[data.value](data_dir)
    except (FileNotFoundError, ModuleNotFoundError, ValueError) as error:
        console.print(f"[red]fitb demo:[/red] {error}", highlight=False, soft_wrap=True)
        raise typer.Exit(2) from error
    console.print(
        f"Training a small CNN on {len(images.train):,} images of {data.value} for {epochs} epoch{'s' * (epochs > 1)}; "
        "the callback probes it after each."
    )
    run = run_demo(images, name=data.value, epochs=epochs, output=output, mlflow_uri=mlflow_uri)

    console.print(_EXPLANATION)
    table = Table(title="What the model learned, by epoch", title_justify="left")
    columns = {
        "epoch": "epoch",
        "val_acc": "val\nacc",
        "structure": "structure",
        "knows": "knows",
        "shortcut": "shortcut",
        "coverage": "coverage",
        "accuracy": "accuracy",
        "seconds": "seconds",
    }
    for title in columns.values():
        table.add_column(title, justify="right")
    for row in run.history:
        table.add_row(*(figure(row[key], _DIGITS.get(key, 3)) for key in columns))
    console.print(table)
    console.print(f"The last prototypes: {run.picture}", highlight=False, soft_wrap=True)
    console.print("Make a page of the run, or open the dashboards, with", highlight=False)
    console.print(f"  fitb report {run.run}", highlight=False, soft_wrap=True)
    console.print(
        f"  tensorboard --logdir {run.tensorboard} --samples_per_plugin images=200", highlight=False, soft_wrap=True
    )
    console.print(f"  then {_TENSORBOARD}", highlight=False, soft_wrap=True)
    console.print(f"  mlflow ui --backend-store-uri {run.mlflow_uri}", highlight=False, soft_wrap=True)
    console.print(f"  then http://127.0.0.1:5000/{run.mlflow_page}", highlight=False, soft_wrap=True)
    say_verdict(console, run.verdict)


def _photographs(console: Console, output: Path) -> None:
    with exit_on_error("fitb demo", console):
        from fitb_callbacks import FillInBlanks
        from fitb_callbacks.data.photographs import load_photographs
        from fitb_callbacks.models.pretrained import efficientnet_lite0

        photographs, model = load_photographs(), efficientnet_lite0()
        images, labels = photographs.tensors
        console.print("Probing EfficientNet-Lite0, with its ImageNet weights, on four photographs: a minute or two.")
        with work_bar(console, "Probing", "masked images") as progress:
            result = FillInBlanks(num_masks=64).probe(
                model,
                images,
                labels,
                class_names=photographs.classes,  # type: ignore[attr-defined]
                progress=progress,
            )
        output.mkdir(parents=True, exist_ok=True)
        result.figure().save(output / "photos.png")
        result.save(output / "photos.npz")
    console.print(f"The photographs, filled in: {output / 'photos.png'}", highlight=False, soft_wrap=True, markup=False)
    console.print(f"The result: {output / 'photos.npz'}", highlight=False, soft_wrap=True, markup=False)
    say_verdict(console, result.interpretation())
