"""What a run's page in MLflow says of its probes: a description and a tag.

The settings are a line of the description, and no parameters of the run: MLflow prints these above every picture.
"""

from __future__ import annotations

import json
from typing import Any

from fitb_callbacks.integrations.record import Record
from fitb_callbacks.integrations.summary import SIGNS, summary_lines

__all__ = ["ARTIFACTS", "REPORT", "merged", "page_entries"]

REPORT = "fitb/report.html"
"""Where the report of a run is, among its artifacts."""

ARTIFACTS = "{artifacts}"
"""Stands in the description for the address of the run's artifacts, which is known when it is sent."""


def page_entries(record: Record) -> dict[str, Any]:
    """What a run's page says of its last probe.

    Args:
        record: Of that probe.

    Returns:
        ``tags`` by name; ``section``, the name of the part of the description that is about this probe,
        and ``text``, that part as Markdown.

    Example:
        >>> import torch
        >>> from fitb_callbacks import FillInBlanks
        >>> from fitb_callbacks.integrations.record import make_record
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
        >>> result = FillInBlanks(num_masks=8).probe(model, torch.rand(5, 1, 4, 4), torch.tensor([0, 1, 2, 0, 1]))
        >>> entries = page_entries(make_record(result))
        >>> sorted(entries["tags"]), "num_masks 8" in entries["text"]
        (['fitb.verdict'], True)
    """
    prefix, verdict = record["prefix"], record["verdict"]
    return {
        "tags": {f"{prefix}.verdict": f"{SIGNS[verdict['tone']]} {verdict['headline']}"},
        "section": f"{prefix} {record['settings']['masking']}",
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
    return "\n".join(
        [
            *summary_lines(record),
            "",
            f"Look at **{record['prefix']}/at_a_glance** and **{record['prefix']}/prototypes** under *Model metrics*. "
            f"When the training has ended, [the report]({ARTIFACTS}/{REPORT}) shows every epoch.",
            "",
            "Settings: " + ", ".join(f"{name} {json.dumps(value)}" for name, value in record["settings"].items()) + ".",
        ]
    )
