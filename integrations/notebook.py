"""A display in a notebook that follows a training."""

from __future__ import annotations

from typing import Any

__all__ = ["in_notebook", "live_display"]


def in_notebook() -> bool:
    """Whether this code runs in a cell whose output can hold pictures."""
    from IPython.core.getipython import get_ipython

    return getattr(get_ipython(), "kernel", None) is not None


def live_display(summary: str, display: Any = None) -> Any:
    """Show a summary in the output of the running cell, in the place of an earlier one.

    Args:
        summary: HTML, of `fitb_callbacks.probing.result.FillInBlanksResult.html`.
        display: What this function returned before in the same cell; None for a new place.

    Returns:
        The place.
    """
    from IPython.display import HTML, DisplayHandle

    if display is None:
        display = DisplayHandle()
        display.display(HTML(summary))
    else:
        display.update(HTML(summary))
    return display
