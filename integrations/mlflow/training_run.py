"""Read what a training run left in MLflow: its probe's settings and scores."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fitb_callbacks.integrations.mlflow.client import raise_if_away, server_message
from fitb_callbacks.integrations.mlflow.lookup import RegistryModel
from fitb_callbacks.integrations.probe_manifest import (
    IMAGES_FILE,
    JUDGE_FILE,
    SETTINGS_FILE,
    TrainingRecord,
    read_record,
)
from fitb_callbacks.integrations.summary import SIGNS
from fitb_callbacks.utils.messages import on_one_line

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["has_probe_scores", "link_training_scores", "red_verdict", "training_record", "training_scores"]

_PREFIX = "fitb"


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
                for name in (SETTINGS_FILE, JUDGE_FILE, IMAGES_FILE)
                if name in stored
            }
    except MlflowException as error:
        raise_if_away(error)
        raise ValueError(f"the training run {model.run_id} cannot be read: {server_message(error)}") from error
    return read_record(files)


def has_probe_scores(client: MlflowClient, model: RegistryModel) -> bool:
    """Whether the training run has scores of the callback. If it has no `training_record`, its artifacts are gone."""
    if model.run_id is None:
        return False
    return any(key.startswith(f"{_PREFIX}/") for key in client.get_run(model.run_id).data.metrics)


def red_verdict(client: MlflowClient, model: RegistryModel) -> str:
    """The verdict of the training run's last probe, in a line, where it is red; empty where it is not."""
    if model.run_id is None:
        return ""
    said = on_one_line(client.get_run(model.run_id).data.tags.get(f"{_PREFIX}.verdict", ""))
    return said if said.startswith(SIGNS["bad"]) else ""


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
        raise_if_away(error)
        raise ValueError(f"the training run {model.run_id} cannot be read: {server_message(error)}") from error


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
        >>> from fitb_callbacks.integrations.mlflow.lookup import find_model
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
