"""What a run's page in MLflow says of its probes: a description, a tag and parameters."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fitb_callbacks.integrations.record import Record
from fitb_callbacks.scoring.catalogue import KEY_METRICS

__all__ = ["ARTIFACTS", "REPORT", "merged", "missing_params", "page_entries"]

REPORT = "fitb/report.html"
"""Where the report of a run is, among its artifacts."""

ARTIFACTS = "{artifacts}"
"""Stands in the description for the address of the run's artifacts, which is known when it is sent."""

_SIGNS = {"good": "✓", "bad": "✗", "unclear": "?"}
_MOST_SCORES = 4
_LONGEST_VALUE = 500


def page_entries(record: Record) -> dict[str, Any]:
    """What a run's page says of its last probe.

    Args:
        record: Of that probe.

    Returns:
        ``tags`` and ``params`` by name; ``section``, the name of the part of the description that is about this probe,
        and ``text``, that part as Markdown.

    Example:
        >>> import torch
        >>> from fitb_callbacks import FillInBlanks
        >>> from fitb_callbacks.integrations.record import make_record
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
        >>> result = FillInBlanks(num_masks=8).probe(model, torch.rand(5, 1, 4, 4), torch.tensor([0, 1, 2, 0, 1]))
        >>> entries = page_entries(make_record(result))
        >>> sorted(entries["tags"]), entries["params"]["fitb/num_masks"]
        (['fitb.verdict'], '8')
    """
    prefix, verdict, settings = record["prefix"], record["verdict"], record["settings"]
    masking = settings["masking"]
    return {
        "tags": {f"{prefix}.verdict": f"{_SIGNS[verdict['tone']]} {verdict['headline']}"},
        "params": {f"{prefix}/{name}": _value(value) for name, value in settings.items()},
        "section": f"{prefix} {masking}",
        "text": _text(record),
    }


def merged(description: str, section: str, text: str) -> str:
    """The description of a run with one section replaced, or added at its end; the rest stays as it is.

    Example:
        >>> once = merged("My notes.", "fitb random", "The model looks at a small spot.")
        >>> merged(once, "fitb random", "The model looks at a small spot.") == once
        True
        >>> once.splitlines()[0]
        'My notes.'
    """
    start, end = f"[//]: # ({section})", f"[//]: # (end of {section})"
    before, found, rest = description.partition(start)
    after = rest.partition(end)[2] if found else ""
    parts = [before.strip(), f"{start}\n\n{text.strip()}\n\n{end}", after.strip()]
    return "\n\n".join(part for part in parts if part)


def _text(record: Record) -> str:
    verdict, scores, intervals = record["verdict"], record["scores"], record["intervals"]
    lines = [f"**{_SIGNS[verdict['tone']]} {verdict['headline']}** {verdict['reason']}", ""]
    lines += ["| score | value | 95% interval |", "| --- | --- | --- |"]
    for name in [name for name in KEY_METRICS if scores.get(name) is not None][:_MOST_SCORES]:
        ends = intervals.get(name, [None, None])
        interval = "" if None in ends else " to ".join(f"{end:.2f}" for end in ends if end is not None)
        lines.append(f"| {name} | {scores[name]:.2f} | {interval} |")
    lines += [
        "",
        f"Epoch {record['epoch']}, {record['images']} probe images of {len(record['classes'])} classes, "
        f"{record['settings']['masking']} masks. Look at **{record['prefix']}/at_a_glance** and "
        f"**{record['prefix']}/prototypes** under *Model metrics*. When the training has ended, "
        f"[the report]({ARTIFACTS}/{REPORT}) shows every epoch.",
    ]
    return "\n".join(lines)


def _value(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text[:_LONGEST_VALUE]


def missing_params(wanted: Mapping[str, str], present: Mapping[str, str]) -> dict[str, str]:
    """Parameters that a run does not have yet: MLflow refuses to change one."""
    return {name: value for name, value in wanted.items() if name not in present}
