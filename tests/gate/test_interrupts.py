"""A check that somebody ends while it records: nothing stays open, and what is left behind is said."""

import os
import re
import signal

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient

from exported import log_exported
from fitb_callbacks.gate.registry import check_registered
from fitb_callbacks.gate.rules import Rule, Rules
from fitb_callbacks.integrations.mlflow import registry
from mlflow_store import new_store
from quick import fitb

COVERED = Rules((Rule("min", "coverage", 0.5),), data="validation.npz", settings={"num_masks": 8, "fill": None})


@pytest.fixture
def store(tmp_path, digits, trained):
    """A registered model, and images in a file."""
    images, labels = (tensor[1400:1440] for tensor in digits.tensors)
    np.savez("validation.npz", images=images, labels=labels)
    uri = new_store(tmp_path / "mlflow.db")
    mlflow.set_tracking_uri(uri)
    mlflow.create_experiment("digits", artifact_location=(tmp_path / "files").as_uri())
    mlflow.set_experiment("digits")
    with mlflow.start_run():
        log_exported(trained.eval(), name="net", registered_model_name="digits")
    return uri


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM], ids=["by hand", "by CI"])
def test_a_check_that_is_ended_while_it_records_leaves_no_open_run(store, monkeypatch, by):
    monkeypatch.setattr(registry, "record", lambda *_, **__: os.kill(os.getpid(), by))
    # A job in the background of a shell, as a test run may be, ignores Ctrl-C
    usual = signal.default_int_handler if by == signal.SIGINT else signal.SIG_DFL
    monkeypatch.setattr(signal, "_before_the_test", signal.signal(by, usual), raising=False)
    before = signal.getsignal(by)
    options = ["--data", "validation.npz", "--min", "coverage=0.5", "--set", "num_masks=8", "--set", "fill=null"]
    done = fitb("check", "models:/digits/1", *options, "--promote", "champion", "--tracking-uri", store)
    assert done.exit_code == 2, done.output
    said = re.search(
        r"it was interrupted: the verdict \(passed\) could not be recorded, part of run (\w+) was written", done.output
    )
    assert said, done.output
    client = MlflowClient(store)
    run = client.get_run(said[1])
    assert (run.info.status, run.data.tags["fitb.verdict"]) == ("FAILED", "pending")
    assert client.get_model_version("digits", "1").tags == {}
    assert not client.get_registered_model("digits").aliases
    assert signal.getsignal(by) == before


def test_from_python_an_interrupt_stays_one(store, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(registry, "publish", interrupted)
    with pytest.raises(KeyboardInterrupt, match=r"the verdict \(passed\) could not be recorded, run \w+ was written"):
        check_registered("models:/digits/1", COVERED, tracking_uri=store)
    (checked,) = MlflowClient(store).search_runs(["1"], "tags.`fitb.verdict` = 'passed'")
    assert checked.info.status == "FINISHED"
