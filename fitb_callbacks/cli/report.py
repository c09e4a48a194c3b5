"""``fitb report``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from fitb_callbacks.cli.console import exit_on_error, say_verdict

if TYPE_CHECKING:
    from fitb_callbacks.integrations.report.source import Source

__all__ = ["report"]


def report(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="The folder of a run (its CSVLogger's or TensorBoardLogger's), runs:/RUN_ID for a run in MLflow, "
            "models:/NAME/VERSION for a registered model, or saved results: an .npz file or a folder of them. Several "
            "are compared side by side.",
        ),
    ],
    output: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
    tracking_uri: Annotated[
        str | None, typer.Option(envvar="MLFLOW_TRACKING_URI", help="Address of the MLflow server.")
    ] = None,
) -> None:
    """Make one page of a run, or of several side by side: prototypes and scores of every epoch, to open from disk."""
    console = Console()
    with exit_on_error("fitb report", console):
        from fitb_callbacks.integrations.report.page import render_report

        found = _named_apart({source: _read(source, tracking_uri) for source in sources})
        problems = [problem for each in found.values() for problem in each.problems]
        title, *others = found
        page = render_report(
            found[title].records,
            title=title,
            problems=problems,
            beside={name: found[name].records for name in others},
        )
        output.write_text(page, encoding="utf-8")
    for problem in problems:
        console.print(f"Left out: {problem}", highlight=False, soft_wrap=True, markup=False)
    size, probes = output.stat().st_size / 2**20, sum(len(each.records) for each in found.values())
    console.print(
        f"{probes} probe{'s' * (probes > 1)}: {output} ({size:.1f} MiB)", highlight=False, soft_wrap=True, markup=False
    )
    for name, each in found.items():
        last = max(each.records, key=lambda record: (record["settings"]["masking"] == "random", record["step"]))
        say_verdict(console, last["verdict"], of=name if len(found) > 1 else None)


def _read(source: str, tracking_uri: str | None) -> Source:
    from fitb_callbacks.integrations.report.source import read_source

    if not source.startswith(("models:/", "runs:/")):
        return read_source(source)
    from fitb_callbacks.integrations.mlflow.client import connected

    with connected(tracking_uri) as client:  # MLflow 3.0 downloads from the process's own address, whatever is asked
        return read_source(source, mlflow_uri=client.tracking_uri)


def _named_apart(sources: Mapping[str, Source]) -> dict[str, Source]:
    """Sources by title; those that share one by what the user typed."""
    shared = Counter(source.title for source in sources.values())
    return {typed if shared[source.title] > 1 else source.title: source for typed, source in sources.items()}
