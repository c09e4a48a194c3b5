"""`fitb check` on a real MLflow server with a database and its artifact proxy."""

import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import warnings
from pathlib import Path

import mlflow
import numpy as np
import pytest
import requests
import yaml
from cryptography.fernet import Fernet
from junitparser import JUnitXml
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import MLFlowLogger
from mlflow import MlflowClient
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset
from typer.testing import CliRunner

from exported import MLFLOW_EXPORTS, log_exported, log_pickled
from fitb_callbacks import FillInBlanks, FillInBlanksCallback
from fitb_callbacks.cli import app
from fitb_callbacks.data.sources import Standardization, open_images
from fitb_callbacks.gate.registry import CouldNotCheckError, Promotion, check_registered
from fitb_callbacks.gate.rules import Rule, Rules
from fitb_callbacks.gate.verify import verify
from fitb_callbacks.integrations.mlflow import lookup, registry
from fitb_callbacks.integrations.mlflow.client import connected
from fitb_callbacks.scoring.catalogue import KEY_METRICS, METRICS
from mlflow_server import Server
from quick import fitb
from small_module import SmallModule

pytestmark = pytest.mark.slow  # a server, five registered models, and checks of them in processes

EXAMPLES = Path(__file__).parents[2] / "examples"
WEAK, GOOD, PICKLE, DROPOUT, CHECKPOINT = "12345"
AS_IN_TRAINING = ["--set", "num_masks=16", "--images-per-class", "2"]
RULES = ["--min", "coverage=0.5", "--max", "nonfinite=0", *AS_IN_TRAINING]


class Store:
    """What the tests need to know of the server, and of what was trained."""

    def __init__(self, server, folder):
        self.server, self.uri, self.folder = server, server.uri, folder
        self.data = str(folder / "validation.npz")
        self.history = {}

    @property
    def client(self):
        return MlflowClient(self.uri)

    def version(self, number):
        return self.client.get_model_version("digits", number)

    def everything(self):
        """All that a check could have written."""
        runs = self.client.search_runs([e.experiment_id for e in self.client.search_experiments()])
        model = self.client.get_registered_model("digits")
        return (
            sorted((run.info.run_id, run.info.status, str(sorted(run.data.metrics.items()))) for run in runs),
            dict(model.aliases),
            [sorted(self.version(number).tags.items()) for number in "12345"],
        )

    def check(self, version, *arguments, data=None):
        """The command; version is a number, or a whole address; no data where it is empty."""
        address = f"models:/digits/{version}" if version.isdigit() else version
        images = [] if data == "" else ["--data", data or self.data]
        everything = ["check", address, *images, "--tracking-uri", self.uri, *arguments]
        return CliRunner().invoke(app, [str(argument) for argument in everything])


def train(store, digits, *, epochs, num_masks, folder):
    """A run with the callback, and the trained module."""
    seed_everything(0, verbose=False)
    images, labels = digits.tensors
    logger = MLFlowLogger(experiment_name="digits", tracking_uri=store.uri, log_model=True)
    probe = FillInBlanksCallback(num_masks=num_masks, images_per_class=2, max_overhead=None)
    module = SmallModule()
    trainer = Trainer(
        max_epochs=epochs,
        logger=logger,
        callbacks=[probe, ModelCheckpoint(folder, filename="best")],
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loaders = (DataLoader(TensorDataset(images[p], labels[p]), 50) for p in (slice(400), slice(1500, 1700)))
    trainer.fit(module, *loaders)
    store.history[logger.run_id] = probe.history
    return logger.run_id, module.eval()


@pytest.fixture(scope="module")
def store(tmp_path_factory, digits):
    """A weak champion, a good candidate, its pickle, one with dropout on, and a bare checkpoint of another probe."""
    folder = tmp_path_factory.mktemp("registry")
    server = Server(  # with webhooks to this machine
        folder,
        MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY=Fernet.generate_key().decode(),
        MLFLOW_WEBHOOK_ALLOWED_SCHEMES="http",
        MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS="true",
        MLFLOW_WEBHOOK_CACHE_TTL="0",
    )
    server.start()
    store = Store(server, folder)
    np.savez(store.data, images=digits.tensors[0][1500:1700], labels=digits.tensors[1][1500:1700])
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(server.uri)
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")
        patch.chdir(folder)

        def register(run_id, module, kind="pt2"):
            with mlflow.start_run(run_id=run_id):
                log = log_pickled if kind == "pickle" else log_exported
                log(module.net, name=f"net-{kind}", registered_model_name="digits")

        weak_run, weak = train(store, digits, epochs=1, num_masks=16, folder=folder / "weak")
        register(weak_run, weak)
        store.run_id, good = train(store, digits, epochs=3, num_masks=16, folder=folder / "good")
        register(store.run_id, good)
        register(store.run_id, good, "pickle")
        register(store.run_id, good.train(), "pt2-dropout")
        other_run, store.module = train(store, digits, epochs=2, num_masks=8, folder=folder / "other")
        in_folder = any(each.path == "model" for each in store.client.list_artifacts(other_run))  # older Lightning
        best = "model/checkpoints/best" if in_folder else "best"
        store.client.create_model_version("digits", f"runs:/{other_run}/{best}", run_id=other_run)
    mlflow.set_tracking_uri(before)
    store.client.set_registered_model_alias("digits", "champion", WEAK)
    yield store
    server.stop()


@pytest.fixture
def registered(store):
    """The store as it was after training: server up, no tags, the weak model champion."""
    if store.server.process is None:
        store.server.start()
    store.client.set_registered_model_alias("digits", "champion", WEAK)
    for number in "12345":
        for key in store.version(number).tags:
            store.client.delete_model_version_tag("digits", number, key)
    return store


def test_a_pass_is_recorded_and_promoted(registered, tmp_path):
    done = registered.check(
        GOOD, *RULES, "--champion", "champion", "--max-drop", "coverage=0.02", "--promote", "champion",
        "--json", "verdict.json", "--junit", "junit.xml",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "passed: 3 rules passed" in done.output
    assert "champion moved from version 1 to models:/digits/2" in done.output
    *_, verdict_line, address = done.stdout.splitlines()  # MLflow writes to the other one
    assert verdict_line == "✓ passed: 3 rules passed"
    client, version = registered.client, registered.version(GOOD)
    run = client.get_run(registry.last_check(client, lookup.find_model(client, "models:/digits/2")).info.run_id)
    assert address.endswith(f"/runs/{run.info.run_id}")
    assert client.get_model_version_by_alias("digits", "champion").version == version.version
    verdict = json.loads((tmp_path / "verdict.json").read_text())
    assert verdict["verdict"] == "passed" == run.data.tags["fitb.verdict"]
    assert version.tags.keys() == {"fitb.verdict", "fitb.promoted.champion"}  # nothing that only a program reads
    assert version.tags["fitb.verdict"] == "passed: 3 rules passed"
    assert re.fullmatch(r"from version 1, \d{4}-\d\d-\d\d \d\d:\d\d UTC", version.tags["fitb.promoted.champion"])
    found = client.search_model_versions("name = 'digits' and tags.`fitb.verdict` LIKE 'passed:%'")
    assert [str(each.version) for each in found] == [GOOD]
    assert verdict["promoted_from"] == WEAK
    assert [case.is_passed for suite in JUnitXml.fromfile("junit.xml") for case in suite] == [True] * 3

    assert (run.info.run_name, run.info.status) == ("registry-check", "FINISHED")
    with connected(registered.uri):  # older versions ask the global address
        evidence = Path(
            mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path="check", dst_path=str(tmp_path))
        )
    sums = (evidence / "SHA256SUMS").read_bytes()
    assert hashlib.sha256(sums).hexdigest() == run.data.tags["fitb.digest"]
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=evidence, check=True)
    assert json.loads((evidence / "settings.json").read_text())["num_masks"] == 16  # as in training
    for name in ("prototypes.png", "prototypes-of-the-champion.png"):
        assert min(Image.open(evidence / name).size) > 100
    assert version.description.startswith("✓ PASSED: 3 rules passed")
    assert f"coverage {verdict['scores']['coverage']:.2f}, champion {verdict['champion_scores']['coverage']:.2f}" in (
        version.description
    )
    assert f"/runs/{run.info.run_id}/artifacts/check/report.html" in version.description
    page = (evidence / "report.html").read_text()
    assert page.index("✓ PASSED: 3 rules passed") < page.index('id="comparison"') < page.index('id="verdict"')
    assert '"runs": ["models:/digits/2", "models:/digits/1, the champion"]' in page
    pair = fitb("report", "models:/digits/2", "models:/digits/1", "--tracking-uri", registered.uri)
    assert "models:/digits/2: " in pair.output  # from the check, and from the training of a version without one
    assert "models:/digits/1: " in pair.output
    with connected(registered.uri):
        shown = {Path(file.path).name.partition("+")[0] for file in client.list_artifacts(run.info.run_id, "images")}
    shown = {name.replace("~", " ") for name in shown}  # as older MLflow writes a slash
    assert shown == {f"A glance at fitb prototypes{whose}" for whose in ("", " of the champion")}
    model = client.get_logged_model(version.source.removeprefix("models:/"))
    assert run.inputs.model_inputs[0].model_id == model.model_id
    linked = {(metric.run_id, metric.key): metric.value for metric in model.metrics}
    assert linked[run.info.run_id, "fitb/coverage"] == verdict["scores"]["coverage"]
    # what training saw: shown beside, on the model's page, and the same
    assert verdict["training"]["differs"] == ""
    judged = {key for key, metric in METRICS.items() if metric.needs_judge}  # by another judge in training
    assert set(verdict["training"]["scores"]) == (set(verdict["scores"]) & set(KEY_METRICS)) - judged
    for key, value in verdict["training"]["scores"].items():
        assert value == pytest.approx(verdict["scores"][key], abs=1e-5), key
        assert value == registered.history[registered.run_id][-1][key] == linked[registered.run_id, f"fitb/{key}"]


def test_a_refusal_moves_nothing(registered):
    registered.client.set_registered_model_alias("digits", "champion", GOOD)
    rules = ["--champion", "champion", "--min", "coverage=0.99", "--promote", "champion", "--junit", "junit.xml"]
    done = registered.check(WEAK, *rules)
    assert done.exit_code == 1, done.output
    assert "refused: 1 of 1 rule failed" in done.output
    assert registered.version(WEAK).tags["fitb.verdict"].startswith("refused: 1 of 1 rule failed: coverage at least")
    assert "✗ REFUSED: 1 of 1 rule failed: coverage at least 0.99 (is " in registered.version(WEAK).description
    assert str(registered.client.get_model_version_by_alias("digits", "champion").version) == GOOD
    (case,) = (case for suite in JUnitXml.fromfile("junit.xml") for case in suite)
    assert not case.is_passed


def test_a_dry_run_writes_nothing(registered):
    before = registered.everything()
    done = registered.check(GOOD, *RULES, "--promote", "champion", "--dry-run", "--json", "-")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["verdict"] == "passed"
    assert "champion would move from version 1 to models:/digits/2" in done.stderr
    assert registered.everything() == before


def test_every_kind_of_model_gives_the_same_scores(registered):
    module = registered.module

    def scores(*arguments):
        done = registered.check(*arguments, *RULES, "--dry-run", "--json", "-")
        assert done.exit_code == 0, done.output
        return {key: pytest.approx(value, abs=1e-5) for key, value in json.loads(done.stdout)["scores"].items()}

    exported = scores(GOOD)
    assert scores(PICKLE, "--allow-pickle") == exported
    alone = scores(f"runs:/{registered.run_id}/net-pt2")  # of no registered name, so there is no champion to judge it
    assert scores(registered.version(GOOD).source) == alone
    assert all(exported[key] == value for key, value in alone.items())
    checkpoint = scores(CHECKPOINT, "--class", "small_module:SmallModule")
    file = registered.folder / "other" / "best.ckpt"
    from_file = scores(str(file), "--class", "small_module:SmallModule")
    assert all(checkpoint[key] == value for key, value in from_file.items())
    assert "peer_accuracy" in checkpoint.keys() - from_file.keys()
    chosen = open_images(registered.data, per_class=2)
    assert FillInBlanks(num_masks=16).probe(module, chosen.images, chosen.labels).metrics == from_file


def scores_of(done):
    return json.loads(done.stdout)["scores"]


@pytest.mark.parametrize("version", [GOOD, WEAK])  # against the champion, and the champion itself, which has none
def test_images_that_training_recorded_are_the_default(registered, version):
    """The champion's, or those of the first version itself; the same ones as with --data and training's numbers."""
    options = ["--min", "coverage=0", "--set", "num_masks=16", "--dry-run", "--json", "-"]
    recorded = registered.check(version, *options, data="")
    assert recorded.exit_code == 0, recorded.output
    given = registered.check(version, *options, "--images-per-class", "2")
    assert scores_of(recorded) == scores_of(given)
    made = [json.loads(done.stdout)["provenance"] for done in (recorded, given)]
    assert made[0]["data_digest"] == made[1]["data_digest"]
    assert made[0]["data"] == "recorded in the training of models:/digits/1"
    fewer = registered.check(version, *options, "--images-per-class", "1", data="")
    assert json.loads(fewer.stdout)["images"] == 10


def test_without_data_and_without_a_record_there_is_a_line(registered):
    file = str(next(registered.folder.rglob("*.ckpt")))
    done = registered.check(file, *RULES, "--class", "small_module:SmallModule", data="")
    assert done.exit_code == 2
    assert (
        f"there must be images to probe on: --data, or data in the file of rules; the training of {file}" in done.output
    )


def test_pixels_are_standardised_as_in_training(registered, tmp_path):
    with np.load(registered.data) as arrays:
        np.savez("bright.npz", images=0.25 * arrays["images"] + 0.5, labels=arrays["labels"])
    options = [*RULES, "--dry-run", "--json", "-"]
    plain = registered.check(GOOD, *options, "--trusted", registered.data)
    undone = registered.check(
        GOOD, *options, "--trusted", "bright.npz", "--mean", "0.5", "--std", "0.25", data="bright.npz"
    )
    assert undone.exit_code == 0, undone.output
    assert scores_of(undone) == pytest.approx(scores_of(plain), abs=1e-3)
    (tmp_path / "rules.yaml").write_text("mean: 0.5\nstd: [0.25]\ndata: bright.npz\ntrusted: bright.npz\n")
    assert Rules.load("rules.yaml").standardization == Standardization((0.5,), (0.25,))
    for wrong, says in (
        (["--mean", "0.5"], "mean and std go together"),
        (["--mean", "0.5", "--std", "0"], "std must be a number greater than 0"),
        (["--mean", "half", "--std", "1"], "--mean must be numbers with commas between them; got 'half'"),
        (["--mean", "0.5,0.5", "--std", "1"], "mean must hold one value, or one for each of 1 channels"),
    ):
        done = registered.check(GOOD, *RULES, *wrong)
        assert done.exit_code == 2
        assert says in done.output
    done = registered.check(GOOD, *RULES, "--mean", "0", "--std", "1", data="")
    assert "mean and std go with --data; recorded images are as the model takes them" in done.output


def test_rules_from_a_file_and_trusted_images(registered, tmp_path):
    (tmp_path / "rules.yaml").write_text(
        f"data: {registered.data}\ntrusted: {registered.data}\nmin: {{structure: 0.1, coverage: 0.99}}\n"
        "settings: {num_masks: 8, seed: 3}\nimages_per_class: 3\n"
    )
    arguments = [
        "check",
        "models:/digits/2",
        "--rules",
        "rules.yaml",
        "--min",
        "coverage=0.2",
        "--dry-run",
        "--json",
        "-",
    ]
    done = CliRunner().invoke(app, [*arguments, "--tracking-uri", registered.uri])
    assert done.exit_code == 0, done.output
    verdict = json.loads(done.stdout)
    assert [(rule["key"], rule["bound"]) for rule in verdict["rules"]] == [("structure", 0.1), ("coverage", 0.2)]
    assert (verdict["settings"]["num_masks"], verdict["settings"]["seed"], verdict["images"]) == (8, 3, 30)
    assert verdict["judge"] == f"ridge regression on {registered.data}"
    assert "num_masks is 16 and 8" in verdict["training"]["differs"]
    assert "other settings" in done.stderr


def bad_data(folder):
    images = np.zeros((4, 1, 8, 8), np.float32)
    np.savez(folder / "wide.npz", images=np.zeros((4, 1, 8, 9)), labels=np.arange(4))
    np.savez(folder / "eleven.npz", images=images, labels=np.array([0, 1, 2, 10]))
    np.savez(folder / "names.npz", images=images, labels=np.arange(4), class_names=["a", "b"])
    np.savez(folder / "grey.npz", images=images + 0.5, labels=np.full(4, 3))


@pytest.mark.parametrize(
    ("version", "arguments", "says"),
    [
        ("9", RULES, "there is no model models:/digits/9"),
        ("models:/letters/1", RULES, "there is no model models:/letters/1"),
        ("models:/digits@stable", RULES, "there is no model models:/digits@stable"),
        ("models:/digits", RULES, "a model must be models:/NAME/VERSION"),
        ("runs:/0123/net", RULES, "there is no model runs:/0123/net"),
        (GOOD, [*RULES, "--champion", "stable"], "there is no model models:/digits@stable"),
        (GOOD, ["--min", "coverge=0.5"], "there is no score 'coverge'; did you mean coverage?"),
        (GOOD, ["--min", "coverage"], "--min must be KEY=VALUE; got 'coverage'"),
        (GOOD, ["--min", "coverage=high"], "min of coverage must be a finite number; got 'high'"),
        (GOOD, [*RULES, "--set", "num_maks=3"], "the probe has no setting num_maks"),
        (GOOD, [*RULES, "--set", "num_masks=0"], "num_masks must be an integer >= 1; got 0"),
        (GOOD, [*RULES, "--rules", "lost.yaml"], "there is no file of rules lost.yaml"),
        (GOOD, [*RULES, "--data", "lost"], "there is no 'lost'"),
        (GOOD, [*RULES, "--data", "wide.npz"], "signature wants images of (1, 8, 8); wide.npz holds (1, 8, 9)"),
        (GOOD, [*RULES, "--data", "eleven.npz"], "labels must be from 0 to 9, as the model has 10 classes; got [10]"),
        (GOOD, [*RULES, "--data", "names.npz"], "class_names must hold 10 names"),
        (GOOD, [*RULES, "--data", "grey.npz", "--set", "baseline=0.5"], "the model covers no image"),
        (PICKLE, RULES, "models:/digits/3 holds a pickled model; if you trust it, add --allow-pickle"),
        (DROPOUT, RULES, "as if dropout were on; export it after .eval()"),
        (CHECKPOINT, RULES, "models:/digits/5 is a checkpoint; name its class with --class"),
        (CHECKPOINT, [*RULES, "--class", "torch.nn:Flatten"], "is not a checkpoint of torch.nn:Flatten"),
        ("lost.ckpt", RULES, "there is no file lost.ckpt"),
        ("lost.ckpt", [*RULES, "--promote", "champion"], "--promote goes with a version of a registered model"),
    ],
)  # fmt: skip
def test_bad_input_is_said_in_a_line_and_nothing_is_written(registered, tmp_path, version, arguments, says):
    bad_data(tmp_path)
    before = registered.everything()
    done = registered.check(version, *arguments, "--json", "verdict.json", "--junit", "junit.xml")
    assert done.exit_code == 2, done.output
    assert done.output.startswith("fitb check: ")
    assert says in done.output
    assert len(done.output.splitlines()) == 1
    assert registered.everything() == before
    assert json.loads((tmp_path / "verdict.json").read_text())["verdict"] == "could not be checked"
    (case,) = (case for suite in JUnitXml.fromfile("junit.xml") for case in suite)
    assert case.is_error


def test_a_rule_that_compares_needs_something_to_compare_with(registered):
    """A version is compared with the alias "champion" unasked; a checkpoint's file has no such neighbour."""
    file = next(registered.folder.rglob("*.ckpt"))
    done = registered.check(str(file), "--class", "small_module:SmallModule", "--max-drop", "coverage=0.1")
    assert done.exit_code == 2, done.output
    assert "needs a champion: --champion" in done.output


def checked(store, kill_at):
    """A check with a server that is killed at a step; what it says."""
    rules = Rules(rules=(Rule("min", "coverage", 0.5),), data=store.data)
    steps = []

    def on_step(step):
        steps.append(step)
        if step == kill_at:
            store.server.stop()

    with pytest.raises(CouldNotCheckError) as caught:
        check_registered(
            "models:/digits/2", rules, tracking_uri=store.uri, promotion=Promotion("champion"), on_step=on_step
        )
    assert kill_at in (*steps, None)
    return str(caught.value)


def killed_in(store, monkeypatch, owner, name, *, key=None):
    """A check whose server is killed just before a call, of the tag of that key if one is given; what it says."""
    call = getattr(owner, name)

    def last(*arguments, **options):
        if key is None or key in arguments:
            store.server.stop()
        return call(*arguments, **options)

    monkeypatch.setattr(owner, name, last)
    return checked(store, None)


def left_behind(store):
    """What a check left on the server, which is started again: tags, the champion, the runs of checks."""
    store.server.start()
    version = store.version(GOOD)
    champion = str(store.client.get_model_version_by_alias("digits", "champion").version)
    experiment = store.client.get_experiment_by_name("digits").experiment_id
    runs = [run for run in store.client.search_runs([experiment]) if run.info.run_name == "registry-check"]
    return version.tags, champion, runs


def test_killed_before_the_probe(registered):
    assert "does not answer" in checked(registered, "Loading the model")
    done = registered.check(GOOD, *RULES)  # with a server that is away from the start
    assert done.exit_code == 2
    assert len(done.output.splitlines()) == 1
    tags, champion, _ = left_behind(registered)
    assert (tags, champion) == ({}, WEAK)


@pytest.mark.parametrize("kill_at", ["Probing both models", "Recording the evidence"])
def test_killed_while_it_probes_or_when_it_begins_to_record(registered, kill_at):
    count = len(registered.everything()[0])
    assert "the verdict (passed) could not be recorded, nothing was written" in checked(registered, kill_at)
    tags, champion, _ = left_behind(registered)
    assert (tags, champion) == ({}, WEAK)
    assert len(registered.everything()[0]) == count


def test_killed_before_the_tags(registered):
    said = checked(registered, "Tagging the model")
    tags, champion, runs = left_behind(registered)
    assert f"run {runs[0].info.run_id} was written" in said
    assert (tags, champion) == ({}, WEAK)


def test_killed_before_the_alias(registered):
    assert "and the version's tag were written" in checked(registered, "Moving the alias")
    tags, champion, _ = left_behind(registered)
    assert tags["fitb.verdict"].startswith("passed: ")
    assert champion == WEAK
    done = registered.check(GOOD, *RULES, "--promote", "champion")  # run again
    assert done.exit_code == 0, done.output
    assert str(registered.client.get_model_version_by_alias("digits", "champion").version) == GOOD


def test_killed_within_the_evidence(registered, monkeypatch):
    said = killed_in(registered, monkeypatch, MlflowClient, "log_artifacts")
    tags, champion, runs = left_behind(registered)
    assert f"part of run {runs[0].info.run_id} was written" in said
    assert runs[0].data.tags["fitb.verdict"] == "pending"
    assert runs[0].info.status != "FINISHED"
    assert (tags, champion) == ({}, WEAK)


def test_killed_between_tag_and_description(registered, monkeypatch):
    said = killed_in(registered, monkeypatch, MlflowClient, "update_model_version")
    tags, champion, runs = left_behind(registered)
    assert f"run {runs[0].info.run_id} was written" in said
    assert tags["fitb.verdict"] == "pending"
    assert champion == WEAK
    verified = CliRunner().invoke(app, ["verify", "models:/digits/2", "--tracking-uri", registered.uri])
    assert verified.exit_code == 1
    assert "the verdict on models:/digits/2 is pending" in verified.output


def test_killed_after_the_alias(registered, monkeypatch):
    said = killed_in(registered, monkeypatch, registry, "note_promotion")
    tags, champion, _ = left_behind(registered)
    assert "the version's tag and the alias champion were written" in said
    assert (tags["fitb.verdict"].partition(":")[0], champion) == ("passed", GOOD)
    monkeypatch.undo()
    assert (
        CliRunner().invoke(app, ["verify", "models:/digits@champion", "--tracking-uri", registered.uri]).exit_code == 0
    )


def test_an_interruption_leaves_a_pending_verdict(registered):
    """Not an older one beside a newer description."""
    found = lookup.find_model(registered.client, "models:/digits/2")
    registry.publish(registered.client, found, registered.run_id, verdict="passed: old", text="old")
    assert registered.version(GOOD).tags["fitb.verdict"] == "passed: old"

    class Fuse(MlflowClient):
        def __init__(self, uri, left):
            super().__init__(uri)
            self.left = left

        def burn(self):
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1

        def set_model_version_tag(self, *arguments, **options):
            self.burn()
            super().set_model_version_tag(*arguments, **options)

        def update_model_version(self, *arguments, **options):
            self.burn()
            super().update_model_version(*arguments, **options)

    for calls, (tag, description) in enumerate([("passed: old", "old"), ("pending", "old"), ("pending", "new")]):
        client = Fuse(registered.uri, calls)
        with pytest.raises(KeyboardInterrupt):
            registry.publish(client, found, registered.run_id, verdict="refused: new", text="new")
        assert registered.version(GOOD).tags["fitb.verdict"] == tag
        assert registered.version(GOOD).description.startswith(f"{description}\n")
    assert not any(finding.holds for finding in verify(registered.client, found))
    registry.publish(registered.client, found, registered.run_id, verdict="refused: new", text="new")
    assert registered.version(GOOD).tags == {"fitb.verdict": "refused: new"}


def test_results_are_linked_while_training_to_the_active_model(registered, trainer, loaders, monkeypatch):
    monkeypatch.setattr(mlflow, "get_tracking_uri", mlflow.get_tracking_uri)  # put back below
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(registered.uri)
    try:
        logger = MLFlowLogger(experiment_name="live", tracking_uri=registered.uri)
        model = mlflow.create_external_model(name="live", source_run_id=logger.run_id)
        mlflow.set_active_model(model_id=model.model_id)
        run = trainer(max_epochs=1, logger=logger, callbacks=[FillInBlanksCallback(max_overhead=None, num_masks=4)])
        run.fit(SmallModule(), *loaders)
        found = {metric.key: metric.value for metric in registered.client.get_logged_model(model.model_id).metrics}
        assert found["fitb/coverage"] == registered.client.get_run(logger.run_id).data.metrics["fitb/coverage"]
    finally:
        mlflow.clear_active_model()
        mlflow.set_tracking_uri(before)


EVALUATED = GOOD if MLFLOW_EXPORTS else PICKLE  # MLflow evaluates what it can load itself; both are one network

UNSIGNED = {} if MLFLOW_EXPORTS else {"image_shape": (1, 8, 8)}  # the pickle has no signature


def evaluated(store, images, labels, **config):
    return mlflow.models.evaluate(
        f"models:/digits/{EVALUATED}",
        data=images.reshape(len(images), -1),
        targets=labels,
        model_type="classifier",
        evaluators="fill_in_blanks",
        evaluator_config={"num_masks": 16, **UNSIGNED, **config},
    )


def test_as_an_evaluator_of_mlflow(registered):
    from mlflow.models import MetricThreshold
    from mlflow.models.evaluation.validation import ModelValidationFailedException

    chosen = open_images(registered.data, per_class=2)
    images, labels = chosen.images.numpy(), chosen.labels.numpy()
    with connected(registered.uri) as client:
        mlflow.set_experiment("digits")
        found = evaluated(registered, images, labels, trusted=registered.data)
        model = client.get_logged_model(registered.version(EVALUATED).source.removeprefix("models:/"))
        with pytest.raises(ValueError, match=r"data must have rows of 64 values, one an image of \(1, 8, 8\)"):
            evaluated(registered, images[..., :4], labels)
        with pytest.raises(ValueError, match="evaluator_config has no entry num_maks"):
            evaluated(registered, images, labels, num_maks=3)
    scores = registered.check(GOOD, *RULES, "--trusted", registered.data, "--dry-run", "--json", "-")
    scores = json.loads(scores.stdout)["scores"]
    for name in ("peer_accuracy", "peer_agreement", "lost_classes"):  # the check compares with the champion
        del scores[name]
    assert {f"fitb/{key}": pytest.approx(value, abs=1e-5) for key, value in scores.items()} == found.metrics
    assert found.metrics["fitb/structure"] in [m.value for m in model.metrics if m.key == "fitb/structure"]

    def asks(least):
        return {"fitb/structure": MetricThreshold(threshold=least, greater_is_better=True)}

    mlflow.validate_evaluation_results(asks(0.1), found)
    with pytest.raises(ModelValidationFailedException):
        mlflow.validate_evaluation_results(asks(1.1), found)


def rules_for(store, folder):
    """The example's rules, on the digits of these tests."""
    rules = yaml.safe_load((EXAMPLES / "registry_rules.yaml").read_text())
    rules |= {"data": store.data, "settings": {"num_masks": 8}}
    (folder / "registry_rules.yaml").write_text(yaml.safe_dump(rules))


def test_the_workflow_files_command(registered, tmp_path):
    rules_for(registered, tmp_path)
    workflow = yaml.safe_load((EXAMPLES / "registry_check.yml").read_text())
    (command,) = (step["run"] for step in workflow["jobs"]["check"]["steps"] if step.get("name") == "Check")
    environment = {**os.environ, "MODEL": "digits", "VERSION": GOOD, "MLFLOW_TRACKING_URI": registered.uri}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    done = subprocess.run(command, shell=True, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert str(registered.client.get_model_version_by_alias("digits", "champion").version) == GOOD
    for name in ("check.xml", "check.json"):
        assert (tmp_path / name).stat().st_size > 100


@pytest.mark.timeout(1800)
def test_a_webhook_starts_the_check_of_a_new_version(registered, tmp_path):
    webhook = pytest.importorskip("mlflow.entities.webhook", reason="MLflow sends webhooks since 3.3")
    rules_for(registered, tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "FITB_WEBHOOK_SECRET": "shared", "MLFLOW_TRACKING_URI": registered.uri}
    command = [sys.executable, EXAMPLES / "registry_webhook.py", "--rules", "registry_rules.yaml", "--port", str(port)]
    client = registered.client
    with (tmp_path / "receiver.log").open("w") as log:
        receiver = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)

    def over():
        """Why there is nothing to wait for any longer."""
        said = (tmp_path / "receiver.log").read_text()
        return said if receiver.poll() is not None or "fitb check:" in said or "Traceback" in said else ""

    try:
        address = f"http://127.0.0.1:{port}"
        wait_until(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0, over=over)
        forged = {"entity": "model_version", "action": "created", "data": {"name": "digits", "version": GOOD}}
        headers = {"X-MLflow-Delivery-Id": "1", "X-MLflow-Timestamp": str(int(time.time()))}
        assert requests.post(address, json=forged, timeout=10, headers=headers).status_code == 401
        created = webhook.WebhookEvent("model_version", "created")
        webhook = client.create_webhook("fitb-check", address, [created], secret="shared")
        source = registered.version(GOOD).source
        model_id = source.removeprefix("models:/")
        version = client.create_model_version("digits", source, registered.run_id, model_id=model_id).version
        try:
            wait_until(lambda: '" 202 ' in (tmp_path / "receiver.log").read_text(), over=over)  # MLflow has sent it
            wait_until(
                lambda: client.get_model_version("digits", version).tags.get("fitb.verdict", "pending") != "pending",
                over=over,
            )
            assert client.get_model_version("digits", version).tags["fitb.verdict"].startswith("passed: ")
            wait_until(lambda: client.get_model_version_by_alias("digits", "champion").version == version, over=over)
            assert registered.version(GOOD).tags == {}
        finally:
            client.set_registered_model_alias("digits", "champion", WEAK)
            client.delete_model_version("digits", version)
            client.delete_webhook(webhook.webhook_id)
    finally:
        receiver.terminate()
        receiver.wait()


def wait_until(done, seconds=480, *, over=lambda: ""):
    """Wait as long as a busy machine may take, and no longer than there is something to wait for."""
    deadline = time.monotonic() + seconds
    while not done():
        assert not (said := over()), said
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.2)


def test_an_interrupt_is_no_refusal(registered, tmp_path):
    """Ctrl-C, which would otherwise end the command with 1."""
    before = registered.everything()
    slow = "import pathlib, time\ndef images():\n    pathlib.Path('begun').touch()\n    time.sleep(60)\n"
    (tmp_path / "slow_images.py").write_text(slow)
    command = [sys.executable, "-m", "fitb_callbacks", "check", "models:/digits/2", *RULES]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": registered.uri}
    process = subprocess.Popen(
        [*command, "--data", "slow_images:images"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    wait_until((tmp_path / "begun").exists)
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=60)[0].decode()
    assert process.returncode == 2, output
    assert "it was interrupted" in output
    assert registered.everything() == before
