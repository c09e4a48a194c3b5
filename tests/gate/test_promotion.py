"""What is recorded and promoted: on a real server, with hands that meddle and checks that race."""

import importlib.metadata
import json
import os
import threading
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from typer.testing import CliRunner

from exported import log_exported
from fitb_callbacks import FillInBlanks
from fitb_callbacks.cli import app
from fitb_callbacks.gate import evidence
from fitb_callbacks.gate.registry import CouldNotCheckError, Promotion, Waiver, check_registered
from fitb_callbacks.gate.rules import Rule, Rules
from fitb_callbacks.integrations.mlflow.lookup import find_model
from fitb_callbacks.integrations.mlflow.registry import AliasMovedError, alias_holder, last_check, move_alias
from mlflow_server import Server


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server on which nothing is registered."""
    running = Server(tmp_path_factory.mktemp("promotion"))
    running.start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def digits_file(tmp_path_factory, digits):
    file = tmp_path_factory.mktemp("data") / "validation.npz"
    np.savez(file, images=digits.tensors[0][1400:1700], labels=digits.tensors[1][1400:1700])
    return str(file)


def register(uri, name, network):
    """A version of a model that nobody trained with the callback."""
    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment(name)
    with mlflow.start_run():
        info = log_exported(network.eval(), name="net", registered_model_name=name)
    return f"models:/{name}/{info.registered_model_version}"


def fitb(uri, *arguments):
    return CliRunner().invoke(app, [*map(str, arguments), "--tracking-uri", uri])


def last_run(client, address):
    return last_check(client, find_model(client, address))


def check(uri, model, data, *arguments):
    return fitb(uri, "check", model, "--data", data, "--set", "num_masks=16", "--images-per-class", "4", *arguments)


@pytest.mark.parametrize("alias", ["", "latest", "v1", "V12", "a b", "a/b", "ä!"])
def test_an_alias_that_mlflow_would_refuse_is_refused_first(alias):
    with pytest.raises(ValueError, match="an alias must be of letters"):
        Promotion(alias)


def test_a_waiver_has_a_name_and_a_reason():
    with pytest.raises(ValueError, match="--waive NAME --reason TEXT"):
        Waiver("Ada", " ")


@pytest.mark.slow
def test_first_version_second_version_tampering_and_rollback(server, digits_file, trained):
    """Default rules alone; each command as a team would type it."""
    uri, name = server.uri, "journey"
    client = MlflowClient(uri)
    first = register(uri, name, trained)
    done = check(uri, first, digits_file, "--promote", "champion", "--json", "-")
    assert done.exit_code == 0, done.output
    verdict = json.loads(done.stdout)  # alone: MLflow's own lines go elsewhere
    assert [rule["key"] for rule in verdict["rules"]][:2] == ["nonfinite", "coverage"]
    assert verdict["champion"] is None
    assert alias_holder(client, name, "champion") == "1"
    made = verdict["provenance"]
    assert made["data"] == digits_file
    assert len(made["data_digest"]) == len(made["rules_digest"]) == len(made["model_digest"]) == 64
    assert made["versions"]["torch"] == importlib.metadata.version("torch")

    torch.manual_seed(7)
    untrained = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    bad = register(uri, name, untrained)
    refused = check(uri, bad, digits_file, "--promote", "champion")
    assert refused.exit_code == 1, refused.output
    assert alias_holder(client, name, "champion") == "1"
    assert fitb(uri, "promote", bad).exit_code == 1

    waived = check(uri, bad, digits_file, "--promote", "champion", "--waive", "Ada", "--reason", "a drill")
    assert waived.exit_code == 0, waived.output
    assert client.get_model_version(name, "2").tags["fitb.verdict"].startswith("waived: by Ada: a drill; ")
    assert fitb(uri, "verify", f"models:/{name}@champion").exit_code == 0
    back = fitb(uri, "rollback", name)
    assert back.exit_code == 0, back.output
    assert alias_holder(client, name, "champion") == "1"
    again = fitb(uri, "rollback", name)  # as a job that is run twice: the refused version must not come back
    assert again.exit_code == 2, again.output
    assert "version 1 of journey does not say where champion was before" in again.output
    assert alias_holder(client, name, "champion") == "1"
    assert client.get_model_version(name, "2").tags["fitb.rolled_back.champion"].startswith("to version 1, ")

    assert fitb(uri, "verify", first).exit_code == 0
    client.set_model_version_tag(name, "2", "fitb.verdict", "passed")  # by hand
    forged = fitb(uri, "verify", bad)
    assert forged.exit_code == 1
    assert "the version's tag says 'passed', verdict.json \"waived: by Ada: a drill; " in forged.output
    third = register(uri, name, trained)
    client.set_model_version_tag(name, "3", "fitb.verdict", "passed")
    assert "has no recorded verdict" in fitb(uri, "verify", third).output
    client.log_text(last_run(client, first).info.run_id, "{}", "check/settings.json")
    changed = fitb(uri, "verify", first)
    assert changed.exit_code == 1
    assert "the evidence has changed: settings.json" in changed.output
    for content in ('{"rules": [5]}', '{"rules": [], "verdi'):
        client.log_text(last_run(client, first).info.run_id, content, "check/verdict.json")
        damaged = fitb(uri, "verify", first)
        assert (damaged.exit_code, type(damaged.exception)) == (1, SystemExit), content
        assert "the evidence has changed" in damaged.output or "the evidence cannot be read" in damaged.output


@pytest.mark.slow
def test_a_signature_needs_the_key(server, digits_file, trained):
    """Whoever may write to the server cannot make a verdict that holds where the key is known."""
    uri, name, client = server.uri, "signed", MlflowClient(server.uri)
    model = register(uri, name, trained)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CI_JOB_URL", "https://ci.example.com/job/7")
        unsigned = check(uri, model, digits_file, "--json", "unsigned.json")
        assert unsigned.exit_code == 0, unsigned.output
        made = json.loads(Path("unsigned.json").read_text())["provenance"]
        assert made["ci"] == "https://ci.example.com/job/7"
        assert (made["server_user"], made["certain"], made["previous_digest"]) == (None, False, None)
        assert made.keys() >= {"user", "time", "versions", "data_digest", "rules_digest", "model_digest"}
        patch.setenv("FITB_SIGNING_KEY", "known to the gate")
        missing = fitb(uri, "verify", model)
        assert missing.exit_code == 1
        assert "the signature is missing or wrong" in missing.output
        assert check(uri, model, digits_file).exit_code == 0
        assert len(last_run(client, model).data.tags["fitb.signature"]) == 64
        assert fitb(uri, "verify", model).exit_code == 0
        patch.setenv("FITB_SIGNING_KEY", "guessed")
        assert fitb(uri, "verify", model).exit_code == 1
    assert check(uri, model, digits_file).exit_code == 0
    assert "fitb.signature" not in last_run(client, model).data.tags, "that was of an earlier check"


@pytest.mark.slow
def test_of_two_moves_at_once_one_wins_and_the_other_says_so(server):
    client = MlflowClient(server.uri)
    client.create_registered_model("race")
    for _ in range(3):
        client.create_model_version("race", "s3://bucket/model", None)
    client.set_registered_model_alias("race", "champion", "1")
    for _ in range(10):
        client.set_registered_model_alias("race", "champion", "1")
        won, lost, start = [], [], threading.Barrier(2)

        def move(version, won=won, lost=lost, start=start):
            start.wait()
            try:
                move_alias(MlflowClient(server.uri), "race", "champion", version=version, expected="1")
                won.append(version)
            except AliasMovedError as error:
                lost.append(str(error))

        threads = [threading.Thread(target=move, args=(version,)) for version in "23"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [alias_holder(client, "race", "champion")] == won
        (said,) = lost
        assert "check again" in said
    assert not [model.name for model in client.search_registered_models() if "lock" in model.name]


@pytest.mark.slow
def test_a_check_that_came_second_says_that_its_verdict_was_recorded(server, digits_file, trained):
    client = MlflowClient(server.uri)
    for _ in range(3):
        register(server.uri, "second", trained)
    client.set_registered_model_alias("second", "champion", "1")

    def on_step(step):
        if step == "Moving the alias":  # another check was faster
            client.set_registered_model_alias("second", "champion", "3")

    rules = Rules(rules=(Rule("min", "coverage", 0.1),), data=digits_file, settings={"num_masks": 16})
    with pytest.raises(CouldNotCheckError) as caught:
        check_registered(
            "models:/second/2", rules, promotion=Promotion("champion"), tracking_uri=server.uri, on_step=on_step
        )
    assert "the verdict (passed) was recorded, but the alias was not moved, run" in str(caught.value)
    assert "champion points to version 3, and no longer to 1; check again" in str(caught.value)
    assert client.get_model_version_by_alias("second", "champion").version == "3"
    assert client.get_model_version("second", "2").tags["fitb.verdict"].startswith("passed")


@pytest.mark.slow
def test_a_store_of_artifacts_that_goes_in_the_middle_moves_nothing(server, digits_file, trained, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    client, store = MlflowClient(server.uri), server.folder / "artifacts"
    register(server.uri, "storeless", trained)
    away = store.with_name("away")

    def on_step(step):
        if step == "Recording the evidence":
            store.rename(away)
            store.write_text("no folder any more")

    rules = Rules(rules=(Rule("min", "coverage", 0.1),), data=digits_file, settings={"num_masks": 16})
    try:
        with pytest.raises(CouldNotCheckError) as caught:
            check_registered(
                "models:/storeless/1", rules, promotion=Promotion("champion"), tracking_uri=server.uri, on_step=on_step
            )
    finally:
        store.unlink()
        away.rename(store)
    assert "the verdict (passed) could not be recorded, part of run" in str(caught.value)
    assert "artifacts" in str(caught.value)
    assert alias_holder(client, "storeless", "champion") is None
    assert "passed" not in client.get_model_version("storeless", "1").tags.get("fitb.verdict", "")


@pytest.mark.slow
def test_an_alias_moved_by_hand_is_left_alone(server):
    client = MlflowClient(server.uri)
    client.create_registered_model("moved")
    for _ in range(2):
        client.create_model_version("moved", "s3://bucket/model", None)
    client.set_registered_model_alias("moved", "champion", "2")
    with pytest.raises(AliasMovedError, match="champion points to version 2, and no longer to 1"):
        move_alias(client, "moved", "champion", version="1", expected="1")
    with pytest.raises(AliasMovedError, match="no longer to None"):
        move_alias(client, "moved", "champion", version="1", expected=None)
    assert alias_holder(client, "moved", "champion") == "2"


def test_who_checks_has_a_number_where_there_is_no_name(monkeypatch, trained, digits):
    """As in a container that runs as whatever user the platform chose."""
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 123_456)
    images, labels = (tensor[:4] for tensor in digits.tensors)
    candidate = FillInBlanks(num_masks=2, update="none").probe(trained, images, labels)
    assert evidence.provenance(candidate, Rules(), data="here", model_files="")["user"] == "123456"
