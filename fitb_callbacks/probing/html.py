"""A probe as a piece of HTML, for notebooks."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING

from fitb_callbacks.scoring.catalogue import METRICS

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["probe_html"]


def probe_html(
    picture: Image,
    metrics: Mapping[str, float],
    intervals: Mapping[str, tuple[float, float]],
    interpretation: Mapping[str, str],
) -> str:
    """Summarise a probe: its picture, the reason for the verdict, and all scores in a table that can be unfolded.

    Args:
        picture: The summary picture, with title and verdict.
        metrics: Score name, without prefix, to value.
        intervals: Score name to the ends of its 95% interval.
        interpretation: Of `fitb_callbacks.scoring.interpretation.interpret`.

    Example:
        >>> from PIL import Image
        >>> said = {"headline": "It looks fine.", "reason": "Really."}
        >>> html = probe_html(Image.new("RGB", (4, 4)), {"coverage": 0.5}, {"coverage": (0.4, 0.6)}, said)
        >>> "<td>coverage</td><td>0.5</td><td>0.4 to 0.6</td>" in html
        True
    """
    encoded = base64.b64encode(picture._repr_png_() or b"").decode()
    rows = "".join(_row(name, value, intervals.get(name)) for name, value in metrics.items())
    return (
        f'<div><img alt="{escape(interpretation["headline"])}" width="600" style="max-width:100%" '
        f'src="data:image/png;base64,{encoded}">'
        f"<p>{escape(interpretation['reason'])}</p>"
        "<details><summary>All scores</summary><table>"
        "<tr><th>score</th><th>value</th><th>95% interval</th><th>what it is</th></tr>"
        f"{rows}</table></details></div>"
    )


def _row(name: str, value: float, interval: tuple[float, float] | None) -> str:
    figure = "undefined" if math.isnan(value) else f"{value:.3g}"
    between = "" if interval is None or math.isnan(sum(interval)) else f"{interval[0]:.3g} to {interval[1]:.3g}"
    cells = (name, figure, between)
    meaning = f'<td style="text-align:left">{escape(METRICS[name].meaning)}</td>'
    return f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}{meaning}</tr>"
