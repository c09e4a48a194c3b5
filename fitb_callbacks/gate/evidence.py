"""The files that a verdict rests on, and their digest."""

from __future__ import annotations

import getpass
import hashlib
import hmac
import json
import os
import platform
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fitb_callbacks.gate.description import report_head
from fitb_callbacks.gate.junit import junit_xml
from fitb_callbacks.gate.rules import Rules
from fitb_callbacks.gate.verdict import ModelCheck
from fitb_callbacks.integrations.probe_manifest import images_digest
from fitb_callbacks.probing.result import FillInBlanksResult

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from fitb_callbacks.integrations.mlflow.lookup import RegistryModel

__all__ = ["evidence_digest", "previous_digest", "provenance", "signature", "utc_now", "write_evidence"]

_CI_PAGES = ("CI_JOB_URL", "BUILD_URL", "CIRCLE_BUILD_URL", "BUILDKITE_BUILD_URL")
_KEY = "FITB_SIGNING_KEY"


def provenance(candidate: FillInBlanksResult, rules: Rules, *, data: str, model_files: str) -> dict[str, Any]:
    """Who checked a model, on what data and with which versions, as JSON types.

    Args:
        candidate: The candidate's probe.
        rules: The rules that were applied.
        data: Where the images are from.
        model_files: Digest of the model's files.
    """
    versions = {"python": platform.python_version()}
    for name in ("fitb-callbacks", "torch", "lightning", "mlflow", "numpy"):
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return {
        "user": _user(),
        "ci": _ci_page(),
        "time": utc_now(),
        "data": data,
        "data_digest": images_digest(candidate.images, candidate.labels),
        "trusted": rules.trusted,
        "rules_digest": rules.digest,
        "certain": rules.certain,
        "model_digest": model_files,
        "versions": versions,
    }


def _user() -> str:
    """The user's name; in a container whose user has none, the number."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _ci_page() -> str | None:
    """Address of the CI job that runs this; None outside of CI."""
    github = [os.environ.get(f"GITHUB_{name}") for name in ("SERVER_URL", "REPOSITORY", "RUN_ID")]
    if all(github):
        return "{}/{}/actions/runs/{}".format(*github)
    return next((os.environ[name] for name in _CI_PAGES if os.environ.get(name)), None)


def utc_now() -> str:
    """The time, as ``2026-01-31T12:00:00Z``."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def signature(digest: str) -> str | None:
    """HMAC-SHA256 of a digest with the key in ``FITB_SIGNING_KEY``; None without a key."""
    key = os.environ.get(_KEY)
    return hmac.new(key.encode(), digest.encode(), hashlib.sha256).hexdigest() if key else None


def previous_digest(client: MlflowClient, model: RegistryModel, champion: str | None) -> str | None:
    """Digest of the evidence for the champion, which chains the verdicts; None without one."""
    found = re.fullmatch(r"models:/([^/@]+)/(\d+)", champion or "")
    if found is None or found[1] != model.name:
        return None
    from fitb_callbacks.integrations.mlflow.lookup import find_model
    from fitb_callbacks.integrations.mlflow.registry import last_check

    checked = last_check(client, find_model(client, found[0]))
    return None if checked is None else checked.data.tags.get("fitb.digest")


def write_evidence(check: ModelCheck, verdict: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Write what a verdict rests on into a folder.

    Args:
        check: The verdict on the model.
        verdict: The same as JSON types, with the "model" it is on and the "judge" in words.
        folder: Where ``verdict.json``, ``settings.json``, ``packages.txt`` (all that is installed here), ``junit.xml``,
            the grids, the record of the candidate's probe and ``report.html`` go.

    Returns:
        Name to picture of the grids, height x width x 3, uint8.
    """
    from PIL import Image

    from fitb_callbacks.integrations.folder import write_record
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
    installed = sorted({f"{each.name}=={each.version}\n" for each in distributions()}, key=str.lower)
    (folder / "packages.txt").write_text("".join(installed))
    (folder / "junit.xml").write_text(junit_xml(verdict["model"], check.outcomes))
    record = make_record(check.candidate, judge=verdict["judge"])
    write_record(folder, record)
    beside = {}
    if check.champion is not None:
        beside[f"{verdict['champion']}, the champion"] = [make_record(check.champion, judge=verdict["judge"])]
    page = render_report([record], title=verdict["model"], beside=beside, check=report_head(verdict))
    (folder / "report.html").write_text(page, encoding="utf-8")
    return pictures


def evidence_digest(folder: Path) -> str:
    """Write ``SHA256SUMS`` of a folder's files and return the hash of that file: the digest of all of them.

    ``sha256sum -c SHA256SUMS`` checks the files, and ``sha256sum SHA256SUMS`` is the digest.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "SHA256SUMS")
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder)}\n" for path in files]
    (folder / "SHA256SUMS").write_text("".join(lines))
    return hashlib.sha256("".join(lines).encode()).hexdigest()
