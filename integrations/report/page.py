"""``report.html``: a whole run on one page that opens from disk."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fitb_callbacks._version import __version__
from fitb_callbacks.scoring.catalogue import GROUPS, METRICS, group_of

__all__ = ["render_report"]

_DIGITS = 5


def render_report(records: Sequence[Mapping[str, Any]], *, title: str, problems: Iterable[str] = ()) -> str:
    """The page of some probes, as one HTML file that needs nothing else.

    Probes with another prefix, masking or classes are a series of their own, which the page lets one choose.

    Args:
        records: Of `fitb_callbacks.integrations.record.make_record`, at least one.
        title: What was probed, such as the name of the run.
        problems: What could not be read, a line each, to be said on the page.

    Returns:
        HTML.

    Example:
        >>> import torch
        >>> from fitb_callbacks import FillInBlanks
        >>> from fitb_callbacks.integrations.record import make_record
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
        >>> result = FillInBlanks(num_masks=8).probe(model, torch.rand(5, 1, 4, 4), torch.tensor([0, 1, 2, 0, 1]))
        >>> page = render_report([make_record(result)], title="an untrained model")
        >>> page.startswith("<!doctype html>"), "an untrained model: what this model learned" in page
        (True, True)
    """
    from jinja2 import Environment, FileSystemLoader
    from markupsafe import Markup

    folder = Path(__file__).with_name("report_page")
    environment = Environment(loader=FileSystemLoader(folder), autoescape=True)
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}
    script = (folder / "script.js").read_text(encoding="utf-8")
    return environment.get_template("page.html").render(
        script=Markup(script),  # this package's own
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        title=title,
        version=__version__,
        metrics=METRICS,
        problems=list(problems),
        data=_page_data(records),
    )


def _page_data(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the page's script draws: pictures and settings that occur again are there once."""
    pictures: dict[str, int] = {}
    settings: dict[str, int] = {}
    series: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    # random masks first, as the callback's usual ones
    for record in sorted(
        records, key=lambda each: (each["settings"]["masking"] != "random", each["epoch"], each["step"])
    ):
        drawn = {name: pictures.setdefault(uri, len(pictures)) for name, uri in record["pictures"].items()}
        described = settings.setdefault(json.dumps(record["settings"]), len(settings))
        key = (record["prefix"], record["settings"]["masking"], *record["classes"])
        series.setdefault(key, []).append(_rounded({**record, "pictures": drawn, "settings": described}))
    return {
        "series": [
            {"name": f"{prefix}, {masking}, {len(classes)} classes", "records": each}
            for (prefix, masking, *classes), each in series.items()
        ],
        "pictures": list(pictures),
        "settings": [json.loads(each) for each in settings],
        "groups": {group: group_of(group) for group in GROUPS},
        "metrics": {name: dataclasses.asdict(metric) for name, metric in METRICS.items()},
    }


def _rounded(value: Any) -> Any:
    """Numbers with no more digits than the page can show."""
    if isinstance(value, float):
        return round(value, _DIGITS)
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list) else value
