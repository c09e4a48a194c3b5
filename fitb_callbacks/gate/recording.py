"""Write a verdict to the registry: the evidence, then the version's tag, then the alias."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fitb_callbacks.gate.description import version_description, version_tag
from fitb_callbacks.gate.evidence import evidence_digest, previous_digest, signature, write_evidence
from fitb_callbacks.gate.registry_check import CouldNotCheckError, Promotion, RegistryCheck
from fitb_callbacks.utils.messages import one_line

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from fitb_callbacks.integrations.mlflow.lookup import RegistryModel

__all__ = ["Recorder"]

_NOTHING = "nothing was"  # written, in a sentence


@dataclass
class Recorder:
    """Writes the evidence, then the version's tag, then the alias, and knows what is written."""

    client: MlflowClient
    model: RegistryModel
    promotion: Promotion
    holder: str | None
    on_step: Callable[[str], None]
    written: str = _NOTHING

    def write(self, checked: RegistryCheck) -> RegistryCheck:
        """Write everything that the verdict asks for; nothing in a dry run."""
        alias = self.promotion.alias if checked.passed else None
        if self.promotion.dry_run:
            return dataclasses.replace(checked, promoted=alias, promoted_from=None if alias is None else self.holder)
        try:
            checked = self._evidence(checked)
            self.on_step("Tagging the model")
            self._publish(checked)
            self.written = f"run {checked.run_id} and the version's tag were"
            return checked if alias is None else self._promoted(checked, alias)
        except (Exception, KeyboardInterrupt) as error:  # of the server, of the store of its artifacts, or of someone
            if isinstance(error, ValueError) and self.written == _NOTHING:  # it says itself what is wrong
                raise
            failed = f"the verdict ({checked.verdict}) could not be recorded"
            if isinstance(error, self._registry().AliasMovedError):
                failed = f"the verdict ({checked.verdict}) was recorded, but the alias was not moved"
            left = f"{failed}, {self.written} written"
            if isinstance(error, KeyboardInterrupt):
                raise KeyboardInterrupt(left) from error
            raise CouldNotCheckError(f"{left}: {one_line(error)}") from error

    def _registry(self) -> Any:
        from fitb_callbacks.integrations.mlflow import registry

        return registry

    def _evidence(self, checked: RegistryCheck) -> RegistryCheck:
        """The run that holds what the verdict rests on."""
        self.on_step("Recording the evidence")
        registry = self._registry()
        previous = previous_digest(self.client, self.model, checked.champion)
        user = registry.server_user(self.client)
        checked = dataclasses.replace(
            checked, provenance={**checked.provenance, "server_user": user, "previous_digest": previous}
        )
        with (
            registry.run_of_check(self.client, self.model) as run_id,
            tempfile.TemporaryDirectory(prefix="fitb-check-") as folder,
        ):
            self.written = f"part of run {run_id} was"
            pictures = write_evidence(checked.check, checked.as_dict(), Path(folder))
            digest = evidence_digest(Path(folder))
            registry.record(
                self.client,
                self.model,
                run_id,
                scores=checked.check.scores,
                champion_scores=checked.check.champion_scores or {},
                evidence=Path(folder),
                pictures=pictures,
                tags={"digest": digest, **_signed(digest), "verdict": checked.verdict},
            )
        self.written = f"run {run_id} was"
        page = registry.run_page(self.client, run_id)
        return dataclasses.replace(checked, run_id=run_id, page=page, digest=digest)

    def _publish(self, checked: RegistryCheck) -> None:
        """Say on the version's page what the verdict is, and why."""
        from fitb_callbacks.integrations.mlflow.description import ARTIFACTS

        said, verdict = checked.check.candidate.interpretation(checked.judge), checked.as_dict()
        text = version_description(verdict, said, evidence=f"{ARTIFACTS}/report.html")
        self._registry().publish(self.client, self.model, str(checked.run_id), verdict=version_tag(verdict), text=text)

    def _promoted(self, checked: RegistryCheck, alias: str) -> RegistryCheck:
        """Move the alias, and note it afterwards."""
        self.on_step("Moving the alias")
        registry, name, version = self._registry(), str(self.model.name), str(self.model.version)
        registry.move_alias(self.client, name, alias, version=version, expected=self.holder)
        self.written = f"run {checked.run_id}, the version's tag and the alias {alias} were"
        if self.holder != version:
            registry.note_promotion(self.client, name, version, alias, before=self.holder)
        return dataclasses.replace(checked, promoted=alias, promoted_from=self.holder)


def _signed(digest: str) -> dict[str, str]:
    signed = signature(digest)
    return {} if signed is None else {"signature": signed}
