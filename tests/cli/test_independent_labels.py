"""Commands on images of which each may have several labels."""

import json

import numpy as np
import pytest
import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import MLFlowLogger
from mlflow import MlflowClient
from torch.utils.data import DataLoader, TensorDataset

from fitb_callbacks import FillInBlanksResult
from fitb_callbacks.data.sources import open_images
from fitb_callbacks.integrations.folder import RECORDS
from mlflow_store import new_store
from quick import fitb, quick_callback, quiet_trainer
from several_labels import SeveralLabels, bars

MODULE = ("--class", "several_labels:SeveralLabels")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with the checkpoints of a run, its history, and files of images."""
    folder = tmp_path_factory.mktemp("trained")
    seed_everything(3, verbose=False)
    callback, saved = quick_callback(), ModelCheckpoint(folder, save_top_k=-1)
    trainer = quiet_trainer(folder, max_epochs=3, callbacks=[callback, saved], enable_checkpointing=True)
    loader = DataLoader(TensorDataset(*bars()), batch_size=24)
    trainer.fit(SeveralLabels(), loader, loader)
    images, labels = bars()
    np.savez(folder / "several.npz", images=images.numpy(), labels=labels.numpy())
    one = torch.eye(3)[torch.arange(len(images)) % 3]
    np.savez(folder / "one.npz", images=images.numpy(), labels=one.numpy())
    return folder, callback


def last(folder):
    return max(folder.glob("*.ckpt"), key=lambda path: path.stat().st_mtime)


@pytest.mark.parametrize("data", ["several.npz", "several_labels:as_numbers"])
def test_a_probe_takes_each_label_by_itself(trained, tmp_path, data):
    folder, _ = trained
    data = str(folder / data) if data.endswith("npz") else data
    done = fitb("probe", last(folder), *MODULE, "--data", data, "--num-masks", 16, "--output", tmp_path)
    assert done.exit_code == 0, done.output
    result = FillInBlanksResult.load(tmp_path / "result.npz")
    assert result.settings["independent"]
    truth = {image.numpy().tobytes(): labels for image, labels in zip(*bars(), strict=True)}
    own = [truth[image.numpy().tobytes()] for image in result.images]
    assert all(labels[label] == 1 for labels, label in zip(own, result.labels, strict=True))
    assert any(labels.sum() > 1 for labels in own)
    assert result.metrics["image_accuracy"] == 1  # by the strongest label alone, it would be about a half


def test_a_replay_has_the_numbers_of_the_run(trained, tmp_path):
    folder, callback = trained
    done = fitb("replay", folder, *MODULE, "--num-masks", 8, "--output", tmp_path / "replayed")
    assert done.exit_code == 0, done.output
    files = sorted((tmp_path / "replayed" / RECORDS).rglob("*.json"))
    records = [json.loads(file.read_text()) for file in files]
    assert [record["epoch"] for record in records] == [0, 1, 2]
    for record, entry in zip(records, callback.history, strict=True):
        for name in ("image_accuracy", "coverage", "accuracy", "area"):
            assert record["scores"][name] == pytest.approx(entry[name], abs=1e-5), name


def test_a_check_and_an_ablation_take_each_label_by_itself(trained, tmp_path):
    folder, _ = trained
    file = ("--data", folder / "several.npz")
    report = tmp_path / "verdict.json"
    done = fitb("check", last(folder), *MODULE, *file, "--min", "image_accuracy=0.95", "--dry-run", "--json", report)
    assert done.exit_code == 0, done.output
    assert json.loads(report.read_text())["verdict"] == "passed"
    few = ("--mask-ratio", 0.25, "--patch-size", 2, "--num-masks", 8)
    done = fitb("ablate", "--checkpoint", last(folder), *MODULE, *file, *few, "--output", tmp_path / "cells")
    assert done.exit_code == 0, done.output


@pytest.mark.slow
def test_a_check_takes_the_images_that_training_recorded(tmp_path):
    """From MLflow, without --data: the record says that each label is by itself."""
    uri = new_store(tmp_path / "mlflow.db")
    logger = MLFlowLogger(tracking_uri=uri, artifact_location=(tmp_path / "artifacts").as_uri())
    seed_everything(3, verbose=False)
    callback = quick_callback()
    trainer = quiet_trainer(tmp_path, max_epochs=3, logger=logger, callbacks=[callback])
    loader = DataLoader(TensorDataset(*bars()), batch_size=24)
    trainer.fit(SeveralLabels(), loader, loader)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    client = MlflowClient(uri)
    client.log_artifact(logger.run_id, tmp_path / "last.ckpt", "best")
    client.create_registered_model("several")
    client.create_model_version("several", f"runs:/{logger.run_id}/best", run_id=logger.run_id)
    report = tmp_path / "verdict.json"
    rule = ("--min", "image_accuracy=0.5")
    done = fitb("check", "models:/several/1", *MODULE, *rule, "--dry-run", "--tracking-uri", uri, "--json", report)
    assert done.exit_code == 0, done.output
    scores = json.loads(report.read_text())["scores"]
    assert scores["image_accuracy"] == callback.history[-1]["image_accuracy"] == 1


def test_a_saved_result_as_data_takes_each_label_by_itself(trained, tmp_path):
    folder, _ = trained
    quick = (*MODULE, "--num-masks", 8)
    fitb("probe", last(folder), *quick, "--data", folder / "several.npz", "--output", tmp_path / "first")
    saved = tmp_path / "first" / "result.npz"
    done = fitb("probe", last(folder), *quick, "--data", saved, "--output", tmp_path / "again")
    assert done.exit_code == 0, done.output
    first, again = (FillInBlanksResult.load(tmp_path / name / "result.npz") for name in ("first", "again"))
    assert again.settings["independent"]
    assert torch.equal(first.labels, again.labels)
    assert again.metrics["image_accuracy"] == 1  # by the strongest label alone, it would be about a half


@pytest.mark.parametrize("description", ["", "[" * 100_000, "[]", '{"settings": null}', "{}"])
def test_files_that_only_look_like_a_saved_result_have_classes(tmp_path, description):
    np.savez(
        tmp_path / "own.npz", images=np.zeros((2, 1, 8, 8)), labels=np.arange(2), description=np.array(description)
    )
    assert not open_images(str(tmp_path / "own.npz"), per_class=2).independent


def test_one_label_each_is_a_class(trained):
    chosen = open_images(str(trained[0] / "one.npz"), per_class=2)
    assert not chosen.independent
    assert chosen.labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_labels_that_are_neither_say_what_there_may_be(tmp_path):
    np.savez(tmp_path / "odd.npz", images=np.zeros((4, 1, 8, 8)), labels=np.full((4, 3), 0.5))
    done = fitb("probe", *MODULE, "--data", tmp_path / "odd.npz")
    assert done.exit_code != 0
    assert "labels) where an image may have several; got float64 (4, 3)" in " ".join(done.output.split())
