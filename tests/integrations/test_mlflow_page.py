"""What a run's page in MLflow says of its probes: description, tag, parameters, report."""

import re

import pytest
import torch
from lightning.pytorch.loggers import MLFlowLogger
from mlflow import MlflowClient

from fitb_callbacks import FillInBlanks, FillInBlanksCallback
from fitb_callbacks.integrations.mlflow.description import REPORT, merged, page_entries
from fitb_callbacks.integrations.record import make_record
from mlflow_store import new_store
from small_module import SmallModule

NOTE = "mlflow.note.content"


@pytest.fixture
def run(trainer, loaders, tmp_path):
    """Two epochs of two callbacks, in a run that has a description and a parameter of its own."""
    uri = new_store(tmp_path / "mlflow.db")
    logger = MLFlowLogger(tracking_uri=uri, artifact_location=(tmp_path / "artifacts").as_uri())
    client = MlflowClient(uri)
    client.set_tag(logger.run_id, NOTE, "My own notes.")
    client.log_param(logger.run_id, "fitb/seed", "mine")
    probes = [
        FillInBlanksCallback(num_masks=8, prefix=prefix, max_overhead=None, on_error="raise")
        for prefix in ("fitb", "other")
    ]
    trainer(callbacks=probes, logger=logger, max_epochs=2).fit(SmallModule(), *loaders)
    return client, client.get_run(logger.run_id), probes[0]


def test_the_page_says_what_the_last_probe_found(run):
    _, run, probe = run
    said = probe.result.interpretation()
    assert run.data.tags["fitb.verdict"].endswith(said["headline"])
    assert {"fitb.verdict", "other.verdict"} <= set(run.data.tags)
    description = run.data.tags[NOTE]
    assert description.startswith("My own notes.")
    assert description.count(said["headline"]) in (1, 2)  # one a callback, not one an epoch
    assert "Epoch 1," in description
    assert "Epoch 0," not in description
    first, facts = description.split("\n\n")[1:3]  # what MLflow shows unfolded
    assert first.startswith(f"**{run.data.tags['fitb.verdict']}** [Report](#/experiments/")
    assert re.search(r"coverage \d\.\d\d \(.+\)\.$", facts), facts
    assert f"runs/{run.info.run_id}/artifacts/{REPORT}" in description
    assert run.data.params["fitb/seed"] == "mine"
    assert run.data.params["fitb.settings"] == "random 0.25, patch 1, baseline 0, seed 0; 8 masks"
    assert "`mask_ratio=0.25`, " in description  # all settings, also the defaults
    assert next(iter(run.data.metrics)) == "fitb/structure"


@pytest.mark.slow
def test_one_parameter_tells_the_settings_and_changed_ones_have_their_own(run):
    """Few: MLflow prints every parameter above each picture."""
    _, run, _ = run
    for prefix in ("fitb", "other"):
        ours = {name: value for name, value in run.data.params.items() if name.startswith(f"{prefix}.")}
        in_short = "random 0.25, patch 1, baseline 0, seed 0; 8 masks"
        assert ours == {f"{prefix}.settings": in_short, f"{prefix}.num_masks": "8"}


def test_settings_without_an_effect_are_no_parameters():
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(400 * 4 * 4, 3))
    probe = FillInBlanks(
        num_masks=8, bfgs_steps=9, num_steps=2, low=0.1, chunk_size=4, seed=3, baseline=[0.123456] * 400
    )
    entries = page_entries(make_record(probe.probe(network, torch.rand(3, 400, 4, 4), torch.arange(3))))
    shown = {name.removeprefix("fitb."): value for name, value in entries["params"].items()}
    assert shown == {
        "settings": "random 0.25, patch 1, baseline 0.1235 0.1235 0.1235 ..., seed 3; 8 masks",
        "num_masks": "8",
        "seed": "3",
    }


@pytest.mark.slow
def test_a_second_fit_with_other_settings_goes_on_and_says_so_once(run, trainer, loaders, caplog):
    client, run, _ = run
    uri, run_id = client.tracking_uri, run.info.run_id
    probe = FillInBlanksCallback(num_masks=12, mask_ratio=0.5, max_overhead=None, on_error="raise")
    trainer(callbacks=[probe], logger=MLFlowLogger(tracking_uri=uri, run_id=run_id), max_epochs=2).fit(
        SmallModule(), *loaders
    )
    after = client.get_run(run_id)
    assert after.data.params == run.data.params
    assert after.data.tags["fitb.verdict"].endswith(probe.result.interpretation()["headline"])
    said = [record.getMessage() for record in caplog.records if "parameters" in record.getMessage()]
    assert len(said) == 1
    assert "fitb.mask_ratio=0.5 (was the default)" in said[0]
    assert "fitb.settings=random 0.5, " in said[0]
    assert "num_masks" not in said[0]  # the time limit changes it from probe to probe


@pytest.mark.slow
def test_each_kind_of_masks_has_its_own_parameters(trainer, loaders, tmp_path):
    uri = new_store(tmp_path / "mlflow.db")
    logger = MLFlowLogger(tracking_uri=uri, artifact_location=(tmp_path / "artifacts").as_uri())
    probe = FillInBlanksCallback(
        masking=("random", "progressive"), num_masks=8, mask_ratio=0.5, num_steps=2, max_overhead=None, on_error="raise"
    )
    trainer(callbacks=[probe], logger=logger, max_epochs=1).fit(SmallModule(), *loaders)
    params = MlflowClient(uri).get_run(logger.run_id).data.params
    assert params["fitb.mask_ratio"] == "0.5"
    assert params["fitb.progressive.num_steps"] == "2"
    assert params["fitb.settings"].startswith("random 0.5, patch 1, ")
    assert params["fitb.progressive.settings"].startswith("progressive in 2 steps, patch 1, ")
    assert not {"fitb.num_steps", "fitb.progressive.mask_ratio"} & set(params)


@pytest.mark.slow
def test_the_report_is_among_the_artifacts(run, tmp_path):
    client, run, _ = run
    page = open(client.download_artifacts(run.info.run_id, REPORT, str(tmp_path))).read()  # noqa: PTH123, SIM115
    assert page.startswith("<!doctype html>")
    assert "What this model learned" in page


def test_only_its_own_section_changes():
    notes = "Mine,\n\nof several lines"
    both = merged(merged(notes, "fitb random", "one\n\nmore"), "other random", "two") + "\n\nand a third."
    assert both.startswith(f"{notes}\n\none\n")
    assert merged(both, "fitb random", "three\n\nmore") == both.replace("one", "three")
    assert merged(both, "other random", "three") == both.replace("two", "three")
