"""What a run's page in MLflow says of its probes: a description, a tag, and the settings as parameters.

MLflow prints all parameters of a run above each of its pictures, and a line of more than some 80 characters no longer
lets three runs stand side by side. So one parameter says in short what every probe is made of, settings that differ
from the defaults are parameters of their own, too, and the description has all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any
from urllib.parse import quote

from fitb_callbacks.integrations.record import Record
from fitb_callbacks.integrations.summary import SIGNS, facts_line, probed_line
from fitb_callbacks.probing.probe import FillInBlanks

__all__ = ["ARTIFACTS", "REPORT", "VARIES", "has_section", "merged", "page_entries", "steady"]

REPORT = "fitb/report.html"
"""Where the report of a run is, among its artifacts."""

ARTIFACTS = "{artifacts}"
"""Stands in the description for the address of the run's artifacts, which is known when it is sent."""

VARIES = "num_masks"
"""The setting that may differ from probe to probe of one run, as the time limit allows. The parameter is the first."""

_MOST_CHARACTERS = 500  # of a parameter's value: what every version of MLflow takes
_MOST_CHANNELS = 3  # of a baseline in the short text
_OF_THE_IMAGES = {"patch_size", "baseline"}  # mostly taken from the images: no choice can be told from that


def page_entries(record: Record) -> dict[str, Any]:
    """What a run's page says of its last probe.

    Args:
        record: Of that probe.

    Returns:
        ``tags`` and ``params`` by name; ``defaults``, the settings that are no parameters; ``section``, the name of the
        part of the description that is about this probe, and ``text``, that part as Markdown.

    Example:
        >>> import torch
        >>> from fitb_callbacks import FillInBlanks
        >>> from fitb_callbacks.integrations.record import make_record
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
        >>> result = FillInBlanks(num_masks=8).probe(model, torch.rand(5, 1, 4, 4), torch.tensor([0, 1, 2, 0, 1]))
        >>> entries = page_entries(make_record(result))
        >>> sorted(entries["tags"]), entries["params"]["fitb.num_masks"], entries["defaults"]["fitb.mask_ratio"]
        (['fitb.verdict'], '8', '0.25')
        >>> entries["params"]["fitb.settings"].partition(", baseline")[0]
        'random 0.25, patch 1'
    """
    prefix, verdict, masking = record["prefix"], record["verdict"], record["settings"]["masking"]
    within = prefix if masking == "random" else f"{prefix}.{masking}"  # two kinds of masks are two sets of settings
    used = {name: _shown(value) for name, value in _in_use(record["settings"]).items()}
    usual = {name: _shown(value) for name, value in asdict(FillInBlanks()).items()}
    own = {name: value for name, value in used.items() if value != usual.get(name) and name not in _OF_THE_IMAGES}
    return {
        "tags": {f"{prefix}.verdict": f"{SIGNS[verdict['tone']]} {verdict['headline']}"},
        "params": {f"{within}.{name}": value for name, value in {"settings": _in_short(used), **own}.items()},
        "defaults": {f"{within}.{name}": value for name, value in used.items() if value == usual.get(name)},
        "section": f"{prefix} {masking}",
        "text": _text(record, used),
    }


def steady(value: str) -> str:
    """A parameter's value without what may differ from probe to probe of one run.

    Example:
        >>> steady("random 0.25, patch 2, baseline 0, seed 0; 256 masks")
        'random 0.25, patch 2, baseline 0, seed 0'
    """
    return value.partition("; ")[0]


def has_section(description: str, section: str) -> bool:
    """Whether `merged` has written this section before."""
    return _start(section) in description


def merged(description: str, section: str, text: str) -> str:
    """The description of a run or a version with one section replaced, or added at its end; the rest stays as it is.

    An empty link below its first line and an invisible line at its end mark the section: MLflow's lists show the first
    line of a description as it is written.

    Example:
        >>> once = merged("My notes.", "fitb random", "The model looks at a small spot.")
        >>> merged(once, "fitb random", "The model looks at a small spot.") == once
        True
        >>> print(once)
        My notes.
        <BLANKLINE>
        The model looks at a small spot.
        [](#fitb%20random)
        <BLANKLINE>
        [//]: # (end of fitb random)
    """
    start, end = _start(section), f"[//]: # (end of {section})"
    first, newline, rest = text.strip().partition("\n")
    before, after = description, ""
    if has_section(description, section):
        before, _, found = description.partition(start)
        before, after = before.rstrip().rpartition("\n")[0], found.partition(end)[2]
    parts = [before.strip(), f"{first}\n{start}{newline}{rest}\n\n{end}", after.strip()]
    return "\n\n".join(part for part in parts if part)


def _start(section: str) -> str:
    return f"[](#{quote(section)})"


def _in_use(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that this probe depends on, beyond rounding."""
    idle = {"chunk_size", "num_classes"}
    idle |= {"num_steps"} if settings["masking"] == "random" else {"mask_ratio", "adjust", "gentler"}
    idle |= {f"{update}_steps" for update in ("bfgs", "ascent") if update != settings["update"]}
    if settings["binarize"] is None:
        idle |= {"binarize", "low", "high"}
    return {name: value for name, value in settings.items() if name not in idle}


def _in_short(used: Mapping[str, str]) -> str:
    """What every probe is made of, in some 60 characters; `steady` takes off its end."""
    kind = used["mask_ratio"] if "mask_ratio" in used else f"in {used['num_steps']} steps"
    baseline = used["baseline"].split(", ")
    rest = "" if len(baseline) <= _MOST_CHANNELS else " ..."
    parts = [
        f"{used['masking']} {kind}",
        f"patch {used['patch_size']}",
        f"baseline {' '.join(baseline[:_MOST_CHANNELS])}{rest}",
        f"seed {used['seed']}",
    ]
    return f"{', '.join(parts)}; {used['num_masks']} masks"


def _shown(value: Any) -> str:
    """A setting as text: four digits, so that rounding on another machine makes no other parameter."""
    if isinstance(value, (list, tuple)):
        return ", ".join(_shown(each) for each in value)[:_MOST_CHARACTERS]
    return (f"{value:.4g}" if isinstance(value, float) else str(value))[:_MOST_CHARACTERS]


def _text(record: Record, settings: Mapping[str, str]) -> str:
    """What matters first: MLflow shows three lines, and the rest on request; a link works in the first of them only."""
    verdict = record["verdict"]
    parts = [
        f"**{SIGNS[verdict['tone']]} {verdict['headline']}** [Report]({ARTIFACTS}/{REPORT})",
        f"{facts_line(record)}.",
        verdict["reason"],
        f"The pictures are under *Model metrics*, in the section *A glance at {record['prefix']}*. The report is "
        "written when training ends, and shows every epoch.",
        f"{probed_line(record)} Settings: {', '.join(f'`{name}={value}`' for name, value in settings.items())}.",
    ]
    return "\n\n".join(parts)
