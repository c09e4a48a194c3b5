"""The whole check of a registered model: find, load, probe, decide, record, promote."""

from __future__ import annotations

import dataclasses
import re
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fitb_callbacks.data.selection import ImageSelection
from fitb_callbacks.data.sources import ImageSet, open_images
from fitb_callbacks.gate.bootstrap import settings_difference
from fitb_callbacks.gate.description import version_description, version_tag
from fitb_callbacks.gate.evidence import (
    evidence_digest,
    previous_digest,
    provenance,
    signature,
    write_evidence,
)
from fitb_callbacks.gate.model import check_model
from fitb_callbacks.gate.own_training import OwnTraining, evidence_against, outcomes_on_own_images
from fitb_callbacks.gate.rules import RED_IN_TRAINING, Rules, default_rules
from fitb_callbacks.gate.verdict import ModelCheck, Outcome
from fitb_callbacks.integrations.probe_manifest import TrainingRecord, images_digest
from fitb_callbacks.models.checkpoints import load_checkpoint
from fitb_callbacks.models.logits import LogitsFn, label_by_label
from fitb_callbacks.probing.averaging import Progress
from fitb_callbacks.probing.probe import FillInBlanks
from fitb_callbacks.scoring.catalogue import METRICS
from fitb_callbacks.scoring.judges import StreamedJudge
from fitb_callbacks.scoring.judges.trusted import open_judge
from fitb_callbacks.utils.distributed import check_same
from fitb_callbacks.utils.imports import import_from_string
from fitb_callbacks.utils.messages import one_line

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from fitb_callbacks.integrations.mlflow.loading import LoadedModel
    from fitb_callbacks.integrations.mlflow.lookup import RegistryModel

__all__ = [
    "CouldNotCheckError",
    "Loading",
    "Promotion",
    "RegistryCheck",
    "TrainingScores",
    "Waiver",
    "check_registered",
]

_CHAMPION = "champion"

_IMAGES_PER_CLASS = 10

_NOTHING = "nothing was"  # written, in a sentence


class CouldNotCheckError(Exception):
    """There is no verdict, or it could not be recorded: the server is away, for example."""


@dataclass(frozen=True)
class Loading:
    """How models are loaded.

    Attributes:
        class_path: A checkpoint's class, as ``package.module:Class``.
        allow_pickle: Whether a model may be a pickle. Loading one runs whatever code is in it.
        logits: Function of a model and images ``(B, C, H, W)`` that returns the logits ``(B, classes)``, as
            ``package.module:function``; None where the probe finds them by itself.
        device: Where models run, as torch names it.
    """

    class_path: str | None = None
    allow_pickle: bool = False
    logits: str | None = None
    device: str = "cpu"

    @property
    def logits_fn(self) -> LogitsFn | None:
        """The function itself."""
        if self.logits is None:
            return None
        function: LogitsFn = import_from_string(self.logits, argument="--logits")
        return function


@dataclass(frozen=True)
class Waiver:
    """A person's decision to let a refused model through.

    Attributes:
        name: Who decided.
        reason: Why.
    """

    name: str
    reason: str

    def __post_init__(self) -> None:
        for key in ("name", "reason"):
            if not getattr(self, key).strip():
                raise ValueError(f"a waiver must have a {key}: --waive NAME --reason TEXT")


@dataclass(frozen=True)
class Promotion:
    """What to do with a model that passes.

    Attributes:
        alias: Alias that shall point to its version; None for none.
        waiver: Lets a refused model through, too.
        dry_run: Whether to write nothing.
    """

    alias: str | None = None
    waiver: Waiver | None = None
    dry_run: bool = False

    def __post_init__(self) -> None:
        alias = self.alias
        if alias is not None and (
            not re.fullmatch(r"[\w\-]{1,255}", alias) or alias == "latest" or re.fullmatch(r"[vV]\d+", alias)
        ):
            raise ValueError(
                f"an alias must be of letters, digits, _ and -, and neither 'latest' nor like 'v1'; got {alias!r}"
            )


@dataclass(frozen=True)
class TrainingScores:
    """What the callback found in training.

    Attributes:
        scores: Score to value, those that can be compared with the check's; empty if none can.
        differs: Why they cannot be compared, empty if they can.
    """

    scores: Mapping[str, float]
    differs: str


@dataclass(frozen=True, eq=False)
class RegistryCheck:
    """The verdict on a registered model, and where it is recorded.

    Attributes:
        model: Address of the model, with its version.
        champion: Address of the champion's version; None without one.
        check: The verdict.
        data: Where the images are from.
        judge: Who judged the prototypes, in words; None if nobody did.
        training: What training saw; None if its run has no record of a probe.
        own_training: What the candidate's training run has to say against it; None if it has no such run.
        skipped: Rules that could not be applied, since there is no champion yet.
        provenance: On what and by whom it was checked; see `fitb_callbacks.gate.evidence.provenance`.
        waiver: Who let a refused model through; None if nobody did.
        run_id: The MLflow run that holds the evidence; None if nothing was written.
        page: Where the server's pages show that run; None likewise.
        digest: SHA-256 of the evidence's ``SHA256SUMS``; None likewise.
        promoted: Alias that was moved (in a dry run: that would have been); None if it was not.
        promoted_from: Version that it pointed to before; None if there was none.
    """

    model: str
    champion: str | None
    check: ModelCheck
    data: str = ""
    judge: str | None = None
    training: TrainingScores | None = None
    own_training: OwnTraining | None = None
    skipped: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    waiver: Waiver | None = None
    run_id: str | None = None
    page: str | None = None
    digest: str | None = None
    promoted: str | None = None
    promoted_from: str | None = None

    @property
    def passed(self) -> bool:
        """Whether the model is let through: every rule passes, or someone waived them."""
        return self.verdict in ("passed", "waived")

    @property
    def verdict(self) -> str:
        """In a word: "passed", "refused", "open" if these images cannot tell, or "waived"."""
        return "waived" if self.waiver is not None and not self.check.passed else self.check.verdict

    def as_dict(self) -> dict[str, Any]:
        """Everything but the pictures, as JSON types."""
        return {
            "model": self.model,
            "champion": self.champion,
            **self.check.as_dict(),
            "verdict": self.verdict,
            "skipped": list(self.skipped),
            "judge": self.judge,
            "training": None if self.training is None else dataclasses.asdict(self.training),
            "own_training": None if self.own_training is None else dataclasses.asdict(self.own_training),
            "waiver": None if self.waiver is None else dataclasses.asdict(self.waiver),
            "provenance": dict(self.provenance),
            "run_id": self.run_id,
            "digest": self.digest,
            "promoted": self.promoted,
            "promoted_from": self.promoted_from,
        }


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
    remote = any(_is_address(address) for address in (model, rules.champion or ""))
    try:
        with _client(tracking_uri) if remote else nullcontext() as client:
            on_step("Looking up the model")
            candidate = _find(client, model)
            if promotion.alias is not None and (candidate.registered is None or candidate.registered.name is None):
                raise ValueError(f"--promote goes with a version of a registered model; {model} is none")
            champion, holder = _find_champion(client, candidate, rules, promotion)
            check_same("the models", (candidate.address, champion and champion.address), share[1])
            applied, skipped = _applicable(rules, champion)
            by_default = not rules.rules
            checked = _Check(candidate, champion, applied, by_default, loading, share, on_step, progress).run()
            checked = dataclasses.replace(checked, skipped=skipped, waiver=promotion.waiver)
            if client is None or candidate.registered is None or share[0] > 0:
                return checked
            return _Recorder(client, candidate.registered, promotion, holder, on_step).write(checked)
    except ConnectionError as error:
        raise CouldNotCheckError(str(error)) from error


@dataclass(frozen=True)
class _Found:
    """A model that was found, and is not loaded yet."""

    address: str
    registered: RegistryModel | None = None
    record: TrainingRecord | None = None
    red: str = ""  # the last verdict of the training run, if it is red
    training_scores: Mapping[str, float] = field(default_factory=dict)
    record_is_lost: bool = False  # the training run has scores of the callback, and nothing that it stored beside them


def _check_arguments(model: str, rules: Rules, promotion: Promotion) -> None:
    """Refuse what can be seen to be wrong before anything is read."""
    _ = rules.standardization  # raises
    known = {each.name for each in fields(FillInBlanks)}
    if unknown := sorted(set(rules.settings) - known):
        raise ValueError(f"the probe has no setting {', '.join(unknown)}; it has {', '.join(sorted(known))}")
    FillInBlanks(**rules.settings)
    if promotion.alias is not None and not model.startswith("models:"):
        raise ValueError(f"--promote goes with a version of a registered model; {model} is none")


def _is_address(text: str) -> bool:
    return text.startswith(("models:", "runs:"))


def _client(tracking_uri: str | None) -> AbstractContextManager[MlflowClient]:
    from fitb_callbacks.integrations.mlflow.client import connected

    client: AbstractContextManager[MlflowClient] = connected(tracking_uri)
    return client


def _find(client: MlflowClient | None, address: str, *, same_name_as: _Found | None = None) -> _Found:
    if Path(address).is_file():
        return _Found(address)
    registered = None if same_name_as is None else same_name_as.registered
    if client is None or not (_is_address(address) or registered is not None):
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
        return _Found(found.address, found, red=red, record_is_lost=has_probe_scores(client, found))
    return _Found(found.address, found, record, red, training_scores(client, found))


def _find_champion(
    client: MlflowClient | None, candidate: _Found, rules: Rules, promotion: Promotion
) -> tuple[_Found | None, str | None]:
    """The champion, and the version that the alias to be moved points to; None for each where there is none."""
    registered, alias, named = candidate.registered, promotion.alias, rules.champion
    if client is None or registered is None or registered.name is None:
        return None if named is None else _find(client, named, same_name_as=candidate), None
    from fitb_callbacks.integrations.mlflow.registry import alias_holder

    holder = None if alias is None else alias_holder(client, registered.name, alias)
    if named is None:
        version = holder or alias_holder(client, registered.name, _CHAMPION)
        named = None if version in (None, registered.version) else version
    elif named == alias and holder is None:
        named = None  # the first version
    champion = None if named is None else _find(client, named, same_name_as=candidate)
    if champion is not None and alias is not None and rules.champion == alias:
        moved = champion.address != f"models:/{registered.name}/{holder}"
        holder = champion.registered.version if moved and champion.registered is not None else holder
    return champion, holder


def _applicable(rules: Rules, champion: _Found | None) -> tuple[Rules, tuple[str, ...]]:
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

    candidate: _Found
    champion: _Found | None
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
        own, against = self._own_training(loaded, other, check, probe)
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

    def _load(self, found: _Found) -> LoadedModel:
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
            chosen = dataclasses.replace(chosen, images=standardization(chosen.images))
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
        self, loaded: LoadedModel, other: LoadedModel | None, check: ModelCheck, probe: FillInBlanks
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


@dataclass
class _Recorder:
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
