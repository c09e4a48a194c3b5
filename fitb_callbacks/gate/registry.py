"""The whole check of a registered model: find, load, probe, decide, record, promote."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from fitb_callbacks.data.selection import ImageSelection
from fitb_callbacks.data.sources import ImageSet, check_scale, open_images
from fitb_callbacks.gate.bootstrap import settings_difference
from fitb_callbacks.gate.evidence import provenance
from fitb_callbacks.gate.finding import Found, find, find_champion, is_address
from fitb_callbacks.gate.model import check_model
from fitb_callbacks.gate.own_training import OwnTraining, evidence_against, outcomes_on_own_images
from fitb_callbacks.gate.recording import Recorder
from fitb_callbacks.gate.registry_check import (
    CouldNotCheckError,
    Loading,
    Promotion,
    RegistryCheck,
    TrainingScores,
    Waiver,
)
from fitb_callbacks.gate.rules import RED_IN_TRAINING, Rules, default_rules
from fitb_callbacks.gate.verdict import ModelCheck, Outcome
from fitb_callbacks.integrations.probe_manifest import TrainingRecord, images_digest
from fitb_callbacks.models.checkpoints import load_checkpoint
from fitb_callbacks.models.logits import label_by_label
from fitb_callbacks.probing.averaging import Progress
from fitb_callbacks.probing.probe import FillInBlanks
from fitb_callbacks.scoring.catalogue import METRICS
from fitb_callbacks.scoring.judges import StreamedJudge
from fitb_callbacks.scoring.judges.trusted import open_judge
from fitb_callbacks.utils.distributed import check_same

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from fitb_callbacks.integrations.mlflow.loading import LoadedModel

__all__ = [
    "CouldNotCheckError",
    "Loading",
    "Promotion",
    "RegistryCheck",
    "TrainingScores",
    "Waiver",
    "check_registered",
]

_IMAGES_PER_CLASS = 10


def check_registered(  # noqa: PLR0913 - what, by which rules, how, where, and who wants to know
    model: str,
    rules: Rules,
    *,
    loading: Loading = Loading(),
    promotion: Promotion = Promotion(),
    tracking_uri: str | None = None,
    share: tuple[int, int] = (0, 1),
    on_step: Callable[[str], None] = lambda step: None,
    progress: Progress | None = None,
) -> RegistryCheck:
    """Check a model of MLflow's registry, or a checkpoint file; record the verdict; move an alias on a pass.

    The probe takes the settings of the rules, then those that the champion's training run stored, then the defaults:
    never those of the candidate, which could choose an easy probe for itself. Images that the rules do not name are
    those that the champion's training run recorded, and for a first version its own. What its own training recorded can
    also refuse a candidate (`fitb_callbacks.gate.own_training`), and never lets one through. Nothing is written before
    all is decided. The version's tag is written after the run that holds the evidence, and the alias moves after the
    tag. Nothing at all is written for a checkpoint file.

    Without a named champion, the model is compared with the version that the alias "champion" points to, if there is
    one. Where the alias to be moved does not exist yet, this is the first version: rules that need a champion are
    skipped, and the verdict lists them.

    Args:
        model: ``models:/NAME/VERSION``, ``models:/NAME@ALIAS``, ``models:/MODEL_ID``, ``runs:/RUN_ID/NAME``, or a
            checkpoint file.
        rules: What the model has to show, on which images, against which champion.
        loading: How models are loaded.
        promotion: What to do with a model that passes.
        tracking_uri: Address of MLflow; None takes ``MLFLOW_TRACKING_URI`` or the process's own.
        share: This process's rank and the number of processes. They share the masks; the first one writes.
        on_step: Called with the next step, in words.
        progress: As for `FillInBlanks.probe`, once for each model.

    Raises:
        ValueError: If an argument, a rule, a model or the data is wrong.
        FileNotFoundError: If a file does not exist.
        CouldNotCheckError: If the server is away, or the verdict cannot be recorded.
    """
    _check_arguments(model, rules, promotion)
    remote = any(is_address(address) for address in (model, rules.champion or ""))
    try:
        with _client(tracking_uri) if remote else nullcontext() as client:
            on_step("Looking up the model")
            candidate = find(client, model)
            if promotion.alias is not None and (candidate.registered is None or candidate.registered.name is None):
                raise ValueError(f"--promote goes with a version of a registered model; {model} is none")
            champion, holder = find_champion(client, candidate, rules, promotion)
            check_same("the models", (candidate.address, champion and champion.address), share[1])
            applied, skipped = _applicable(rules, champion)
            by_default = not rules.rules
            checked = _Check(candidate, champion, applied, by_default, loading, share, on_step, progress).run()
            checked = dataclasses.replace(checked, skipped=skipped, waiver=promotion.waiver)
            if client is None or candidate.registered is None or share[0] > 0:
                return checked
            return Recorder(client, candidate.registered, promotion, holder, on_step).write(checked)
    except ConnectionError as error:
        raise CouldNotCheckError(str(error)) from error


def _check_arguments(model: str, rules: Rules, promotion: Promotion) -> None:
    """Refuse what can be seen to be wrong before anything is read."""
    _ = rules.standardization  # raises
    known = {each.name for each in fields(FillInBlanks)}
    if unknown := sorted(set(rules.settings) - known):
        raise ValueError(f"the probe has no setting {', '.join(unknown)}; it has {', '.join(sorted(known))}")
    FillInBlanks(**rules.settings)
    if promotion.alias is not None and not model.startswith("models:"):
        raise ValueError(f"--promote goes with a version of a registered model; {model} is none")


def _client(tracking_uri: str | None) -> AbstractContextManager[MlflowClient]:
    from fitb_callbacks.integrations.mlflow.client import connected

    client: AbstractContextManager[MlflowClient] = connected(tracking_uri)
    return client


def _applicable(rules: Rules, champion: Found | None) -> tuple[Rules, tuple[str, ...]]:
    """The rules that can be applied, and those that cannot, since there is no champion yet."""
    if not rules.rules:
        chosen = default_rules(champion=champion is not None, trusted=rules.trusted is not None)
        return dataclasses.replace(rules, rules=chosen), ()
    if champion is not None:
        return rules, ()
    skipped = tuple(str(rule) for rule in rules.rules if rule.needs_champion)
    if skipped and rules.champion is None:
        raise ValueError(f"the rule '{skipped[0]}' needs a champion: --champion")
    applied = tuple(rule for rule in rules.rules if not rule.needs_champion)
    if not applied:
        applied = default_rules(champion=False, trusted=rules.trusted is not None)
    return dataclasses.replace(rules, rules=applied), skipped


@dataclass(frozen=True)
class _Check:
    """The part of a check that reads and decides, and writes nothing."""

    candidate: Found
    champion: Found | None
    rules: Rules
    by_default: bool  # whether nobody has written rules
    loading: Loading
    share: tuple[int, int]
    on_step: Callable[[str], None]
    progress: Progress | None

    def run(self) -> RegistryCheck:
        """Load, probe, decide."""
        probe, recorded = self._probe(), self._recorded()
        if self.rules.trusted is None and self._stored_judge is None:
            for rule in self.rules.rules:
                if rule.needs_judge:
                    lost = self.champion is not None and self.champion.record_is_lost
                    gone = "that of the champion's training is gone from the artifacts of its run; " if lost else ""
                    raise ValueError(f"the rule '{rule}' needs a judge: {gone}give it trusted images, with --trusted")
        self.on_step("Loading the model")
        loaded = self._load(self.candidate)
        other = None if self.champion is None else self._load(self.champion)
        self.on_step("Reading the images")
        chosen, source = recorded or self._images(loaded)
        judge, words = self._judge(chosen)
        self.on_step("Probing the model" if other is None else "Probing both models")
        check = check_model(
            loaded.module.to(self.loading.device),
            chosen.images,
            chosen.labels,
            [rule for rule in self.rules.rules if rule.key != RED_IN_TRAINING],
            probe=probe,
            champion=None if other is None else other.module.to(self.loading.device),
            judge=judge,
            certain=self.rules.certain,
            class_names=chosen.class_names,
            logits_fn=label_by_label(self.loading.logits_fn) if chosen.independent else self.loading.logits_fn,
            share=self.share,
            progress=self.progress,
        )
        own, against = self._own_training(loaded, other, check, probe, judge)
        return RegistryCheck(
            model=self.candidate.address,
            champion=None if self.champion is None else self.champion.address,
            check=dataclasses.replace(check, outcomes=(*check.outcomes, *against)),
            judge=words,
            training=self._training(check),
            own_training=own,
            data=source,
            provenance=provenance(check.candidate, self.rules, data=source, model_files=loaded.digest),
        )

    @property
    def _record(self) -> TrainingRecord | None:
        """What the champion's training run stored of its probe."""
        return None if self.champion is None else self.champion.record

    @property
    def _stored_judge(self) -> StreamedJudge | None:
        return None if self._record is None else self._record.judge

    def _probe(self) -> FillInBlanks:
        """The rules' settings, then those of the champion's training run; but what is right, the labels say."""
        stored = {} if self._record is None else dict(self._record.settings)
        if unknown := sorted(set(stored) - {each.name for each in fields(FillInBlanks)}):
            raise ValueError(f"the champion's training run stored settings unknown here: {', '.join(unknown)}")
        return FillInBlanks(**{**stored, "target": "label", **self.rules.settings})

    def _load(self, found: Found) -> LoadedModel:
        from fitb_callbacks.integrations.mlflow.loading import LoadedModel, files_digest, load_model

        class_path, allow_pickle = self.loading.class_path, self.loading.allow_pickle
        if found.registered is not None:
            return load_model(found.registered, class_path=class_path, allow_pickle=allow_pickle)
        if class_path is None:
            raise ValueError(f"{found.address} is a checkpoint; name its class with --class package.module:Class")
        module = load_checkpoint(found.address, class_path, allow_pickle=allow_pickle)
        return LoadedModel(module, None, files_digest(Path(found.address)))

    def _recorded(self) -> tuple[ImageSet, str] | None:
        """The images that a training run recorded, and which one's they are; None if the rules name others."""
        if self.rules.data is not None:
            return None
        found = self.candidate if self.champion is None else self.champion
        data = None if found.record is None else found.record.data
        if data is None:
            gone = "recorded some that are gone from its run's artifacts" if found.record_is_lost else "recorded none"
            raise ValueError(
                "there must be images to probe on: --data, or data in the file of rules; the training of "
                f"{found.address} {gone}"
            )
        if found.record is not None and found.record.settings.get("target") == "predicted":
            raise ValueError(
                f"the training of {found.address} recorded its images with the model's own answers as labels "
                "(target=predicted), by which every model would be right: give images with labels, with --data"
            )
        if self.rules.standardization is not None:
            raise ValueError("mean and std go with --data; recorded images are as the model takes them")
        return self._first(data), f"recorded in the training of {found.address}"

    def _first(self, data: ImageSet) -> ImageSet:
        """The first images of each class, as many as the rules say."""
        chosen = ImageSelection(per_class=self.rules.images_per_class or 2**31, max_images=2**31)
        chosen.offer(data.images, data.labels)
        return ImageSet(chosen.images, chosen.labels, data.class_names, data.independent)

    def _images(self, loaded: LoadedModel) -> tuple[ImageSet, str]:
        data, per_class, max_images = self.rules.data, self.rules.images_per_class, None
        assert data is not None
        if per_class is None and self._record is not None:
            per_class, max_images = self._record.images_per_class, self._record.max_images
        per_class = per_class or _IMAGES_PER_CLASS
        chosen = open_images(data, per_class=per_class, max_images=max_images, image_shape=loaded.image_shape)
        shape = tuple(chosen.images.shape[1:])
        if loaded.image_shape is not None and shape != loaded.image_shape:
            raise ValueError(f"the model's signature wants images of {loaded.image_shape}; {data} holds {shape}")
        if (standardization := self.rules.standardization) is not None:
            return dataclasses.replace(chosen, images=standardization(chosen.images)), data
        for found in (self.champion, self.candidate):
            if found is not None and found.record is not None and found.record.data is not None:
                check_scale(chosen.images, data, found.record.data.images, f"the training of {found.address}")
                break
        return chosen, data

    def _judge(self, chosen: ImageSet) -> tuple[StreamedJudge | None, str | None]:
        """A judge of trusted images if there are any, otherwise that of the champion's training."""
        if self.rules.trusted is None:
            judge = self._stored_judge
            shared = "the champion's training images, whose shortcuts it shares"
            return judge, None if judge is None else f"{judge.name} on {shared}"
        judge = open_judge(self.rules.trusted, chosen, standardization=self.rules.standardization)
        return judge, f"{judge.name} on {self.rules.trusted}"

    def _own_training(
        self,
        loaded: LoadedModel,
        other: LoadedModel | None,
        check: ModelCheck,
        probe: FillInBlanks,
        judge: StreamedJudge | None,
    ) -> tuple[OwnTraining | None, tuple[Outcome, ...]]:
        """What the candidate's own training says, and the outcomes that come of it."""
        found = self.candidate
        if found.registered is None or found.registered.run_id is None:
            return None, ()

        def ask(own: ImageSet) -> tuple[Outcome, ...]:
            self.on_step("Probing the model on the images of its own training")
            return outcomes_on_own_images(
                loaded.module,
                own,
                self.rules.rules,
                probe=probe,
                champion=None if other is None else other.module,
                judge=None if judge is None or judge.reference is None else judge,
                logits_fn=label_by_label(self.loading.logits_fn) if own.independent else self.loading.logits_fn,
                share=self.share,
                progress=self.progress,
            )

        recorded = None if found.record is None or found.record.data is None else self._first(found.record.data)
        return evidence_against(
            recorded, check.candidate, found.red, self.rules.rules, by_default=self.by_default, ask=ask
        )

    def _training(self, check: ModelCheck) -> TrainingScores | None:
        """What training saw of the candidate, as far as it can be compared with what the check saw."""
        record, result, found = self.candidate.record, check.candidate, self.candidate.training_scores
        if record is None:
            return None
        if different := settings_difference(record.resolved, result.settings):
            return TrainingScores({}, f"training probed with other settings: {different}")
        if record.images != images_digest(result.images, result.labels):
            return TrainingScores({}, "training probed other images")
        same = [name for name in result.metrics if name in found and not METRICS[name].needs_judge]
        return TrainingScores({name: found[name] for name in same}, "")
