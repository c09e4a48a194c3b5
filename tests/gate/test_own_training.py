"""What a candidate's own training says: it can refuse the candidate, and never lets it through."""

import json
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.loggers import MLFlowLogger
from mlflow import MlflowClient
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from exported import log_exported
from fitb_callbacks import FillInBlanks
from fitb_callbacks.data.sources import ImageSet
from fitb_callbacks.gate.model import check_model
from fitb_callbacks.gate.own_training import ON_OWN_IMAGES, evidence_against, outcomes_on_own_images
from fitb_callbacks.gate.registry import Promotion, check_registered
from fitb_callbacks.gate.rules import Rule, Rules, default_rules
from fitb_callbacks.integrations.probe_manifest import images_digest, write_record
from mlflow_store import new_store
from quick import fitb, quick_callback, quiet_trainer
from small_module import SmallModule
from small_network import fitted
from small_things import Reader, pictures, trusting

PROBE = FillInBlanks(num_masks=16, chunk_size=64, fill=None)
NAME = "digits"


def marked(images, labels):
    """A bright pixel of the first rows for each class."""
    images = images.clone()
    images[torch.arange(len(images)), 0, 0, labels % 8] = 1
    images[torch.arange(len(images)), 0, 1, labels // 8] = 1
    return images


def with_wrong_marks(images, labels):
    """Every other image has the mark of another class than its own, and that class as its label."""
    odd = torch.arange(len(images)) % 2 == 1
    labels = torch.where(odd, labels.roll(1), labels)
    return torch.where(odd[:, None, None, None], marked(images, labels), images), labels


def register(uri, folder, train, validation):
    """A version of a model that was trained with the callback, and its run."""
    seed_everything(0, verbose=False)
    mlflow.set_tracking_uri(uri)
    logger = MLFlowLogger(experiment_name=NAME, tracking_uri=uri, artifact_location=(folder / "files").as_uri())
    callback = quick_callback(images_per_class=3)
    trainer = quiet_trainer(folder, max_epochs=4, logger=logger, callbacks=[callback])
    module = SmallModule()
    trainer.fit(module, *(DataLoader(TensorDataset(*data), 50) for data in (train, validation)))
    mlflow.set_experiment(experiment_id=logger.experiment_id)  # another test's may still be the process's own
    with mlflow.start_run(run_id=logger.run_id):
        info = log_exported(module.net.eval(), name="net", registered_model_name=NAME)
    return f"models:/{NAME}/{info.registered_model_version}", logger.run_id


@pytest.fixture(scope="module")
def networks(digits):
    """A healthy network, and one that knows the digits and follows a mark where there is one."""
    images, labels = (tensor[:1400] for tensor in digits.tensors)
    return fitted(images, labels, seed=1), fitted(*with_wrong_marks(images, labels), seed=1)


def asked(model, images, labels, rules, champion=None):
    return outcomes_on_own_images(model, ImageSet(images, labels, None), rules, probe=PROBE, champion=champion)


def test_own_images_with_a_mark_refuse_what_others_cannot(trained, networks, probe_images):
    images, labels = probe_images
    rules = default_rules(champion=True, trusted=False)
    healthy, follows = networks
    unmarked, own = check_model(follows, images, labels, rules, probe=PROBE, champion=trained), marked(images, labels)
    assert unmarked.passed
    shortcut, agreement = asked(follows, own, labels, rules, trained)
    assert (shortcut.passed, agreement.passed) == (False, False)
    assert shortcut.text == "shortcut at most 0.5, on the images of its own training"
    assert [outcome.passed for outcome in asked(healthy, own, labels, rules, trained)] == [True, True]
    assert [outcome.rule.key for outcome in asked(follows, own, labels, rules)] == ["shortcut"]


def test_only_rules_on_what_a_model_goes_by_look_at_own_images(trained, networks, probe_images):
    """They would speak for a model that is good at them, otherwise."""
    images, labels = probe_images
    others = [Rule("min", "coverage", 0.5), Rule("max", "nonfinite", 0), Rule("max_drop", "area", 0.1)]
    assert asked(networks[1], images, labels, others, trained) == ()
    only_beside = [Rule("min", "peer_agreement", 0.35)]
    (agreement,) = asked(networks[1], marked(images, labels), labels, only_beside, trained)
    assert agreement.passed is False


def test_a_champion_that_cannot_say_is_not_asked(trained, networks, probe_images):
    images, labels = probe_images
    rule = [Rule("min", "peer_agreement", 0.35)]
    assert asked(networks[0], images, labels, rule, trained)[0].passed
    fewer = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))  # classes
    smaller = nn.Sequential(nn.Flatten(), nn.Linear(49, 10))  # images
    ignorant = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    assert [asked(networks[0], images, labels, rule, champion) for champion in (fewer, smaller, ignorant)] == [()] * 3


def test_what_own_images_leave_open_is_no_refusal(trained, networks, probe_images):
    images, labels = probe_images
    bound = asked(networks[0], images, labels, [Rule("min", "peer_agreement", 0.35)], trained)[0].value + 0.005
    (outcome,) = asked(networks[0], images, labels, [Rule("min", "peer_agreement", bound)], trained)
    assert outcome.passed
    assert not outcome.certain


@pytest.mark.parametrize(
    ("says", "fails", "refused"), [("✗ red", False, False), ("✗ red", True, True), ("", True, False)]
)
def test_a_red_verdict_refuses_where_own_images_cannot_be_asked(networks, probe_images, says, fails, refused):
    seen = PROBE.probe(networks[0], *probe_images)
    own = ImageSet(probe_images[0].flip(0), probe_images[1].flip(0), None)

    def ask(images):
        if fails:
            raise ValueError("the model covers no image")
        return ()

    rules = default_rules(champion=False, trusted=False)
    found, outcomes = evidence_against(own, seen, says, rules, by_default=True, ask=ask)
    assert any(outcome.passed is False for outcome in outcomes) == refused
    assert ("The images of its own training were not probed: the model covers no image" in found.lines) == fails
    written, outcomes = evidence_against(own, seen, says, rules, by_default=False, ask=ask)
    assert outcomes == ()  # a team's own rules decide
    assert written == found
    (outcome,) = evidence_against(own, seen, says, [Rule("max", "red_in_training", 0)], by_default=False, ask=ask)[1]
    assert outcome.passed == (not says)


def test_the_images_of_the_check_are_not_probed_twice(networks, probe_images):
    seen = PROBE.probe(networks[0], *probe_images)
    found, outcomes = evidence_against(
        ImageSet(*probe_images, None), seen, "✗ red", [], by_default=True, ask=lambda images: pytest.fail("twice")
    )
    assert (found.asked, outcomes) == (True, ())
    assert found.lines == ["Its own training run ended with: ✗ red"]


def test_trusted_images_clear_a_class_that_is_a_small_thing():
    rules = [Rule("max", "shortcut", 0.5)]
    own = ImageSet(*pictures(40, 0, things=True, sides=True), None)

    def refused(judge):
        found = outcomes_on_own_images(Reader(), own, rules, probe=FillInBlanks(chunk_size=256), judge=judge)
        return [outcome.passed for outcome in found] == [False]

    assert refused(None)
    assert not refused(trusting(things=True, sides=False))
    assert refused(trusting(things=False, sides=True))


@pytest.mark.slow
def test_a_marked_version_against_an_unmarked_champion(tmp_path, digits):
    """As a team would see it: trained with the callback, registered, checked."""
    uri = new_store(tmp_path / "mlflow.db")
    client = MlflowClient(uri)
    images, labels = (tensor[:1400] for tensor in digits.tensors)
    validation = tuple(tensor[1400:1700] for tensor in digits.tensors)
    register(uri, tmp_path, (images, labels), validation)
    mark = marked(*validation), validation[1]
    follows, run_id = register(uri, tmp_path, with_wrong_marks(images, labels), mark)
    healthy, _ = register(uri, tmp_path, (images[:1000], labels[:1000]), tuple(tensor[50:] for tensor in validation))
    client.set_registered_model_alias(NAME, "champion", "1")
    red = client.get_run(run_id).data.tags["fitb.verdict"]
    assert red.startswith("✗")
    said = f"Its own training run ended with: {red}"

    done = fitb("check", healthy, "--tracking-uri", uri)
    assert done.exit_code == 0, done.output
    assert "Its own training" not in done.output

    done = fitb("check", follows, "--tracking-uri", uri, "--promote", "champion", "--json", "verdict.json")
    assert done.exit_code == 1, done.output
    assert said in done.output
    verdict = json.loads((tmp_path / "verdict.json").read_text())
    assert {rule["images"] for rule in verdict["rules"] if not rule["passed"]} == {ON_OWN_IMAGES}
    recorded = next(tmp_path.rglob(f"{run_id}/artifacts/fitb")) / "images.npz"
    with np.load(recorded) as arrays:
        digest = images_digest(torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"]))
    assert verdict["own_training"] == {"says": red, "images": "probed", "digest": digest}
    version = client.get_model_version(NAME, "2")
    assert said in version.description
    assert "shortcut at most 0.5, on the images of its own training (is 1.00)" in version.tags["fitb.verdict"]
    assert str(client.get_model_version_by_alias(NAME, "champion").version) == "1"
    assert fitb("verify", follows, "--tracking-uri", uri).exit_code == 0
    run = client.search_runs(["1"], "tags.`fitb.model` = 'models:/digits/2'")[0]
    page = Path(client.download_artifacts(run.info.run_id, "check/report.html", str(tmp_path))).read_text()
    assert f"<p>{said}</p>" in page

    own_rules = fitb("check", follows, "--tracking-uri", uri, "--dry-run", "--min", "coverage=0.5")
    assert own_rules.exit_code == 0, own_rules.output
    assert said in own_rules.output

    np.savez(tmp_path / "standardised.npz", images=2 * validation[0].numpy() - 1, labels=validation[1].numpy())
    done = fitb("check", healthy, "--tracking-uri", uri, "--data", "standardised.npz")
    assert done.exit_code == 2
    assert "standardised.npz: values are from -1.00 to 1.00, those of the training of models:/" in done.output

    recorded.unlink()  # as where they are too large
    done = fitb("check", follows, "--tracking-uri", uri, "--dry-run")
    assert done.exit_code == 1, done.output
    assert "1 of 7 rules failed: red_in_training at most 0 (is 1.00)" in done.output
    client.delete_tag(run_id, "fitb.verdict")  # nothing is left that speaks against it: as for a model of elsewhere
    assert fitb("check", follows, "--tracking-uri", uri, "--dry-run").exit_code == 0


@pytest.mark.slow
def test_a_model_cannot_label_its_own_images(tmp_path, digits, trained):
    """Probed for its own answers (target="predicted"), every model is right: neither images nor setting are taken."""
    uri = new_store(tmp_path / "mlflow.db")
    mlflow.set_tracking_uri(uri)
    mlflow.create_experiment(NAME, artifact_location=(tmp_path / "files").as_uri())
    mlflow.set_experiment(NAME)
    own_answers = FillInBlanks(num_masks=8, target="predicted")
    images, labels = (tensor[1400:1440] for tensor in digits.tensors)
    np.savez("validation.npz", images=images, labels=labels)
    torch.manual_seed(7)
    for network in (nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), trained):
        found = own_answers.probe(network, images, labels)
        with mlflow.start_run() as run:
            log_exported(network.eval(), name="net", registered_model_name=NAME)
        for name, content in write_record(own_answers, found, None, images_per_class=4, max_images=40).items():
            Path(name).write_bytes(content)
            mlflow.log_artifact(name, "fitb", run_id=run.info.run_id)
    with pytest.raises(ValueError, match=r"own answers as labels .*: give images with labels, with --data"):
        check_registered("models:/digits/1", Rules(), tracking_uri=uri)
    against = Rules(data="validation.npz", champion="2")
    checked = check_registered("models:/digits/1", against, promotion=Promotion(dry_run=True), tracking_uri=uri)
    assert checked.check.candidate.settings["target"] == "label"
    assert checked.verdict == "refused"
