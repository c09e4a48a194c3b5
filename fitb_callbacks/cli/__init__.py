"""The command line: one module per command."""

from __future__ import annotations

from typing import Annotated

import typer

import fitb_callbacks
from fitb_callbacks.cli.ablate import ablate
from fitb_callbacks.cli.check import check
from fitb_callbacks.cli.demo import demo
from fitb_callbacks.cli.doctor import doctor
from fitb_callbacks.cli.probe import probe
from fitb_callbacks.cli.promote import promote, rollback, verify
from fitb_callbacks.cli.replay import replay
from fitb_callbacks.cli.report import report
from fitb_callbacks.cli.resend import resend
from fitb_callbacks.cli.unknown_options import SuggestingCommand

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


for command in (demo, doctor, probe, replay, report, check, verify, promote, rollback, ablate, resend):
    app.command(cls=SuggestingCommand)(command)
