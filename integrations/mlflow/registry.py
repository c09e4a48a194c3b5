"""Write to MLflow's Model Registry: the run of a check, a version's tag and description, an alias."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fitb_callbacks.integrations.mlflow.description import ARTIFACTS, merged
from fitb_callbacks.integrations.mlflow.lookup import RegistryModel
from fitb_callbacks.integrations.mlflow.sink import log_picture
from fitb_callbacks.integrations.mlflow.training_run import link_training_scores
from fitb_callbacks.utils.messages import mask_password

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

__all__ = [
    "EVIDENCE",
    "AliasMovedError",
    "alias_holder",
    "last_check",
    "move_alias",
    "note_promotion",
    "note_rollback",
    "previous_holder",
    "publish",
    "record",
    "run_of_check",
    "run_page",
    "server_user",
]

EVIDENCE = "check"
"""Folder of the evidence among a run's artifacts."""

_OLDEST_LOCK = 60.0  # seconds

_PREFIX = "fitb"
_VERDICT = f"{_PREFIX}.verdict"
_PENDING = "pending"
"""The verdict of a run, and of a version, of which not everything is written yet."""


class AliasMovedError(RuntimeError):
    """An alias does not point where it did."""


@contextmanager
def run_of_check(client: MlflowClient, model: RegistryModel) -> Iterator[str]:
    """Create the run "registry-check" beside the training run, with the verdict "pending"; the block fills it.

    If the block does not come to its end, the run is marked as failed, provided that the server still answers.

    Yields:
        The run's id.
    """
    tags = {f"{_PREFIX}.model": model.address, _VERDICT: _PENDING}
    run_id = str(client.create_run(_experiment(client, model), run_name="registry-check", tags=tags).info.run_id)
    try:
        yield run_id
        client.set_terminated(run_id, "FINISHED")
    except BaseException:
        _mark_failed(client, run_id)
        raise


def record(  # noqa: PLR0913 - everything that the run holds
    client: MlflowClient,
    model: RegistryModel,
    run_id: str,
    *,
    scores: Mapping[str, float],
    champion_scores: Mapping[str, float],
    evidence: Path,
    pictures: Mapping[str, Any],
    tags: Mapping[str, str],
) -> None:
    """Fill the run of a check. What the model's own page says follows later, by `publish`.

    Args:
        client: Of the server.
        model: The candidate.
        run_id: Of `run_of_check`.
        scores: The candidate's scores, without prefix; linked to its LoggedModel.
        champion_scores: The champion's.
        evidence: Folder whose files are kept with the run.
        pictures: Name to picture, shown on the run's page.
        tags: Of the run.
    """
    from mlflow.entities import LoggedModelInput, Metric

    now = time.time_ns() // 10**6
    if model.model_id is not None:
        client.log_inputs(run_id, models=[LoggedModelInput(model.model_id)])
    metrics = [
        Metric(f"{_PREFIX}/{key}", value, now, 0, model_id=model.model_id, run_id=run_id)
        for key, value in scores.items()
    ] + [Metric(f"{_PREFIX}_champion/{key}", value, now, 0) for key, value in champion_scores.items()]
    client.log_batch(run_id, metrics=metrics)
    for name, picture in pictures.items():
        log_picture(client.tracking_uri, run_id, f"{_PREFIX}/{name}", picture, step=0)
    client.log_artifacts(run_id, str(evidence), EVIDENCE)
    link_training_scores(client, model)
    for key, value in tags.items():
        client.set_tag(run_id, f"{_PREFIX}.{key}", value)


def server_user(client: MlflowClient) -> str | None:
    """The name under which this process talks to the server; None without authentication."""
    from mlflow.utils.credentials import get_default_host_creds

    return getattr(get_default_host_creds(client.tracking_uri), "username", None)


def _mark_failed(client: MlflowClient, run_id: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.set_terminated(run_id, "FAILED")
    except MlflowException:  # the server is away: the run stays open, without a verdict that points to it
        return


def publish(client: MlflowClient, model: RegistryModel, run_id: str, *, verdict: str, text: str) -> None:
    """Say on the page of a version, or of an unregistered model, what its check found; what others wrote there stays.

    The tag is "pending" first and set last, so that tag and description belong together wherever this is interrupted.

    Args:
        client: Of the server.
        model: What was checked.
        run_id: The run of the check, which `ARTIFACTS` in the text stands for.
        verdict: In a line, for the tag.
        text: Markdown for a version's description.
    """
    if model.name is not None and model.version is not None:
        client.set_model_version_tag(model.name, model.version, _VERDICT, _PENDING)
        text = text.replace(ARTIFACTS, f"{run_page(client, run_id)}/artifacts/{EVIDENCE}")
        before = client.get_model_version(model.name, model.version).description or ""
        client.update_model_version(model.name, model.version, merged(before, f"{_PREFIX} check", text))
        client.set_model_version_tag(model.name, model.version, _VERDICT, verdict)
    elif model.model_id is not None:
        client.set_logged_model_tags(model.model_id, {_VERDICT: verdict})


def last_check(client: MlflowClient, model: RegistryModel) -> Run | None:
    """The run of the last check that was recorded to its end; None if there was none.

    Its tags hold what programs need: ``fitb.verdict`` in a word, ``fitb.digest``, and ``fitb.signature`` with a key.
    """
    quote = '"' if "'" in model.address else "'"
    runs = client.search_runs(
        [_experiment(client, model)],
        f"tags.`{_PREFIX}.model` = {quote}{model.address}{quote} and attributes.status = 'FINISHED'",
        max_results=1,
        order_by=["attributes.start_time DESC"],
    )
    return runs[0] if runs else None


def run_page(client: MlflowClient, run_id: str) -> str:
    """Where MLflow's pages show a run, within the server's address."""
    return f"#/experiments/{client.get_run(run_id).info.experiment_id}/runs/{run_id}"


def move_alias(client: MlflowClient, name: str, alias: str, *, version: str, expected: str | None) -> None:
    """Move an alias, provided that it still points where it did.

    MLflow has no compare-and-set. So the move is guarded by a lock: an empty registered model ``fitb-lock.NAME.ALIAS``,
    which the server creates for one process only, and which is deleted at once. Someone who sets the alias by hand, in
    the milliseconds between the comparison and the move, is not held up by it.

    Args:
        client: Of the server.
        name: Registered name.
        alias: The alias.
        version: Version that it shall point to.
        expected: Version that it must still point to; None if there must be no such alias yet.

    Raises:
        AliasMovedError: If it points elsewhere, before or after; nothing was moved, or another process moved it since.
    """
    with _lock(client, f"{_PREFIX}-lock.{name}.{alias}"):
        found = alias_holder(client, name, alias)
        if found != expected:
            raise AliasMovedError(f"{alias} points to version {found}, and no longer to {expected}; check again")
        client.set_registered_model_alias(name, alias, version)
        found = alias_holder(client, name, alias)
        if found != version:
            raise AliasMovedError(f"{alias} points to version {found}: it was moved at the same time; check again")


@contextmanager
def _lock(client: MlflowClient, name: str) -> Iterator[None]:
    """Let one process at a time into the block; a lock that a dead process left is broken after a minute."""
    from mlflow.exceptions import MlflowException

    deadline = time.monotonic() + 2 * _OLDEST_LOCK
    while True:
        try:
            client.create_registered_model(name, description="held while fitb moves an alias")
            break
        except MlflowException as error:
            # the second where the lock is deleted while the server looks at it
            held = error.error_code in ("RESOURCE_ALREADY_EXISTS", "RESOURCE_DOES_NOT_EXIST")
            if not held or time.monotonic() > deadline:
                raise
        with suppress(MlflowException):  # it may just have been deleted
            age = time.time() - client.get_registered_model(name).creation_timestamp / 1000
            if age > _OLDEST_LOCK:
                client.delete_registered_model(name)
        time.sleep(0.05)
    try:
        yield
    finally:
        with suppress(MlflowException):
            client.delete_registered_model(name)


def note_promotion(client: MlflowClient, name: str, version: str, alias: str, *, before: str | None) -> None:
    """Tag a version with the promotion that has just happened: it is what `previous_holder` reads."""
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    came = "first version" if before is None else f"from version {before}"
    client.set_model_version_tag(name, version, f"{_PREFIX}.promoted.{alias}", f"{came}, {when}")


def note_rollback(client: MlflowClient, name: str, version: str, alias: str, *, to: str) -> None:
    """Tag the version that an alias was taken back from; where the other one had its alias from stays as it was."""
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    client.set_model_version_tag(name, version, f"{_PREFIX}.rolled_back.{alias}", f"to version {to}, {when}")


def previous_holder(client: MlflowClient, name: str, version: str, alias: str) -> str | None:
    """The version that an alias pointed to before it was moved to this one, as `note_promotion` noted it."""
    noted = client.get_model_version(name, version).tags.get(f"{_PREFIX}.promoted.{alias}", "")
    found = re.match(r"from version (\d+),", noted)
    return None if found is None else found[1]


def alias_holder(client: MlflowClient, name: str, alias: str) -> str | None:
    """The version that an alias points to; None if there is no such alias.

    Raises:
        ValueError: If there is no such registered model.
    """
    from mlflow.exceptions import MlflowException

    try:
        held = client.get_registered_model(name).aliases.get(alias)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        raise ValueError(f"there is no registered model {name!r} in {mask_password(client.tracking_uri)}") from error
    return None if held is None else str(held)


def _experiment(client: MlflowClient, model: RegistryModel) -> str:
    """The experiment of the training run, so that the check is listed beside it; otherwise "registry-check"."""
    if model.model_id is not None:
        return str(client.get_logged_model(model.model_id).experiment_id)
    if model.run_id is not None:
        return str(client.get_run(model.run_id).info.experiment_id)
    found = client.get_experiment_by_name("registry-check")
    return str(client.create_experiment("registry-check") if found is None else found.experiment_id)
