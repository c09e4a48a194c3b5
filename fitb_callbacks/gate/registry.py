"""The whole check of a registered model: find, load, probe, judge, record, promote."""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fitb_callbacks.data.batches import batches_of
from fitb_callbacks.data.sources import ImageSet, open_images
from fitb_callbacks.gate.bootstrap import settings_difference
from fitb_callbacks.gate.junit import junit_xml
from fitb_callbacks.gate.model import ModelCheck, check_model
from fitb_callbacks.gate.rules import Rules
from fitb_callbacks.integrations.probe_manifest import TrainingRecord, images_digest
from fitb_callbacks.models.checkpoints import load_checkpoint
from fitb_callbacks.probing.averaging import Progress
from fitb_callbacks.probing.probe import FillInBlanks
from fitb_callbacks.scoring.catalogue import METRICS
from fitb_callbacks.scoring.judges.centroid import CentroidJudge
from fitb_callbacks.utils.messages import one_line

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from fitb_callbacks.integrations.mlflow.registry import LoadedModel, RegistryModel

__all__ = ["CouldNotCheckError", "RegistryCheck", "TrainingScores", "check_registered", "write_evidence"]

_IMAGES_PER_CLASS = 10
_ALL = 2**31


class CouldNotCheckError(Exception):
    """There is no verdict, or it could not be recorded: a server that is away, a model that cannot be loaded."""


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
        reference: Address of the reference version; None without one.
        check: The verdict.
        judge: Who judged the prototypes, in words; None if nobody did.
        training: What training saw; None if its run has no record of a probe.
        run_id: The MLflow run that holds the evidence; None if nothing was written.
        digest: SHA-256 of the evidence's ``SHA256SUMS``; None likewise.
        promoted: Alias that was moved (in a dry run: that would have been); None if it was not.
        promoted_from: Version that it pointed to before; None if there was none.
    """

    model: str
    reference: str | None
    check: ModelCheck
    judge: str | None = None
    training: TrainingScores | None = None
    run_id: str | None = None
    digest: str | None = None
    promoted: str | None = None
    promoted_from: str | None = None

    @property
    def passed(self) -> bool:
        """Whether every rule is kept."""
        return self.check.passed

    def as_dict(self) -> dict[str, Any]:
        """Everything but the pictures, as JSON types."""
        return {
            "model": self.model,
            "reference": self.reference,
            **self.check.as_dict(),
            "judge": self.judge,
            "training": None if self.training is None else dataclasses.asdict(self.training),
            "run_id": self.run_id,
            "digest": self.digest,
            "promoted": self.promoted,
            "promoted_from": self.promoted_from,
        }


def check_registered(
    model: str,
    rules: Rules,
    *,
    class_path: str | None = None,
    allow_pickle: bool = False,
    tracking_uri: str | None = None,
    promote: str | None = None,
    dry_run: bool = False,
    on_step: Callable[[str], None] = lambda step: None,
    progress: Progress | None = None,
) -> RegistryCheck:
    """Check a model of MLflow's registry, or a checkpoint file, by rules; record the verdict; move an alias on a pass.

    The probe takes the settings that the training run stored, changed by those in the rules, and the defaults for the
    rest. Nothing is written before everything is judged; tags of the version are written after the run that holds the
    evidence, the alias after the tags. Of a checkpoint file nothing is written at all.

    Args:
        model: ``models:/NAME/VERSION``, ``models:/NAME@ALIAS``, ``models:/MODEL_ID``, ``runs:/RUN_ID/NAME``, or a
            checkpoint file.
        rules: What it has to show, on which images, against which version.
        class_path: A checkpoint's class, as ``package.module:Class``.
        allow_pickle: Whether a model may be a pickle. Loading one runs whatever code is in it.
        tracking_uri: Of MLflow; None takes ``MLFLOW_TRACKING_URI`` or the process's.
        promote: Alias that shall point to this version if it passes.
        dry_run: Whether to write nothing.
        on_step: Called with what is done next, in words.
        progress: As for `FillInBlanks.probe`, once for each model.

    Raises:
        ValueError: If an argument, a rule, a model or the data is wrong.
        FileNotFoundError: If a file does not exist.
        CouldNotCheckError: If the server is away, or the verdict cannot be recorded.
    """
    _check_arguments(model, rules, promote)
    remote = any(_is_address(address) for address in (model, rules.against or ""))
    try:
        with _client(tracking_uri) if remote else nullcontext() as client:
            on_step("Looking up the model")
            candidate = _find(client, model)
            reference = None if rules.against is None else _find(client, rules.against, same_name_as=candidate)
            if promote is not None and (candidate.registered is None or candidate.registered.name is None):
                raise ValueError(f"--promote goes with a version of a registered model; {model} is none")
            checked = _judged(candidate, reference, rules, class_path, allow_pickle, on_step, progress)
            if client is None or candidate.registered is None:
                return checked
            return _recorded(client, candidate.registered, checked, rules, promote, dry_run, on_step)
    except ConnectionError as error:
        raise CouldNotCheckError(str(error)) from error


@dataclass(frozen=True)
class _Found:
    """A model that was found, and not loaded yet."""

    address: str
    registered: RegistryModel | None = None
    record: TrainingRecord | None = None
    training_scores: Mapping[str, float] = field(default_factory=dict)


def _check_arguments(model: str, rules: Rules, promote: str | None) -> None:
    """Refuse what can be seen to be wrong without looking at anything."""
    if not rules.rules:
        raise ValueError("there must be at least one rule: --min, --max, --max-drop, or a file with --rules")
    if rules.data is None:
        raise ValueError("there must be images to probe on: --data, or data in the file of rules")
    known = {each.name for each in fields(FillInBlanks)}
    if unknown := sorted(set(rules.settings) - known):
        raise ValueError(f"the probe has no setting {', '.join(unknown)}; it has {', '.join(sorted(known))}")
    FillInBlanks(**rules.settings)
    for rule in rules.rules:
        if rule.needs_reference and rules.against is None:
            raise ValueError(f"the rule '{rule}' needs a reference version: --against")
    if promote is not None and not model.startswith("models:"):
        raise ValueError(f"--promote goes with a version of a registered model; {model} is none")


def _is_address(text: str) -> bool:
    return text.startswith(("models:", "runs:"))


def _client(tracking_uri: str | None) -> AbstractContextManager[MlflowClient]:
    from fitb_callbacks.integrations.mlflow.registry import connected

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
    from fitb_callbacks.integrations.mlflow.registry import find_model, training_record, training_scores

    found = find_model(client, address, same_name_as=registered)
    record = training_record(client, found)
    return _Found(found.address, found, record, {} if record is None else training_scores(client, found))


def _load(found: _Found, class_path: str | None, allow_pickle: bool) -> LoadedModel:
    from fitb_callbacks.integrations.mlflow.registry import LoadedModel, load_model

    if found.registered is not None:
        return load_model(found.registered, class_path=class_path, allow_pickle=allow_pickle)
    if class_path is None:
        raise ValueError(f"{found.address} is a checkpoint; name its class with --class package.module:Class")
    return LoadedModel(load_checkpoint(found.address, class_path, allow_pickle=allow_pickle), None)


def _judged(
    candidate: _Found,
    reference: _Found | None,
    rules: Rules,
    class_path: str | None,
    allow_pickle: bool,
    on_step: Callable[[str], None],
    progress: Progress | None,
) -> RegistryCheck:
    probe = _probe(candidate, reference, rules)
    record = candidate.record
    if rules.trusted is None and (record is None or record.judge is None):
        for rule in rules.rules:
            if rule.needs_judge:
                raise ValueError(f"the rule '{rule}' needs a judge: trusted images for its class means, with --trusted")
    on_step("Loading the model")
    loaded = _load(candidate, class_path, allow_pickle)
    other = None if reference is None else _load(reference, class_path, allow_pickle)
    on_step("Reading the images")
    assert rules.data is not None
    per_class, max_images = rules.images_per_class, None
    if per_class is None and record is not None:
        per_class, max_images = record.images_per_class, record.max_images
    chosen = _images(rules.data, loaded, per_class or _IMAGES_PER_CLASS, max_images)
    judge, words = _judge(rules, record, loaded, chosen)
    on_step("Probing the model" if other is None else "Probing both models")
    check = check_model(
        loaded.module,
        chosen.images,
        chosen.labels,
        rules.rules,
        probe=probe,
        reference=None if other is None else other.module,
        judge=judge,
        certain=rules.certain,
        class_names=chosen.class_names,
        progress=progress,
    )
    return RegistryCheck(
        model=candidate.address,
        reference=None if reference is None else reference.address,
        check=check,
        judge=words,
        training=_training(candidate, check, rules),
    )


def _probe(candidate: _Found, reference: _Found | None, rules: Rules) -> FillInBlanks:
    """The settings of the training run, changed by the rules'."""
    stored = {} if candidate.record is None else dict(candidate.record.settings)
    if reference is not None and reference.record is not None and candidate.record is not None:
        theirs = {**reference.record.settings, **rules.settings}
        if different := settings_difference({**stored, **rules.settings}, theirs):
            raise ValueError(
                f"the training runs of {candidate.address} and {reference.address} probed with different settings: "
                f"{different}. Say which with --set"
            )
    known = {each.name for each in fields(FillInBlanks)}
    if unknown := sorted(set(stored) - known):
        raise ValueError(f"the training run of {candidate.address} stored settings unknown here: {', '.join(unknown)}")
    return FillInBlanks(**{**stored, **rules.settings})


def _images(data: str, loaded: LoadedModel, per_class: int, max_images: int | None) -> ImageSet:
    chosen = open_images(data, per_class=per_class, max_images=max_images, image_shape=loaded.image_shape)
    shape = tuple(chosen.images.shape[1:])
    if loaded.image_shape is not None and shape != loaded.image_shape:
        raise ValueError(f"the model's signature wants images of {loaded.image_shape}; {data} holds {shape}")
    return chosen


def _judge(
    rules: Rules, record: TrainingRecord | None, loaded: LoadedModel, chosen: ImageSet
) -> tuple[CentroidJudge | None, str | None]:
    """Class means of trusted images if there are any, else those of the training."""
    if rules.trusted is None:
        judge = None if record is None else record.judge
        return judge, None if judge is None else "class means of the training, which share its shortcuts"
    trusted = open_images(rules.trusted, per_class=_ALL, image_shape=loaded.image_shape)
    shape = tuple(chosen.images.shape[1:])
    if tuple(trusted.images.shape[1:]) != shape:
        raise ValueError(f"--trusted must hold images of {shape}, as --data; got {tuple(trusted.images.shape[1:])}")
    judge = CentroidJudge()
    for images, labels in batches_of((trusted.images, trusted.labels), name="--trusted"):
        judge.update(images, labels)
    return judge, f"class means of {rules.trusted}"


def _training(candidate: _Found, check: ModelCheck, rules: Rules) -> TrainingScores | None:
    """What training saw, as far as it can be compared with what the check saw."""
    record, result, found = candidate.record, check.candidate, candidate.training_scores
    if record is None:
        return None
    if different := settings_difference(record.resolved, result.settings):
        return TrainingScores({}, f"training probed with other settings: {different}")
    if record.images != images_digest(result.images, result.labels):
        return TrainingScores({}, "training probed other images")
    other_judge = rules.trusted is not None
    comparable = [name for name in result.metrics if name in found and not (METRICS[name].needs_judge and other_judge)]
    return TrainingScores({name: found[name] for name in comparable}, "")


def _recorded(
    client: MlflowClient,
    model: RegistryModel,
    checked: RegistryCheck,
    rules: Rules,
    promote: str | None,
    dry_run: bool,
    on_step: Callable[[str], None],
) -> RegistryCheck:
    """Write the evidence, then the tags, then the alias."""
    from fitb_callbacks.integrations.mlflow import registry

    verdict = "passed" if checked.passed else "refused"
    alias = promote if checked.passed else None
    written = "nothing"
    try:
        before = None if alias is None else registry.holder(client, str(model.name), alias)
        if alias is not None and rules.against == alias and checked.reference != f"models:/{model.name}/{before}":
            raise ValueError(f"{alias} moved to version {before} during the check; run it again")
        checked = dataclasses.replace(checked, promoted=alias, promoted_from=before)
        if dry_run:
            return checked
        on_step("Recording the evidence")
        with tempfile.TemporaryDirectory(prefix="fitb-check-") as folder:
            pictures = write_evidence(checked, Path(folder))
            digest = registry.evidence_digest(Path(folder))
            run_id = registry.record(
                client,
                model,
                scores=checked.check.scores,
                reference_scores=checked.check.reference_scores or {},
                evidence=Path(folder),
                pictures=pictures,
                tags={"fitb.model": checked.model, "fitb.verdict": verdict, "fitb.digest": digest},
            )
        written = f"the run {run_id}"
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        scores = _of_rules(checked.check, checked.check.scores)
        details = {"scores": scores, "run_id": run_id, "digest": digest, "time": now}
        if checked.training is not None:
            details["training"] = checked.training.differs or _of_rules(checked.check, checked.training.scores)
        on_step("Tagging the model")
        registry.tag(client, model, details, verdict)
        if alias is not None:
            on_step("Moving the alias")
            written = f"the run {run_id} and the version's tags"
            registry.promote(client, model, alias)
    except (ValueError, KeyboardInterrupt):
        raise
    except Exception as error:  # of the server, or of the store of its artifacts
        raise CouldNotCheckError(
            f"the verdict ({verdict}) could not be recorded, {written} was written: {one_line(error)}"
        ) from error
    return dataclasses.replace(checked, run_id=run_id, digest=digest)


def _of_rules(check: ModelCheck, scores: Mapping[str, float]) -> str:
    """The scores that the rules are about, as JSON: short enough for the page of a version."""
    keys = dict.fromkeys(outcome.rule.key for outcome in check.outcomes)
    return json.dumps({key: round(scores[key], 6) for key in keys if key in scores})


def write_evidence(checked: RegistryCheck, folder: Path) -> dict[str, Any]:
    """Write what a verdict rests on into a folder.

    Args:
        checked: The verdict.
        folder: Where ``verdict.json``, ``settings.json``, ``junit.xml``, the grids and ``report.html`` go.

    Returns:
        Name to picture of the grids, height x width x 3, uint8.
    """
    from PIL import Image

    from fitb_callbacks.integrations.record import make_record
    from fitb_callbacks.integrations.report.page import render_report
    from fitb_callbacks.plotting.prototypes import prototype_grid

    pictures = {"prototypes": prototype_grid(checked.check.candidate.cells())}
    if checked.check.reference is not None:
        pictures["prototypes of the reference"] = prototype_grid(checked.check.reference.cells())
    for name, picture in pictures.items():
        Image.fromarray(picture).save(folder / f"{name.replace(' ', '-')}.png")
    (folder / "verdict.json").write_text(json.dumps(checked.as_dict(), indent=1, allow_nan=False))
    (folder / "settings.json").write_text(json.dumps(dict(checked.check.candidate.settings), indent=1))
    (folder / "junit.xml").write_text(junit_xml(checked.model, checked.check.outcomes))
    record = make_record(checked.check.candidate, judge=checked.judge)
    (folder / "report.html").write_text(render_report([record], title=checked.model), encoding="utf-8")
    return pictures
