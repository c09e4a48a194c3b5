"""A display in a notebook that follows a training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fitb_callbacks.probing.result import FillInBlanksResult

__all__ = ["in_notebook", "live_display"]


def in_notebook() -> bool:
    """Whether this code runs in a cell whose output can hold pictures."""
    from IPython.core.getipython import get_ipython

    return getattr(get_ipython(), "kernel", None) is not None


def live_display(result: FillInBlanksResult, title: str, display: Any = None) -> Any:
    """Show a result in the output of the running cell, in the place of an earlier one.

    Args:
        result: What a probe found.
        title: To stand before the verdict.
        display: What this function returned before in the same cell; None for a new place.

    Returns:
        The place.
    """
    from IPython.display import HTML, DisplayHandle

    shown = HTML(result.html(title))
    if display is None:
        display = DisplayHandle()
        display.display(shown)
    else:
        display.update(shown)
    return display
