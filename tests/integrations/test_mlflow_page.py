"""What a run's page in MLflow says of its probes: description, tag, parameters, report."""

import pytest
from lightning.pytorch.loggers import MLFlowLogger
from mlflow import MlflowClient

from fitb_callbacks import FillInBlanksCallback
from fitb_callbacks.integrations.mlflow.description import REPORT, merged
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
    assert description.count("| score | value |") == 2
    assert f"runs/{run.info.run_id}/artifacts/{REPORT}" in description
    assert 'masking "random"' in description
    ours = {name for name in run.data.params if name.startswith(("fitb/", "other/"))}
    assert ours == {"fitb/seed"}  # MLflow prints parameters above every picture


def test_the_report_is_among_the_artifacts(run, tmp_path):
    client, run, _ = run
    page = open(client.download_artifacts(run.info.run_id, REPORT, str(tmp_path))).read()  # noqa: PTH123, SIM115
    assert page.startswith("<!doctype html>")
    assert "What this model learned" in page


def test_only_its_own_section_changes():
    both = merged(merged("", "fitb random", "one"), "other random", "two")
    assert merged(both, "fitb random", "three") == both.replace("one", "three")
    assert merged(both, "other random", "three") == both.replace("two", "three")
