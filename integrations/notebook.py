"""Results in notebooks: how one shows itself, and a display that follows a training."""

from __future__ import annotations

import base64
from html import escape
from typing import TYPE_CHECKING, Any

from fitb_callbacks.scoring.catalogue import METRICS
from fitb_callbacks.scoring.interpretation import verdict

if TYPE_CHECKING:
    from fitb_callbacks.probing.result import FillInBlanksResult

__all__ = ["in_notebook", "live_display", "result_html"]


def result_html(result: FillInBlanksResult, title: str = "") -> str:
    """What the scores say, the picture, and the scores, as a piece of HTML. Point at a score for what it means.

    Args:
        result: What a probe found.
        title: To stand before the verdict, such as the epoch.

    Example:
        >>> import torch
        >>> from fitb_callbacks import FillInBlanks
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
        >>> result = FillInBlanks(num_masks=8).probe(model, torch.rand(5, 1, 4, 4), torch.tensor([0, 1, 2, 0, 1]))
        >>> "<img" in result_html(result), "coverage<br>" in result_html(result)
        (True, True)
    """
    said = verdict(result.metrics, result.confidence, num_classes=int(result.settings["num_classes"]))
    picture = result.figure()
    encoded = base64.b64encode(picture._repr_png_() or b"").decode()
    scores = "".join(
        f'<span title="{escape(METRICS[name].meaning)}">{escape(name)}<br><b>{value:.3g}</b></span>'
        for name, value in result.metrics.items()
    )
    return (
        f"<div><p>{escape(title)} <b>{escape(said['headline'])}</b> {escape(said['reason'])}</p>"
        f'<img alt="Prototype, image and update of each class" width="{picture.width}" style="max-width:100%" '
        f'src="data:image/png;base64,{encoded}">'
        f'<div style="display:flex;flex-wrap:wrap;gap:.4em 1.4em;margin:.6em 0">{scores}</div></div>'
    )


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

    shown = HTML(result_html(result, title))
    if display is None:
        display = DisplayHandle()
        display.display(shown)
    else:
        display.update(shown)
    return display
