"""What commands share of the terminal: one clear line for bad input, and a bar for long work."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from fitb_callbacks.utils.messages import on_one_line

__all__ = ["WorkBar", "exit_on_error", "figure", "say_verdict", "work_bar"]

_TONES = {"good": ("green", "✓"), "bad": ("red", "✗"), "unclear": ("yellow", "?")}


def say_verdict(console: Console, verdict: Mapping[str, str], *, of: str | None = None) -> None:
    """End a command with what was found, in one coloured line with its reason.

    Args:
        console: Where the line goes.
        verdict: Of `fitb_callbacks.scoring.interpretation.interpret`.
        of: What it is about, where there are several.

    Example:
        >>> verdict = {"tone": "bad", "headline": "The model goes by the rim.", "reason": "93% of answers follow it."}
        >>> say_verdict(Console(width=80), verdict)
        ✗ The model goes by the rim. 93% of answers follow it.
    """
    colour, sign = _TONES[verdict["tone"]]
    about = "" if of is None else f"{escape(on_one_line(of))}: "
    headline, reason = (escape(on_one_line(verdict[part])) for part in ("headline", "reason"))
    console.print(f"{about}[bold {colour}]{sign} {headline}[/] {reason}", highlight=False, soft_wrap=True)


def figure(value: float, digits: int = 3) -> str:
    """A score as text; a dash where it is undefined.

    Example:
        >>> figure(0.25), figure(-0.0001), figure(float("nan"))
        ('0.250', '0.000', '-')
    """
    return "-" if math.isnan(value) else f"{value:z.{digits}f}"


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
        line = escape(on_one_line(str(error)))
        if type(error) is RuntimeError:  # as torch raises for shapes and types that do not fit
            line = f"the model fails on these images: {line}"
        console.print(f"[red]{command}:[/red] {line}", highlight=False, soft_wrap=True)
        raise typer.Exit(2) from error


class WorkBar:
    """A progress bar; made by `work_bar`."""

    def __init__(self, progress: Progress, description: str) -> None:
        self._progress = progress
        self._task = progress.add_task(description, total=None)
        self._last = 0

    def __call__(self, done: int, total: int) -> None:
        """Show how much of the work is done; if the total has shrunk, the bar starts again."""
        if done < self._last:
            self._progress.reset(self._task)
        self._progress.update(self._task, completed=done, total=total)
        self._last = done

    def step(self, description: str) -> None:
        """Name the next step, before its amount of work is known."""
        self._progress.remove_task(self._task)  # a reset would keep the total
        self._task = self._progress.add_task(description, total=None)
        self._last = 0


@contextmanager
def work_bar(console: Console, description: str, unit: str) -> Iterator[WorkBar]:
    """Show a bar while a block runs; nothing if the console is not a terminal.

    Args:
        console: Where the bar goes. It disappears at the end.
        description: What is being done.
        unit: What is counted, in the plural.

    Example:
        >>> with work_bar(Console(quiet=True), "Probing", "images") as show:
        ...     show(1, 3)
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        _Count(),
        _Rate(unit),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        yield WorkBar(progress, description)


class _Count(MofNCompleteColumn):
    """Nothing until it is known how much there is."""

    def render(self, task: Task) -> Text:
        return Text() if task.total is None else super().render(task)


class _Rate(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if speed is None:
            return Text("")
        return Text(f"{speed:,.0f} {self.unit}/s" if speed >= 10 else f"{speed:.2g} {self.unit}/s")
