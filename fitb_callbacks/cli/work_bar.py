"""A bar for long work: how much is done, how fast, and the time left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

__all__ = ["work_bar"]


@contextmanager
def work_bar(console: Console, description: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A bar while a block runs; nothing where the console is no terminal.

    Args:
        console: Where the bar goes. It disappears at the end.
        description: What is being done.
        unit: What is counted, in the plural.

    Returns:
        Function of what is done and of how much. It starts again at every new total.

    Example:
        >>> with work_bar(Console(quiet=True), "Probing", "images") as show:
        ...     show(1, 3)
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(unit),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task(description, total=None)
        last = 0

        def show(done: int, total: int) -> None:
            nonlocal last
            if done < last:
                progress.reset(task)
            progress.update(task, completed=done, total=total)
            last = done

        yield show


class _Rate(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if speed is None:
            return Text("")
        return Text(f"{speed:,.0f} {self.unit}/s" if speed >= 10 else f"{speed:.2g} {self.unit}/s")
