"""MLflow's Model Registry: find and load a model, read what its training saw, record a verdict, move an alias."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from fitb_callbacks.integrations.mlflow.sink import check_health, log_picture
from fitb_callbacks.integrations.probe_manifest import JUDGE_FILE, SETTINGS_FILE, TrainingRecord, read_record
from fitb_callbacks.models.checkpoints import load_checkpoint
from fitb_callbacks.utils.messages import one_line

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = [
    "LoadedModel",
    "RegistryModel",
    "connected",
    "evidence_digest",
    "find_model",
    "holder",
    "image_shape",
    "link_training_scores",
    "load_model",
    "promote",
    "record",
    "tag",
    "training_record",
    "training_scores",
]

_PREFIX = "fitb"
_VERDICT = f"{_PREFIX}.verdict"
_ADDRESSES = (
    "models:/NAME/VERSION, models:/NAME@ALIAS, models:/MODEL_ID, runs:/RUN_ID/NAME, or the file of a checkpoint with "
    "--class"
)


@dataclass(frozen=True)
class RegistryModel:
    """A model as MLflow knows it, by an address that does not move.

    Attributes:
        address: ``models:/NAME/VERSION``, ``models:/MODEL_ID`` or ``runs:/RUN_ID/PATH``.
        name: Registered name; None for a model that is not registered.
        version: Its version; None likewise.
        model_id: Of the LoggedModel; None for a bare artifact, such as a checkpoint that Lightning's logger saved.
        run_id: The training run; None if unknown.
        step: Step of the training at which it was logged; 0 if nobody said.
    """

    address: str
    name: str | None
    version: str | None
    model_id: str | None
    run_id: str | None
    step: int


@dataclass(frozen=True)
class LoadedModel:
    """A model ready for a probe.

    Attributes:
        module: On the CPU.
        image_shape: ``(C, H, W)`` by the model's signature; None if it says nothing.
    """

    module: nn.Module
    image_shape: tuple[int, int, int] | None


@contextmanager
def connected(tracking_uri: str | None = None) -> Iterator[MlflowClient]:
    """A client of a tracking server, on which everything inside works; the process's own one comes back afterwards.

    Without a setting of your own, MLflow's calls wait for minutes on a server that is down: here they are tried twice.

    Args:
        tracking_uri: Its address; None takes the process's (``MLFLOW_TRACKING_URI``).

    Raises:
        ConnectionError: If the server does not answer.
    """
    import mlflow

    before = mlflow.get_tracking_uri()
    address = tracking_uri or before
    check_health(address)
    habits = {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    }
    with _environment({name: value for name, value in habits.items() if name not in os.environ}):
        mlflow.set_tracking_uri(address)
        try:
            yield mlflow.MlflowClient(address)
        finally:
            mlflow.set_tracking_uri(before)


def find_model(client: MlflowClient, address: str, *, same_name_as: RegistryModel | None = None) -> RegistryModel:
    """What an address stands for.

    Args:
        client: Of the server.
        address: ``models:/NAME/VERSION``, ``models:/NAME@ALIAS``, ``models:/MODEL_ID`` or ``runs:/RUN_ID/NAME``.
        same_name_as: A registered model, of which the address may be a mere alias or version.

    Raises:
        ValueError: If it is none of these, or there is no such model.
    """
    from mlflow.exceptions import MlflowException

    if same_name_as is not None and "/" not in address and same_name_as.name is not None:
        separator = "/" if address.isdigit() else "@"
        address = f"models:/{same_name_as.name}{separator}{address}"
    try:
        if parts := re.fullmatch(r"models:/([^/@]+)(?:/(\d+)|@([^/@]+))", address):
            name, version, alias = parts.groups()
            found = client.get_model_version_by_alias(name, alias) if alias else client.get_model_version(name, version)
            source = re.fullmatch(r"models:/(m-\w+)", found.source or "")
            model_id = found.model_id or (source and source[1])
            return _registry_model(
                client, f"models:/{name}/{found.version}", name, str(found.version), model_id, found.run_id
            )
        if parts := re.fullmatch(r"models:/(m-\w+)", address):
            return _registry_model(client, address, None, None, parts[1], None)
        if parts := re.fullmatch(r"runs:/(\w+)/(.+)", address):
            run_id, path = parts.groups()
            outputs = client.get_run(run_id).outputs
            for output in reversed(outputs.model_outputs if outputs else []):
                if client.get_logged_model(output.model_id).name == path:
                    return _registry_model(client, f"models:/{output.model_id}", None, None, output.model_id, run_id)
            if not client.list_artifacts(run_id, path):
                raise ValueError(f"there is no model {address}: the run has neither a model nor artifacts of that name")
            return RegistryModel(address, None, None, None, run_id, 0)
    except MlflowException as error:
        _raise_if_away(error)
        missing = error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
        raise ValueError(f"{'there is no model' if missing else 'cannot find'} {address}: {_said(error)}") from error
    raise ValueError(f"a model must be {_ADDRESSES}; got {address!r}")


def _registry_model(
    client: MlflowClient,
    address: str,
    name: str | None,
    version: str | None,
    model_id: str | None,
    run_id: str | None,
) -> RegistryModel:
    step = 0
    if model_id is not None:
        run_id = client.get_logged_model(model_id).source_run_id or run_id
        outputs = client.get_run(run_id).outputs if run_id else None
        step = next((o.step for o in (outputs.model_outputs if outputs else []) if o.model_id == model_id), 0)
    return RegistryModel(address, name, version, model_id, run_id, step)


def load_model(model: RegistryModel, *, class_path: str | None = None, allow_pickle: bool = False) -> LoadedModel:
    """Download and load a model: exported or pickled by ``mlflow.pytorch``, or a Lightning checkpoint.

    Args:
        model: Found by `find_model`, within `connected`.
        class_path: A checkpoint's class, as ``package.module:Class``.
        allow_pickle: Whether files may hold any Python object. Loading one runs whatever code is in it.

    Raises:
        ConnectionError: If the server does not answer.
        ValueError: If the model cannot be loaded; the error says why.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    with tempfile.TemporaryDirectory(prefix="fitb-model-") as folder:
        try:
            where = Path(mlflow.artifacts.download_artifacts(model.address, dst_path=folder))
        except Exception as error:  # of stores of many kinds
            _raise_if_away(error)
            raise ValueError(f"{model.address} cannot be downloaded: {one_line(error)}") from error
        if not (where / "MLmodel").is_file():
            return LoadedModel(_from_checkpoint(where, model.address, class_path, allow_pickle), None)
        described = mlflow.models.Model.load(str(where))
        if "pytorch" not in described.flavors:
            raise ValueError(f"{model.address} must be a PyTorch model; it is {', '.join(described.flavors)}")
        with _environment({"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": str(allow_pickle).lower()}):
            try:
                module = mlflow.pytorch.load_model(str(where), map_location="cpu")
            except MlflowException as error:
                hint = "; if you trust it, add --allow-pickle" if "pickle" in str(error) and not allow_pickle else ""
                reason = "holds a pickled model" if hint else f"cannot be loaded: {one_line(error)}"
                raise ValueError(f"{model.address} {reason}{hint}") from error
            except Exception as error:  # of whatever code the model needs
                raise ValueError(f"{model.address} cannot be loaded: {one_line(error)}") from error
        return LoadedModel(module, image_shape(described.signature))


def _from_checkpoint(where: Path, address: str, class_path: str | None, allow_pickle: bool) -> nn.Module:
    files = [where] if where.is_file() else sorted(where.rglob("*.ckpt"))
    if len(files) != 1:
        raise ValueError(f"{address} must be an MLflow model or hold one checkpoint; it holds {len(files)} of these")
    if class_path is None:
        raise ValueError(f"{address} is a checkpoint; name its class with --class package.module:Class")
    return load_checkpoint(files[0], class_path, allow_pickle=allow_pickle)


def image_shape(signature: Any) -> tuple[int, int, int] | None:
    """``(C, H, W)`` by a model's signature; None if it says nothing of the kind."""
    specs = signature.inputs.inputs if signature is not None and signature.inputs is not None else []
    shape: tuple[int, ...] = getattr(specs[0], "shape", ()) if len(specs) == 1 else ()
    if len(shape) != 4 or any(side <= 0 for side in shape[1:]):
        return None
    return (int(shape[1]), int(shape[2]), int(shape[3]))


def training_record(client: MlflowClient, model: RegistryModel) -> TrainingRecord | None:
    """What the training run's callback stored of its probe; None if there was none.

    Raises:
        ConnectionError: If the server does not answer.
        ValueError: If it is there and cannot be read.
    """
    if model.run_id is None:
        return None
    from mlflow.exceptions import MlflowException

    try:
        with tempfile.TemporaryDirectory(prefix="fitb-settings-") as folder:
            stored = {Path(file.path).name for file in client.list_artifacts(model.run_id, _PREFIX)}
            if SETTINGS_FILE not in stored:
                return None
            files = {
                name: Path(client.download_artifacts(model.run_id, f"{_PREFIX}/{name}", folder)).read_bytes()
                for name in (SETTINGS_FILE, JUDGE_FILE)
                if name in stored
            }
    except MlflowException as error:
        _raise_if_away(error)
        raise ValueError(f"the training run {model.run_id} cannot be read: {_said(error)}") from error
    return read_record(files)


def training_scores(client: MlflowClient, model: RegistryModel) -> dict[str, float]:
    """The callback's scores when the model was logged: of the last probe, or of the last up to the model's step.

    Raises:
        ConnectionError: If the server does not answer.
        ValueError: If it does not give them.
    """
    from mlflow.exceptions import MlflowException

    try:
        return {metric.key.removeprefix(f"{_PREFIX}/"): metric.value for metric in _training_metrics(client, model)}
    except MlflowException as error:
        _raise_if_away(error)
        raise ValueError(f"the training run {model.run_id} cannot be read: {_said(error)}") from error


def link_training_scores(client: MlflowClient, model: RegistryModel) -> int:
    """Show the callback's scores on the model's own page: link them to its LoggedModel. Twice changes nothing.

    `fitb check` does this for the model that it records; a training script can call it after ``log_model``.

    Args:
        client: Of the server.
        model: Found by `find_model`.

    Returns:
        How many scores are linked; 0 without a LoggedModel or without the callback's scores.

    Example:
        >>> import mlflow, tempfile
        >>> client = mlflow.MlflowClient(f"sqlite:///{tempfile.mkdtemp()}/mlflow.db")
        >>> run_id = client.create_run("0").info.run_id
        >>> client.log_metric(run_id, "fitb/coverage", 0.5)
        >>> model_id = client.create_logged_model("0", name="classifier", source_run_id=run_id).model_id
        >>> link_training_scores(client, find_model(client, f"models:/{model_id}"))
        1
        >>> [(metric.key, metric.value) for metric in client.get_logged_model(model_id).metrics]
        [('fitb/coverage', 0.5)]
    """
    from mlflow.entities import Metric

    if model.model_id is None or model.run_id is None:
        return 0
    linked = [
        Metric(m.key, m.value, m.timestamp, m.step, model_id=model.model_id, run_id=model.run_id)
        for m in _training_metrics(client, model)
    ]
    if linked:
        client.log_batch(model.run_id, metrics=linked)
    return len(linked)


def _training_metrics(client: MlflowClient, model: RegistryModel) -> list[Any]:
    if model.run_id is None:
        return []
    keys = [key for key in client.get_run(model.run_id).data.metrics if key.startswith(f"{_PREFIX}/")]
    probes = [client.get_metric_history(model.run_id, key) for key in keys]
    known = [[m for m in history if not model.step or m.step <= model.step] for history in probes]
    return [max(history, key=lambda m: (m.step, m.timestamp)) for history in known if history]


def record(
    client: MlflowClient,
    model: RegistryModel,
    *,
    scores: Mapping[str, float],
    reference_scores: Mapping[str, float],
    evidence: Path,
    pictures: Mapping[str, Any],
    tags: Mapping[str, str],
) -> str:
    """Write the run "registry-check" beside the training run. The model itself is not tagged yet; `tag` does that.

    Args:
        client: Of the server.
        model: The candidate.
        scores: Its scores, without prefix; linked to its LoggedModel.
        reference_scores: The reference's.
        evidence: Folder whose files are kept with the run.
        pictures: Name to picture, shown on the run's page.
        tags: Of the run.

    Returns:
        The run's id.

    Raises:
        Exception: What MLflow raises; the run is marked as failed, if the server still answers.
    """
    from mlflow.entities import LoggedModelInput, Metric

    run_id: str = client.create_run(_experiment(client, model), run_name="registry-check", tags=dict(tags)).info.run_id
    now = time.time_ns() // 10**6
    try:
        if model.model_id is not None:
            client.log_inputs(run_id, models=[LoggedModelInput(model.model_id)])
        metrics = [
            Metric(f"{_PREFIX}/{key}", value, now, 0, model_id=model.model_id, run_id=run_id)
            for key, value in scores.items()
        ] + [Metric(f"{_PREFIX}_reference/{key}", value, now, 0) for key, value in reference_scores.items()]
        client.log_batch(run_id, metrics=metrics)
        for name, picture in pictures.items():
            log_picture(client.tracking_uri, run_id, f"{_PREFIX}/{name}", picture, step=0)
        client.log_artifacts(run_id, str(evidence), "check")
        link_training_scores(client, model)
        client.set_terminated(run_id, "FINISHED")
    except BaseException:
        _mark_failed(client, run_id)
        raise
    return run_id


def _mark_failed(client: MlflowClient, run_id: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.set_terminated(run_id, "FAILED")
    except MlflowException:  # the server is away: the run stays open, without a verdict that points to it
        return


def tag(client: MlflowClient, model: RegistryModel, tags: Mapping[str, str], verdict: str) -> None:
    """Tag a version, or an unregistered model, with a verdict: an older one is taken away first, the new one set last.

    Whenever it stops, the tags that are there belong to the verdict that is there.
    """
    if model.name is not None and model.version is not None:
        client.delete_model_version_tag(model.name, model.version, _VERDICT)
        for key, value in (*tags.items(), ("verdict", verdict)):
            client.set_model_version_tag(model.name, model.version, f"{_PREFIX}.{key}", value)
    elif model.model_id is not None:
        values = {f"{_PREFIX}.{key}": value for key, value in (*tags.items(), ("verdict", verdict))}
        client.set_logged_model_tags(model.model_id, values)


def promote(client: MlflowClient, model: RegistryModel, alias: str) -> None:
    """Move an alias to a version."""
    assert model.name is not None
    assert model.version is not None
    client.set_registered_model_alias(model.name, alias, model.version)


def holder(client: MlflowClient, name: str, alias: str) -> str | None:
    """The version that an alias points to; None if there is no such alias."""
    held = client.get_registered_model(name).aliases.get(alias)
    return None if held is None else str(held)


def evidence_digest(folder: Path) -> str:
    """Write ``SHA256SUMS`` of a folder's files and return the hash of that file: the digest of all of them.

    ``sha256sum -c SHA256SUMS`` checks the files, and ``sha256sum SHA256SUMS`` is the digest.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "SHA256SUMS")
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder)}\n" for path in files]
    (folder / "SHA256SUMS").write_text("".join(lines))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _experiment(client: MlflowClient, model: RegistryModel) -> str:
    """That of the training, so that the check stands beside it; else one of its own."""
    if model.model_id is not None:
        return str(client.get_logged_model(model.model_id).experiment_id)
    if model.run_id is not None:
        return str(client.get_run(model.run_id).info.experiment_id)
    found = client.get_experiment_by_name("registry-check")
    return str(client.create_experiment("registry-check") if found is None else found.experiment_id)


def _raise_if_away(error: Exception) -> None:
    """Tell a server that is away from one that says no."""
    import requests

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, (ConnectionError, requests.ConnectionError, requests.Timeout)):
            raise ConnectionError(f"the tracking server does not answer: {one_line(error)}") from error
        cause = cause.__cause__ or cause.__context__


def _said(error: Exception) -> str:
    message = " ".join(str(getattr(error, "message", error)).split())
    return message[:300]


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
