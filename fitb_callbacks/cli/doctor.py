"""``fitb doctor``."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fitb_callbacks.cli.console import exit_on_error

__all__ = ["doctor"]


def doctor(
    path: Annotated[Path, typer.Argument(help="A training script, or a LightningCLI configuration (.yaml).")],
    arguments: Annotated[list[str] | None, typer.Argument(help="The script's own arguments, after --.")] = None,
) -> None:
    """Put one batch of a training through everything, and say what the callback finds. Nothing is written by it.

    The script runs as always up to Trainer.fit, whose first call trains on one batch, with loggers and checkpoints off,
    and ends the script.
    """
    console = Console()
    with exit_on_error("fitb doctor", console):
        from fitb_callbacks.callback.doctor import examine
        from fitb_callbacks.demo import quiet

        with quiet("alembic", "mlflow"), warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            examination = examine(path, arguments or ())
    table = Table(title=f"What the callback finds in {escape(str(path))}", title_justify="left", show_header=False)
    for what, value in examination.found.items():
        table.add_row(what, escape(value))
    console.print(table)
    loggers = Table(title="Who gets what", title_justify="left")
    for column in ("logger", "where", "scores", "pictures"):
        loggers.add_column(column)
    for logger in examination.loggers:
        pictures = "yes" if logger.takes_pictures else "no: register a function with log_picture.register"
        loggers.add_row(logger.kind, escape(logger.place), "yes", pictures)
    if examination.loggers:
        console.print(loggers)
    else:
        console.print("The Trainer has no logger: scores can be monitored, pictures go nowhere.")
    limit = (
        "" if examination.max_overhead is None else f", or {examination.max_overhead:.0%} of the epoch if that is less"
    )
    console.print(f"Estimated cost: {_duration(examination.seconds)} at the end of each epoch on this machine{limit}.")
    for hint in examination.hints:
        console.print(f"[yellow]![/yellow] {escape(hint)}", highlight=False, soft_wrap=True)
    number = len(examination.hints)
    console.print(
        f"[bold yellow]! This training can be probed;[/] see the {'hint' if number == 1 else f'{number} hints'} above."
        if number
        else "[bold green]✓ This training can be probed as it is.[/]"
    )


def _duration(seconds: float) -> str:
    return f"about {seconds:.2g} s" if seconds < 120 else f"about {seconds / 60:.0f} minutes"
