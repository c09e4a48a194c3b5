"""What MkDocs does to the pages beyond Markdown: the table of scores from the code, and formulas without a script."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

from latex2mathml.converter import convert

from fitb_callbacks.scoring.catalogue import metrics_table

_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the table of scores where a page has ``<!-- metrics -->``."""
    return markdown.replace("<!-- metrics -->", metrics_table())


def on_page_content(html: str, **_: Any) -> str:
    """Formulas as MathML, which browsers draw by themselves: no script, and nothing to fetch."""

    def mathml(formula: re.Match[str]) -> str:
        display = "block" if formula[1] == "div" else "inline"
        return convert(unescape(formula[2]), display=display)

    return _FORMULA.sub(mathml, html)
