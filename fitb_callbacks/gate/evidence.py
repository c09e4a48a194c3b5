"""The files that a verdict rests on, and their digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fitb_callbacks.gate.junit import junit_xml
from fitb_callbacks.gate.verdict import ModelCheck

__all__ = ["evidence_digest", "write_evidence"]


def write_evidence(check: ModelCheck, verdict: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Write what a verdict rests on into a folder.

    Args:
        check: The verdict on the model.
        verdict: The same as JSON types, with the "model" it is on and the "judge" in words.
        folder: Where ``verdict.json``, ``settings.json``, ``junit.xml``, the grids and ``report.html`` go.

    Returns:
        Name to picture of the grids, height x width x 3, uint8.
    """
    from PIL import Image

    from fitb_callbacks.integrations.record import make_record
    from fitb_callbacks.integrations.report.page import render_report
    from fitb_callbacks.plotting.prototypes import prototype_grid

    pictures = {"prototypes": prototype_grid(check.candidate.cells(), check.candidate.heading("candidate"))}
    if check.champion is not None:
        pictures["prototypes of the champion"] = prototype_grid(
            check.champion.cells(), check.champion.heading("champion")
        )
    for name, picture in pictures.items():
        Image.fromarray(picture).save(folder / f"{name.replace(' ', '-')}.png")
    (folder / "verdict.json").write_text(json.dumps(verdict, indent=1, allow_nan=False))
    (folder / "settings.json").write_text(json.dumps(dict(check.candidate.settings), indent=1))
    (folder / "junit.xml").write_text(junit_xml(verdict["model"], check.outcomes))
    record = make_record(check.candidate, judge=verdict["judge"])
    (folder / "report.html").write_text(render_report([record], title=verdict["model"]), encoding="utf-8")
    return pictures


def evidence_digest(folder: Path) -> str:
    """Write ``SHA256SUMS`` of a folder's files and return the hash of that file: the digest of all of them.

    ``sha256sum -c SHA256SUMS`` checks the files, and ``sha256sum SHA256SUMS`` is the digest.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "SHA256SUMS")
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder)}\n" for path in files]
    (folder / "SHA256SUMS").write_text("".join(lines))
    return hashlib.sha256("".join(lines).encode()).hexdigest()
