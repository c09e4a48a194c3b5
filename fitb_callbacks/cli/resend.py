"""``fitb resend``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fitb_callbacks.utils.messages import on_one_line

__all__ = ["resend"]


def resend(
    folder: Annotated[
        Path,
        typer.Argument(envvar="FITB_OUTBOX", help="Where they wait.", exists=False, file_okay=False),
    ] = Path("fitb-outbox"),
) -> None:
    """Upload what was logged while the MLflow server could not be reached."""
    console = Console()
    if not folder.is_dir():
        console.print(f"Nothing waits: there is no folder {folder}", highlight=False, soft_wrap=True, markup=False)
        return
    from fitb_callbacks.integrations.resend import resend

    sent, failures = resend(folder)
    for run, error in failures.items():
        console.print(f"Not sent: {run}: {on_one_line(str(error))}", highlight=False, soft_wrap=True, markup=False)
    colour, sign = ("red", "✗") if failures else ("green", "✓")
    console.print(f"[bold {colour}]{sign} {sent} parcels sent[/]" + (f"; {len(failures)} runs not" if failures else ""))
    if failures:
        raise typer.Exit(1)
