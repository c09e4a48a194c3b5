"""Check that a recorded verdict is consistent: the version's tag, the run, the evidence and the model's files."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fitb_callbacks.gate.description import version_tag
from fitb_callbacks.gate.evidence import signature
from fitb_callbacks.utils.messages import one_line

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from fitb_callbacks.integrations.mlflow.lookup import RegistryModel

__all__ = ["Finding", "verify", "verify_files"]


@dataclass(frozen=True)
class Finding:
    """One thing that was checked.

    Attributes:
        holds: Whether it is as it should be.
        text: What it is, in words.
    """

    holds: bool
    text: str


def verify(client: MlflowClient, model: RegistryModel) -> list[Finding]:
    """Recompute what can be recomputed of the verdict on a version, and compare it with what is recorded.

    Someone who may write tags, artifacts and models can forge all of them together. With ``FITB_SIGNING_KEY`` set here
    and where checks run, they need the key as well.

    Args:
        client: Of the server.
        model: A version of a registered model.

    Returns:
        What was looked at; the first one that does not hold may be the last.

    Raises:
        ValueError: If the model is not a version of a registered model.
    """
    from fitb_callbacks.integrations.mlflow import registry

    if model.name is None or model.version is None:
        raise ValueError(f"only a version of a registered model has a recorded verdict; {model.address} is none")
    said = client.get_model_version(model.name, model.version).tags.get("fitb.verdict")
    if said == "pending":
        return [
            Finding(False, f"the verdict on {model.address} is pending: its check has not ended, or was interrupted")
        ]
    if said is None:
        return [Finding(False, f"{model.address} has no recorded verdict: the tag fitb.verdict is missing")]
    run = registry.last_check(client, model)
    if run is None:
        return [
            Finding(False, f"{model.address} has no recorded verdict: no run of a check belongs to its tag {said!r}")
        ]
    tags = {key.removeprefix("fitb."): value for key, value in run.data.tags.items() if key.startswith("fitb.")}
    findings = [Finding(True, f"run {run.info.run_id} is the last check of {model.address}")]
    try:
        with tempfile.TemporaryDirectory(prefix="fitb-verify-") as folder:
            where = Path(client.download_artifacts(run.info.run_id, registry.EVIDENCE, folder))
            findings += verify_files(where, tags["digest"])
            verdict = json.loads((where / "verdict.json").read_text())
    except Exception as error:  # noqa: BLE001 - of the server, the store, or what the files hold
        return [*findings, Finding(False, f"the evidence cannot be read: {one_line(error)}")]
    try:
        findings += _verdict_findings(verdict, said, tags, model.address)
        findings += [_model_finding(model, verdict), *_chain_findings(client, verdict), *_signature_findings(tags)]
    except (AttributeError, KeyError, TypeError):
        findings.append(Finding(False, "verdict.json is damaged: it does not hold what a check writes"))
    return findings


def verify_files(folder: Path, digest: str) -> list[Finding]:
    """Compare the files of a folder with its ``SHA256SUMS``, and that with a digest.

    Example:
        >>> import tempfile
        >>> from fitb_callbacks.gate.evidence import evidence_digest
        >>> with tempfile.TemporaryDirectory() as name:
        ...     _ = Path(name, "verdict.json").write_text("{}")
        ...     digest = evidence_digest(Path(name))
        ...     [finding.holds for finding in verify_files(Path(name), digest)]
        ...     _ = Path(name, "verdict.json").write_text("[]")
        ...     [finding.text for finding in verify_files(Path(name), digest) if not finding.holds]
        [True, True]
        ['the evidence has changed: verdict.json']
    """
    content = (folder / "SHA256SUMS").read_bytes()
    same = hmac.compare_digest(hashlib.sha256(content).hexdigest(), digest)
    findings = [
        Finding(
            same, f"SHA256SUMS has {'the digest that its run says' if same else 'another digest than its run says'}"
        )
    ]
    listed: dict[str, str] = {}
    for line in content.decode().splitlines():
        hashed, _, name = line.partition("  ")
        listed[name] = hashed
    files = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "SHA256SUMS"
    }
    changed = sorted(name for name in {*listed, *files} if listed.get(name) != files.get(name))
    if changed:
        return [*findings, Finding(False, f"the evidence has changed: {', '.join(changed)}")]
    return [*findings, Finding(True, f"all {len(files)} files of the evidence are unchanged")]


def _verdict_findings(verdict: dict[str, Any], said: str, tags: Mapping[str, str], address: str) -> Iterator[Finding]:
    if verdict.get("model") != address:
        yield Finding(False, f"verdict.json is of {verdict.get('model')}, not of {address}")
    passed = [rule.get("passed") for rule in verdict.get("rules", [])]
    follows = "passed" if passed and all(passed) else "refused" if False in passed else "open"
    follows = "waived" if verdict.get("waiver") and follows != "passed" else follows
    if not follows == verdict.get("verdict") == tags.get("verdict"):
        yield Finding(
            False,
            f"the run says {tags.get('verdict')!r}, verdict.json {verdict.get('verdict')!r}, its rules {follows!r}",
        )
    elif said != (expected := version_tag(verdict)):
        yield Finding(False, f"the version's tag says {said!r}, verdict.json {expected!r}")
    else:
        yield Finding(True, f"the version's tag follows from verdict.json: {said}")


def _model_finding(model: RegistryModel, verdict: dict[str, Any]) -> Finding:
    from fitb_callbacks.integrations.mlflow.loading import download_model, files_digest

    try:
        with download_model(model) as where:
            digest = files_digest(where)
    except (ConnectionError, ValueError) as error:
        return Finding(False, str(error))
    same = digest == verdict.get("provenance", {}).get("model_digest")
    return Finding(same, "the model's files are those that were checked" if same else "the model's files have changed")


def _chain_findings(client: MlflowClient, verdict: dict[str, Any]) -> Iterator[Finding]:
    """The evidence of the champion of that time, which this one builds on."""
    from mlflow.exceptions import MlflowException

    from fitb_callbacks.integrations.mlflow import registry
    from fitb_callbacks.integrations.mlflow.lookup import find_model

    previous = verdict.get("provenance", {}).get("previous_digest")
    parts = re.fullmatch(r"models:/([^/@]+)/(\d+)", verdict.get("champion") or "")
    if previous is None or parts is None:
        return
    try:
        checked = registry.last_check(client, find_model(client, parts[0]))
    except (MlflowException, ValueError):
        yield Finding(True, f"{verdict['champion']}, the champion of that time, is gone")
        return
    same = checked is not None and checked.data.tags.get("fitb.digest") == previous
    yield Finding(same, f"the evidence of {verdict['champion']} is " + ("the same" if same else "another one by now"))


def _signature_findings(tags: Mapping[str, str]) -> Iterator[Finding]:
    expected = signature(tags["digest"])
    if expected is None:
        return
    same = hmac.compare_digest(expected, tags.get("signature", ""))
    yield Finding(same, "the signature is right" if same else "the signature is missing or wrong")
