"""Show a probe's progress as a line in the Trainer's own progress bar."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm

from fitb_callbacks.probing.probe import Progress

__all__ = ["probing_line"]

_DESCRIPTION = "Probing"


@contextmanager
def probing_line(trainer: Trainer) -> Iterator[Progress | None]:
    """A line below the Trainer's bar while a probe runs: masked images, their rate, and the time left.

    Args:
        trainer: Whose bar it is. Lightning's TQDM and Rich bars are known.

    Returns:
        What to give to `FillInBlanks.probe` as ``progress``; None where the bar is off, of another kind, or its output
        is no terminal.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> with probing_line(Trainer(enable_progress_bar=False, logger=False, accelerator="cpu")) as progress:
        ...     print(progress)
        None
    """
    bar = trainer.progress_bar_callback
    if isinstance(bar, TQDMProgressBar) and bar.is_enabled and sys.stdout.isatty():
        # Below the bars of training and validation; tqdm draws it with the first update
        line = Tqdm(desc=_DESCRIPTION, position=2 * bar.process_position + 2, leave=False, dynamic_ncols=True,
                    file=sys.stdout, unit="img", delay=1e-9)  # fmt: skip

        def show(done: int, total: int) -> None:
            line.total = total
            line.update(done - line.n)

        try:
            yield show
        finally:
            line.close()
    elif isinstance(bar, RichProgressBar) and bar.is_enabled and bar.progress and bar.progress.console.is_terminal:
        progress, refresh = bar.progress, bar.refresh
        task = progress.add_task(_DESCRIPTION, total=1)

        def update(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)
            refresh()

        try:
            yield update
        finally:
            progress.update(task, visible=False)  # not removed: Lightning takes a task's number for its place
            refresh()
    else:
        yield None
