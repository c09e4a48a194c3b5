"""Find a report's records: in a run's folder, an MLflow run, or saved results."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fitb_callbacks.integrations.folder import RECORDS
from fitb_callbacks.integrations.record import FORMAT, KEYS, make_record
from fitb_callbacks.integrations.record_shape import damaged_part
from fitb_callbacks.probing.result import FillInBlanksResult

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["Source", "read_source"]

_KIND = FORMAT.rpartition(" ")[0]


@dataclass(frozen=True)
class Source:
    """The records that were found.

    Attributes:
        title: What to call it.
        records: One a probe, at least one, in no particular order.
        problems: What could not be read, a line each.
    """

    title: str
    records: Sequence[Mapping[str, Any]]
    problems: Sequence[str]


def read_source(source: str, *, mlflow_uri: str | None = None) -> Source:
    """Read what a run left behind.

    Args:
        source: A folder into which a CSVLogger or TensorBoardLogger wrote; a folder of results, or one result, written
            by ``FillInBlanksResult.save`` as .npz; ``runs:/RUN_ID`` for a run in MLflow; or ``models:/NAME/VERSION``
            for a registered model: what its check found, or if it was never checked, its training run.
        mlflow_uri: Address of the MLflow store; None takes MLflow's own default.

    Raises:
        FileNotFoundError: If there is no such folder, file or database.
        ValueError: If there is no such run, or it holds nothing that can be shown, or there are several.
        ConnectionError: If the MLflow server cannot be reached.
    """
    if source.startswith("runs:/"):
        return _from_mlflow(source.removeprefix("runs:/"), mlflow_uri)
    if source.startswith("models:/"):
        return _from_registry(source, mlflow_uri)
    path = Path(source)
    if path.is_dir():
        return _from_folder(path)
    if path.is_file():
        return Source(path.name, [make_record(FillInBlanksResult.load(path))], [])
    raise FileNotFoundError(
        f"there is no folder or file {source}; a run in MLflow is runs:/RUN_ID, a registered model models:/NAME/VERSION"
    )


def _from_folder(folder: Path) -> Source:
    found = {path.parent for path in [folder, *folder.rglob(RECORDS)] if path.name == RECORDS and path.is_dir()}
    if len(found) > 1:
        named = ", ".join(str(run) for run in sorted(found)[:5]) + (" and more" if len(found) > 5 else "")
        raise ValueError(f"{folder} holds {len(found)} runs; give one of them: {named}")
    if found:
        (run,) = found
        absolute = run.absolute()
        return _read(f"{absolute.parent.name}/{absolute.name}", sorted((run / RECORDS).glob("*.json")), of=run)
    results = sorted(folder.glob("*.npz"))
    if not results:
        raise ValueError(
            f"{folder} holds no probes: neither {RECORDS}/ of a logger, nor saved results (*.npz). Does the Trainer "
            "have a CSVLogger or TensorBoardLogger?"
        )
    return _read(folder.absolute().name, results, of=folder)


def _client(uri: str | None) -> MlflowClient:
    import mlflow

    from fitb_callbacks.integrations.mlflow.reachable import reachable_client

    return reachable_client(uri or mlflow.get_tracking_uri())


def _from_registry(address: str, uri: str | None) -> Source:
    """What the check of a version found; of one that was not checked, what its training run logged."""
    from mlflow.exceptions import MlflowException

    from fitb_callbacks.integrations.mlflow.lookup import find_model
    from fitb_callbacks.integrations.mlflow.registry import EVIDENCE, last_check

    client = _client(uri)
    try:
        model = find_model(client, address)
        checked, evidence = last_check(client, model), f"{EVIDENCE}/{RECORDS}"
        if checked is not None and client.list_artifacts(checked.info.run_id, evidence):
            return replace(_from_mlflow(checked.info.run_id, uri, folder=evidence), title=model.address)
    except MlflowException as error:
        raise ValueError(f"{address} cannot be read: {error.message}") from error
    if model.run_id is None:
        raise ValueError(f"{address} was not checked, and comes from no run")
    return replace(_from_mlflow(model.run_id, uri), title=model.address)


def _from_mlflow(run_id: str, uri: str | None, *, folder: str = RECORDS) -> Source:
    from mlflow.exceptions import MlflowException

    from fitb_callbacks.integrations.mlflow.client import environment

    try:
        client = _client(uri)
        uri = client.tracking_uri
        run = client.get_run(run_id)
        artifacts = [file.path for file in client.list_artifacts(run_id, folder)]
        if not artifacts:
            raise ValueError(f"the run {run_id} in {uri} holds no probes: it has no artifacts in {folder}/")
        with tempfile.TemporaryDirectory() as copy:
            with environment({"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}):
                paths = [Path(client.download_artifacts(run_id, path, copy)) for path in artifacts]
            return _read(run.info.run_name or run_id, paths, of=f"the run {run_id}")
    except MlflowException as error:
        raise ValueError(f"the run {run_id} cannot be read from {uri}: {error.message}") from error


def _read(title: str, paths: Sequence[Path], *, of: object) -> Source:
    """Read what can be read; results have no epoch, and are counted."""
    records, problems = [], []
    for number, path in enumerate(paths):
        try:
            result = path.suffix == ".npz"
            records.append(make_record(FillInBlanksResult.load(path), epoch=number) if result else _record(path))
        except (OSError, ValueError) as error:
            problems.append(f"{path.name}: {error}")
    if not records:
        raise ValueError(f"{of} holds no probe that can be read" + (f": {problems[0]}" if problems else ""))
    return Source(title, records, problems)


def _record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError("it is cut off or not JSON") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        found = record.get("format") if isinstance(record, dict) else None
        if isinstance(found, str) and found.startswith(_KIND):
            raise ValueError(f"another version of fitb-callbacks wrote it ({found!r}; this one reads {FORMAT!r})")
        raise ValueError(f"it is not a {FORMAT!r}")
    if missing := sorted(KEYS - record.keys()):
        raise ValueError(f"it lacks {', '.join(missing)}")
    if (part := damaged_part(record)) is not None:
        raise ValueError(f"it is damaged: {part} is not what was written there")
    return record
