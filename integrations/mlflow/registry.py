"""Write to MLflow's Model Registry: the run of a check, a version's tags, an alias."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fitb_callbacks.integrations.mlflow.lookup import RegistryModel
from fitb_callbacks.integrations.mlflow.sink import log_picture
from fitb_callbacks.integrations.mlflow.training_run import link_training_scores

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["alias_holder", "move_alias", "record", "tag"]

_PREFIX = "fitb"
_VERDICT = f"{_PREFIX}.verdict"


def record(  # noqa: PLR0913 - everything that the run holds
    client: MlflowClient,
    model: RegistryModel,
    *,
    scores: Mapping[str, float],
    champion_scores: Mapping[str, float],
    evidence: Path,
    pictures: Mapping[str, Any],
    tags: Mapping[str, str],
) -> str:
    """Write the run "registry-check" beside the training run. The model itself is tagged later, by `tag`.

    Args:
        client: Of the server.
        model: The candidate.
        scores: Its scores, without prefix; linked to its LoggedModel.
        champion_scores: The champion's.
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
        ] + [Metric(f"{_PREFIX}_champion/{key}", value, now, 0) for key, value in champion_scores.items()]
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
    """Tag a version, or an unregistered model, with a verdict.

    An older verdict is removed first and the new one is set last, so that a verdict and its tags belong together
    wherever this is interrupted.
    """
    if model.name is not None and model.version is not None:
        client.delete_model_version_tag(model.name, model.version, _VERDICT)
        for key, value in (*tags.items(), ("verdict", verdict)):
            client.set_model_version_tag(model.name, model.version, f"{_PREFIX}.{key}", value)
    elif model.model_id is not None:
        values = {f"{_PREFIX}.{key}": value for key, value in (*tags.items(), ("verdict", verdict))}
        client.set_logged_model_tags(model.model_id, values)


def move_alias(client: MlflowClient, model: RegistryModel, alias: str) -> None:
    """Move an alias to a version."""
    assert model.name is not None
    assert model.version is not None
    client.set_registered_model_alias(model.name, alias, model.version)


def alias_holder(client: MlflowClient, name: str, alias: str) -> str | None:
    """The version that an alias points to; None if there is no such alias."""
    held = client.get_registered_model(name).aliases.get(alias)
    return None if held is None else str(held)


def _experiment(client: MlflowClient, model: RegistryModel) -> str:
    """The experiment of the training run, so that the check is listed beside it; otherwise "registry-check"."""
    if model.model_id is not None:
        return str(client.get_logged_model(model.model_id).experiment_id)
    if model.run_id is not None:
        return str(client.get_run(model.run_id).info.experiment_id)
    found = client.get_experiment_by_name("registry-check")
    return str(client.create_experiment("registry-check") if found is None else found.experiment_id)
