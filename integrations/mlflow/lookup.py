"""Find a model in MLflow by its address: a registered version, a logged model, or a run's artifact."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fitb_callbacks.integrations.mlflow.client import raise_if_away, server_message
from fitb_callbacks.utils.messages import mask_password

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["RegistryModel", "find_model"]

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


def find_model(client: MlflowClient, address: str, *, same_name_as: RegistryModel | None = None) -> RegistryModel:
    """Resolve a model's address.

    Args:
        client: Of the server.
        address: ``models:/NAME/VERSION``, ``models:/NAME@ALIAS``, ``models:/MODEL_ID`` or ``runs:/RUN_ID/NAME``.
        same_name_as: A registered model; the address may then be a mere alias or version of it.

    Raises:
        ValueError: If it is none of these, or there is no such model.
    """
    from mlflow.exceptions import MlflowException

    if same_name_as is not None and "/" not in address and same_name_as.name is not None:
        separator = "/" if address.isdigit() else "@"
        address = f"models:/{same_name_as.name}{separator}{address}"
    try:
        if parts := re.fullmatch(r"models:/([^/@]+)(?:/(\d+)|@([^/@]+))", address):
            return _find_version(client, *parts.groups())
        if parts := re.fullmatch(r"models:/(m-\w+)", address):
            return _with_run(client, RegistryModel(address, None, None, parts[1], None, 0))
        if parts := re.fullmatch(r"runs:/(\w+)/(.+)", address):
            return _find_in_run(client, address, *parts.groups())
    except MlflowException as error:
        raise_if_away(error)
        missing = error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
        problem = "there is no model" if missing else "cannot find"
        where = mask_password(client.tracking_uri)
        raise ValueError(f"{problem} {address} in {where}: {server_message(error)}") from error
    raise ValueError(f"a model must be {_ADDRESSES}; got {address!r}")


def _find_version(client: MlflowClient, name: str, version: str | None, alias: str | None) -> RegistryModel:
    """A version of a registered model, by number or alias."""
    found = client.get_model_version_by_alias(name, alias) if alias else client.get_model_version(name, str(version))
    source = re.fullmatch(r"models:/(m-\w+)", found.source or "")
    model_id = found.model_id or (source and source[1])
    address = f"models:/{name}/{found.version}"
    return _with_run(client, RegistryModel(address, name, str(found.version), model_id, found.run_id, 0))


def _find_in_run(client: MlflowClient, address: str, run_id: str, path: str) -> RegistryModel:
    """The model, or other artifact, that a run logged under a name."""
    outputs = client.get_run(run_id).outputs
    for output in reversed(outputs.model_outputs if outputs else []):
        if client.get_logged_model(output.model_id).name == path:
            model = RegistryModel(f"models:/{output.model_id}", None, None, output.model_id, run_id, 0)
            return _with_run(client, model)
    if not client.list_artifacts(run_id, path):
        raise ValueError(f"there is no model {address}: the run has neither a model nor artifacts of that name")
    return RegistryModel(address, None, None, None, run_id, 0)


def _with_run(client: MlflowClient, model: RegistryModel) -> RegistryModel:
    """A logged model with its training run, and the step at which it was logged."""
    if model.model_id is None:
        return model
    run_id = client.get_logged_model(model.model_id).source_run_id or model.run_id
    outputs = client.get_run(run_id).outputs if run_id else None
    logged = outputs.model_outputs if outputs else []
    step = next((output.step for output in logged if output.model_id == model.model_id), 0)
    return replace(model, run_id=run_id, step=step)
