"""``fitb report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

__all__ = ["report"]


def report(
    source: Annotated[
        str,
        typer.Argument(
            help="The folder of a run (its CSVLogger's or TensorBoardLogger's), runs:/RUN_ID for a run in MLflow, or "
            "saved results: an .npz file or a folder of them."
        ),
    ],
    output: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
    mlflow_uri: Annotated[
        str | None, typer.Option(envvar="MLFLOW_TRACKING_URI", help="Address of the MLflow store.")
    ] = None,
) -> None:
    """Make one page of a run: prototypes and scores of every epoch, to open from disk."""
    console = Console()
    try:
        from fitb_callbacks.integrations.report.page import render_report
        from fitb_callbacks.integrations.report.source import read_source

        found = read_source(source, mlflow_uri=mlflow_uri)
        page = render_report(found.records, title=found.title, problems=found.problems)
        output.write_text(page, encoding="utf-8")
    except (ModuleNotFoundError, OSError, ValueError) as error:
        console.print(f"[red]fitb report:[/red] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(2) from error
    for problem in found.problems:
        console.print(f"Left out: {problem}", highlight=False, soft_wrap=True, markup=False)
    size = output.stat().st_size / 2**20
    console.print(
        f"{len(found.records)} probes: {output} ({size:.1f} MiB)", highlight=False, soft_wrap=True, markup=False
    )
