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
from fitb_callbacks.integrations.summary import ADVICE, judge_line
from fitb_callbacks.scoring.catalogue import GROUPS, KEY_METRICS, METRICS, group_of

__all__ = ["render_report"]

_DIGITS = 5
_SCRIPTS = ("elements", "pictures", "charts", "gallery", "sections", "comparison", "main")  # one after the other
_HEADLINE = "structure"
_TILES = ("validation", _HEADLINE, "knows", "shortcut", "image_accuracy", "accuracy_all", "coverage")  # the first four
_MOST_GALLERIES = 6 * 2**20  # bytes; the galleries of the last probes come first


def render_report(
    records: Sequence[Mapping[str, Any]],
    *,
    title: str,
    problems: Iterable[str] = (),
    beside: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    check: Mapping[str, Any] | None = None,
) -> str:
    """The page of some probes, as one HTML file that needs nothing else.

    Probes with another prefix, masking or classes are a series of their own, which the page lets one choose. Every
    picture of a class opens a gallery of all its probe images; of long runs, the galleries of the last epochs are kept.

    Args:
        records: Of `fitb_callbacks.integrations.record.make_record`, at least one.
        title: What was probed, such as the name of the run.
        problems: What could not be read, a line each, to be said on the page.
        beside: Title to records of other runs or models, which are compared with these side by side.
        check: The verdict of a check: ``headline``, ``tone``, and ``rules`` with ``rule``, ``value``, ``interval``,
            ``passes`` and ``tone`` as text, and ``notes``, a line each; it opens the page.

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
    script = "".join((folder / f"{name}.js").read_text(encoding="utf-8") for name in _SCRIPTS)
    runs = {title: records, **(beside or {})}
    data = _page_data(runs, checked=check is not None)
    return environment.get_template("page.html").render(
        script=Markup(script),  # this package's own
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        title=" and ".join(runs),
        version=__version__,
        metrics=METRICS,
        problems=list(problems),
        check=check,
        command="fitb check" if check else "fitb report",
        data=data,
        over_training=any(len(each["records"]) > 1 for each in data["series"]),
    )


class _Once(dict[str, int]):
    """Numbers for texts, the same for the same text."""

    def number(self, text: str) -> int:
        return self.setdefault(text, len(self))


def _page_data(runs: Mapping[str, Sequence[Mapping[str, Any]]], *, checked: bool) -> dict[str, Any]:
    """What the page's script draws: pictures and settings that occur again are there once."""
    pictures, settings, images = _Once(), _Once(), _Once()
    series = []
    for run, (title, records) in enumerate(runs.items()):
        for (prefix, masking, *classes), found in _series(records).items():
            drawn: list[dict[str, Any]] = []
            left = _MOST_GALLERIES // len(runs)
            for record in reversed(found):
                sheets = record["gallery"]["pictures"]
                kept = left > 0
                left -= sum(map(len, sheets.values()))
                gallery = {
                    **record["gallery"],
                    "images_key": images.number(sheets["image"]),
                    "pictures": {kind: pictures.number(uri) for kind, uri in sheets.items()} if kept else None,
                }
                strips = {kind: pictures.number(uri) for kind, uri in record["pictures"].items()}
                before = pictures.number(record["before"]) if record.get("before") else None
                described = settings.number(json.dumps(record["settings"]))
                shown = {"pictures": strips, "before": before, "settings": described, "gallery": gallery}
                tone = record["verdict"]["tone"]
                advice = "" if checked and tone == "good" else ADVICE.get(tone, "")  # which is to check it
                words = {"judge_line": judge_line(record), "advice": advice}
                drawn.append(_rounded({**record, **shown, **words}))
            name = f"{prefix}, {masking}, {len(classes)} classes"
            series.append({"name": f"{title}: {name}" if len(runs) > 1 else name, "run": run, "records": drawn[::-1]})
    return {
        "runs": list(runs),
        "series": series,
        "pictures": list(pictures),
        "settings": [json.loads(each) for each in settings],
        "groups": {group: group_of(group) for group in GROUPS},
        "metrics": {name: dataclasses.asdict(metric) for name, metric in METRICS.items()},
        "headline": _HEADLINE,
        "tiles": _TILES,
        "key": KEY_METRICS,
    }


def _series(records: Sequence[Mapping[str, Any]]) -> dict[tuple[str, ...], list[Mapping[str, Any]]]:
    """Records that belong together, by prefix, masking and classes; random masks first."""
    found: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for record in sorted(
        records, key=lambda each: (each["settings"]["masking"] != "random", each["epoch"], each["step"])
    ):
        found.setdefault((record["prefix"], record["settings"]["masking"], *record["classes"]), []).append(record)
    return found


def _rounded(value: Any) -> Any:
    """Numbers with no more digits than the page can show."""
    if isinstance(value, float):
        return round(value, _DIGITS)
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, (list, tuple)) else value
