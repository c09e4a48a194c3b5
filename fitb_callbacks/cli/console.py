"""Bad input ends a command with one clear line and exit code 2."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.markup import escape

__all__ = ["exit_on_error"]


@contextmanager
def exit_on_error(command: str, console: Console) -> Iterator[None]:
    """Turn errors of input (files, values, models that do not fit) into one line.

    Args:
        command: As the user types it, such as ``"fitb probe"``.
        console: Where the line goes.
    """
    try:
        yield
    except (ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
        line = escape(" ".join(str(error).split()))
        if type(error) is RuntimeError:  # as torch raises for shapes and types that do not fit
            line = f"the model fails on these images: {line}"
        console.print(f"[red]{command}:[/red] {line}", highlight=False, soft_wrap=True)
        raise typer.Exit(2) from error
