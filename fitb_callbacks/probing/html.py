"""A probe as a piece of HTML, for notebooks."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING

from fitb_callbacks.scoring.catalogue import METRICS

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["probe_html"]


def probe_html(
    picture: Image, metrics: Mapping[str, float], interpretation: Mapping[str, str], *, title: str = ""
) -> str:
    """Verdict, picture and scores as a piece of HTML. Point at a score to see what it means.

    Args:
        picture: The picture of the probe.
        metrics: Score name, without prefix, to value.
        interpretation: Of `fitb_callbacks.scoring.interpretation.verdict`.
        title: Text before the verdict, such as the epoch.

    Example:
        >>> from PIL import Image
        >>> said = {"headline": "It looks fine.", "reason": "Really."}
        >>> "coverage<br><b>0.5</b>" in probe_html(Image.new("RGB", (4, 4)), {"coverage": 0.5}, said)
        True
    """
    encoded = base64.b64encode(picture._repr_png_() or b"").decode()
    scores = "".join(
        f'<span title="{escape(METRICS[name].meaning)}">{escape(name)}<br><b>{value:.3g}</b></span>'
        for name, value in metrics.items()
    )
    return (
        f"<div><p>{escape(title)} <b>{escape(interpretation['headline'])}</b> {escape(interpretation['reason'])}</p>"
        f'<img alt="Prototype, image and update of each class" width="600" style="max-width:100%" '
        f'src="data:image/png;base64,{encoded}">'
        f'<div style="display:flex;flex-wrap:wrap;gap:.4em 1.4em;margin:.6em 0">{scores}</div></div>'
    )
