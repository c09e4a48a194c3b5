"""Find a candidate and its champion, with what their training runs stored; nothing is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from fitb_callbacks.gate.registry_check import Promotion
from fitb_callbacks.gate.rules import Rules
from fitb_callbacks.integrations.probe_manifest import TrainingRecord

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from fitb_callbacks.integrations.mlflow.lookup import RegistryModel

__all__ = ["Found", "find", "find_champion", "is_address"]

_CHAMPION = "champion"


@dataclass(frozen=True)
class Found:
    """A model that was found, and is not loaded yet.

    Attributes:
        address: With the version; or the path of a file.
        registered: As the registry knows it; None for a file.
        record: What its training run stored of its probe; None if nothing.
        red: The last verdict of the training run, if it is red; empty otherwise.
        training_scores: Score to value, the last ones of the training run.
        record_is_lost: Whether the training run has scores of the callback, and nothing that it stored beside them.
    """

    address: str
    registered: RegistryModel | None = None
    record: TrainingRecord | None = None
    red: str = ""
    training_scores: Mapping[str, float] = field(default_factory=dict)
    record_is_lost: bool = False


def find(client: MlflowClient | None, address: str, *, same_name_as: Found | None = None) -> Found:
    """The model of an address, or a checkpoint file.

    Args:
        client: Of the registry; None where no address needs one.
        address: ``models:/NAME/VERSION`` and the like, a path, or with ``same_name_as`` a version or an alias.
        same_name_as: Whose name in the registry a mere version or alias goes with.

    Raises:
        ValueError: If there is no such model.
    """
    if Path(address).is_file():
        return Found(address)
    registered = None if same_name_as is None else same_name_as.registered
    if client is None or not (is_address(address) or registered is not None):
        raise ValueError(
            f"there is no file {address}; a registered model is models:/NAME/VERSION or models:/NAME@ALIAS"
        )
    from fitb_callbacks.integrations.mlflow.lookup import find_model
    from fitb_callbacks.integrations.mlflow.training_run import (
        has_probe_scores,
        red_verdict,
        training_record,
        training_scores,
    )

    found = find_model(client, address, same_name_as=registered)
    record = training_record(client, found)
    red = red_verdict(client, found)
    if record is None:
        return Found(found.address, found, red=red, record_is_lost=has_probe_scores(client, found))
    return Found(found.address, found, record, red, training_scores(client, found))


def find_champion(
    client: MlflowClient | None, candidate: Found, rules: Rules, promotion: Promotion
) -> tuple[Found | None, str | None]:
    """The champion, and the version that the alias to be moved points to; None for each where there is none."""
    registered, alias, named = candidate.registered, promotion.alias, rules.champion
    if client is None or registered is None or registered.name is None:
        return None if named is None else find(client, named, same_name_as=candidate), None
    from fitb_callbacks.integrations.mlflow.registry import alias_holder

    holder = None if alias is None else alias_holder(client, registered.name, alias)
    if named is None:
        version = holder or alias_holder(client, registered.name, _CHAMPION)
        named = None if version in (None, registered.version) else version
    elif named == alias and holder is None:
        named = None  # the first version
    champion = None if named is None else find(client, named, same_name_as=candidate)
    if champion is not None and alias is not None and rules.champion == alias:
        moved = champion.address != f"models:/{registered.name}/{holder}"
        holder = champion.registered.version if moved and champion.registered is not None else holder
    return champion, holder


def is_address(text: str) -> bool:
    """Whether something is meant to be looked up in the registry."""
    return text.startswith(("models:", "runs:"))
