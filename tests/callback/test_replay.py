"""A run's checkpoints give, afterwards, the very series that the callback logged while it trained."""

import csv
import json
import math
import re
from pathlib import Path

import pytest
import torch
from digits_data import training, validation
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from mlflow import MlflowClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader

from fitb_callbacks import FillInBlanks, FillInBlanksCallback
from fitb_callbacks.callback.probe_images import ProbeImages
from fitb_callbacks.callback.replay import (
    EpochCheckpoint,
    find_checkpoints,
    independent_labels,
    log_replay,
    replay,
    seen_by_callback,
)
from fitb_callbacks.integrations.folder import RECORDS
from fitb_callbacks.models.checkpoints import load_checkpoint
from fitb_callbacks.scoring.judges.ridge import RidgeJudge
from mlflow_store import new_store
from quick import fitb, quick_callback, quiet_trainer
from small_module import SmallModule

MODULE = "small_module:SmallModule"


def train(folder, callbacks, **options):
    seed_everything(3, verbose=False)
    saved = ModelCheckpoint(folder, save_top_k=-1, **options)
    trainer = quiet_trainer(folder, max_epochs=3, callbacks=[*callbacks, saved], enable_checkpointing=True)
    trainer.fit(
        SmallModule(), DataLoader(training(), batch_size=50, shuffle=True), DataLoader(validation(), batch_size=50)
    )
    return trainer


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder of checkpoints, and the history of the callback in the run."""
    folder = tmp_path_factory.mktemp("run")
    callback = FillInBlanksCallback(
        num_masks=32, masking=["random", "progressive"], on_error="raise", max_overhead=None
    )
    train(folder, [callback])
    return folder, callback.history


PROBES = [FillInBlanks(num_masks=32, masking=masking) for masking in ("random", "progressive")]


def replayed(checkpoints, images, labels, judge, **options):
    series = replay(lambda path: load_checkpoint(path, MODULE), checkpoints, images, labels, judge=judge, **options)
    return log_replay(series, [], prefix="fitb", judge=None)


def assert_same_series(found, logged, length=3):
    assert len(found) == len(logged) == length
    for one, other in zip(found, logged, strict=True):
        assert set(one) == set(other)
        for name in set(one) - {"seconds", "overhead"}:
            assert one[name] == pytest.approx(other[name], abs=1e-5, nan_ok=True), name


def test_from_what_the_callback_left_in_the_checkpoints(run):
    folder, history = run
    checkpoints, left_out = find_checkpoints([folder])
    assert not left_out
    images, labels, judge = seen_by_callback(checkpoints)
    assert_same_series(replayed(checkpoints, images, labels, judge, probes=PROBES), history)


@pytest.mark.parametrize("options", [{}, {"save_on_train_epoch_end": True}])
def test_of_a_run_without_the_callback(run, tmp_path, options):
    train(tmp_path / "plain", [], **options)
    checkpoints, _ = find_checkpoints([tmp_path / "plain"])
    assert seen_by_callback(checkpoints) is None
    chosen = ProbeImages(images_per_class=4, max_images=64)  # the defaults
    chosen.offer(*validation().tensors)
    chosen.fix(world_size=1)
    judge = RidgeJudge()
    judge.update(*training().tensors)
    assert_same_series(replayed(checkpoints, chosen.images, chosen.labels, judge, probes=PROBES), run[1])


def test_as_many_masks_as_the_callback_had_time_for(tmp_path, monkeypatch):
    monkeypatch.setattr("fitb_callbacks.callback.time_budget.FLOOR_SECONDS", 1e6)  # however slow the machine is
    monkeypatch.setattr("fitb_callbacks.callback.time_budget._USUAL_SHARE", 1e-6)
    settings = {"num_masks": 100_000, "tolerance": None, "fill": None}
    callback = FillInBlanksCallback(on_error="raise", **settings)
    train(tmp_path / "short", [callback])
    checkpoints, _ = find_checkpoints([tmp_path / "short"])
    assert checkpoints[0].callback["size"] == {}  # there was time for the last epoch's probe only
    size = checkpoints[-1].callback["size"]
    assert (size["masks"], size["images"]) == (16, 8)
    images, labels, judge = seen_by_callback(checkpoints)
    probes = [FillInBlanks(**settings)]
    found = replayed(checkpoints[-1:], images, labels, judge, probes=probes, masks_of_the_run=True)
    assert_same_series(found, callback.history, length=1)


def test_other_weights_give_another_series(run):
    folder, history = run
    checkpoints, _ = find_checkpoints([folder])
    images, labels, judge = seen_by_callback(checkpoints)
    turned = replayed(checkpoints[::-1], images, labels, judge, probes=PROBES)
    assert turned[1]["drift"] != pytest.approx(history[1]["drift"], abs=1e-5)


def test_progress_covers_all_probes(run):
    checkpoints, _ = find_checkpoints([run[0]])
    images, labels, _ = seen_by_callback(checkpoints)
    reports = []
    replayed(checkpoints, images, labels, None, probes=PROBES[:1], progress=lambda *report: reports.append(report))
    assert reports[-1] == (3 * 32 * 40, 3 * 32 * 40)
    assert reports == sorted(reports)


@pytest.mark.slow
def test_the_command_writes_the_series(run, tmp_path, monkeypatch):
    folder, history = run
    store = new_store(tmp_path / "mlflow.db")
    client = MlflowClient(store)
    experiment = client.create_experiment("replayed", artifact_location=(tmp_path / "artifacts").as_uri())
    mlflow_run = client.create_run(experiment).info.run_id
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    done = fitb(
        "replay", folder, "--class", MODULE, "--num-masks", 32, "--masking", "random", "--masking", "progressive",
        "--tensorboard", "--mlflow-run", mlflow_run,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert re.match("epoch 2: [✓✗?] ", done.output.splitlines()[-1])
    assert "nan" not in done.output
    with Path("fitb-replay/metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row, logged in zip(rows, history, strict=True):
        assert int(row["step"]) == logged["step"]
        for name in ("structure", "coverage", "knows", "progressive/coverage"):
            wanted = logged[name]
            assert (
                row[f"fitb/{name}"] == ""
                if math.isnan(wanted)
                else float(row[f"fitb/{name}"]) == pytest.approx(wanted, abs=1e-5)
            ), name
    events = EventAccumulator("fitb-replay", size_guidance={"images": 0}).Reload()
    steps = [entry["step"] for entry in history]
    assert [event.step for event in events.Images("fitb/prototypes")] == steps
    assert [metric.step for metric in client.get_metric_history(mlflow_run, "fitb/structure")] == steps
    assert fitb("report", "fitb-replay").exit_code == 0
    again = fitb("replay", folder, "--class", MODULE)
    assert again.exit_code == 2
    assert "--output must be a new folder" in again.output


@pytest.mark.slow
def test_what_the_callback_saw_before_training_and_the_class_names_come_along(tmp_path):
    names = [f"kind {label}" for label in range(10)]
    logger = CSVLogger(tmp_path, name="trained", version="")
    saved = ModelCheckpoint(tmp_path / "checkpoints", save_top_k=-1)
    trainer = quiet_trainer(
        tmp_path, logger=logger, callbacks=[quick_callback(class_names=names), saved], enable_checkpointing=True
    )
    trainer.fit(SmallModule(), DataLoader(training(), batch_size=50), DataLoader(validation(), batch_size=50))
    for name, before in (("again", [True, False]), ("other images", [False, False])):
        data = ["--data", "digits_data:validation", "--images-per-class", 2] if name == "other images" else []
        arguments = ("--class", MODULE, "--num-masks", 8, *data, "--output", tmp_path / name)
        assert fitb("replay", tmp_path / "checkpoints", *arguments).exit_code == 0
        paths = sorted(Path(tmp_path, name, RECORDS).glob("*.json"))
        records = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
        assert ["before" in record for record in records] == before
    first, again = (
        json.loads(min(Path(tmp_path, name, RECORDS).glob("*.json")).read_text()) for name in ("trained", "again")
    )
    assert again["before"] == first["before"]
    assert again["classes"] == first["classes"] == names


def test_checkpoints_that_are_none_are_left_out(run, tmp_path):
    folder = tmp_path / "mixed"
    train(folder, [], every_n_train_steps=3)  # 8 batches an epoch: steps 3 and 6 of the first are in its middle
    (folder / "broken.ckpt").write_bytes(next(folder.glob("*.ckpt")).read_bytes()[:1000])
    torch.save(SmallModule().state_dict(), folder / "weights.ckpt")
    with pytest.raises(ValueError, match="in the middle of an epoch") as refused:
        find_checkpoints([folder / "epoch=0-step=3.ckpt"])
    assert str(folder) in str(refused.value)
    found, left_out = find_checkpoints([folder, *run[0].glob("*.ckpt")])
    assert [checkpoint.epoch for checkpoint in found] == [0, 1, 2]
    reasons = {path.name: why for path, why in left_out.items()}
    assert "cannot be read" in reasons["broken.ckpt"]
    assert "no checkpoint of a Lightning training" in reasons["weights.ckpt"]
    assert "in the middle" in reasons["epoch=0-step=3.ckpt"]


@pytest.mark.parametrize("lost", ["size", "images", "streamed", "labels", "callbacks", "fit_loop"])
def test_a_checkpoint_of_another_version_gets_one_line(run, tmp_path, lost):
    content = torch.load(next(run[0].glob("*.ckpt")), weights_only=True)
    if lost == "callbacks":
        content["callbacks"] = None
    elif lost == "fit_loop":
        content["loops"]["fit_loop"] = {}
    else:
        (state,) = (state for key, state in content["callbacks"].items() if key.startswith("FillIn"))
        del state[lost]
    torch.save(content, tmp_path / "other.ckpt")
    done = fitb("replay", tmp_path / "other.ckpt", "--class", MODULE)
    assert (done.exit_code, len(done.output.strip().splitlines())) == (2, 1), done.output
    says = "does not say where in the training" if lost == "fit_loop" else "no state of the callback that this version"
    assert says in done.output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere"], "there is no nowhere"),
        (["."], "must hold Lightning checkpoints"),
        (["RUN", "--data", "mnist"], "the model fails on these images: mat1"),
        (["RUN", "--mask-ratio", "2"], "mask_ratio must be"),
        (["RUN", "--reference", "nothing.npz"], "there is no file nothing.npz"),
        (["RUN", "--mlflow-run", "none"], "there is no MLflow database sqlite:///"),
    ],
)
def test_bad_input_of_replay(run, arguments, says, monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    done = fitb("replay", *(run[0] if word == "RUN" else word for word in arguments), "--class", MODULE)
    assert done.exit_code == 2, done.output
    assert says in done.output
    assert len(done.output.strip().splitlines()) == 1


def test_a_run_that_the_store_does_not_have(run, monkeypatch, tmp_path):
    store = new_store(tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    done = fitb("replay", run[0], "--class", MODULE, "--mlflow-run", "none")
    assert done.exit_code == 2
    assert f"--mlflow-run must be a run in {store}" in done.output
    assert len(done.output.strip().splitlines()) == 1


def test_replay_of_a_run_without_the_callback_wants_data(tmp_path):
    train(tmp_path / "plain", [])
    done = fitb("replay", tmp_path / "plain", "--class", MODULE)
    assert done.exit_code == 2
    assert "--data must be given" in done.output


# --- fitb probe ------------------------------------------------------------------------------------------------


def test_probe_of_a_checkpoint_is_that_of_the_callback(run, tmp_path):
    folder, history = run
    last = find_checkpoints([folder])[0][-1].path
    done = fitb(
        "probe", last, "--class", MODULE, "--data", "digits_data:validation", "--reference", "digits_data:training",
        "--num-masks", 32,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    from fitb_callbacks import FillInBlanksResult

    result = FillInBlanksResult.load("fitb-probe/result.npz")
    for name in ("coverage", "accuracy", "structure", "area"):
        assert result.metrics[name] == pytest.approx(history[-1][name], abs=1e-5), name
        assert f"{result.metrics[name]:.3f}" in done.output
    assert (tmp_path / "fitb-probe" / "prototypes.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere.ckpt", "--class", MODULE, "--data", "mnist"], "there is no checkpoint nowhere.ckpt"),
        (["CKPT", "--class", "fitb_callbacks.demo:SmallCNN", "--data", "mnist"], "is not a checkpoint of"),
        (["CKPT", "--class", "small_module:Nothing", "--data", "mnist"], "there is no 'Nothing'"),
        (["CKPT", "--class", MODULE, "--data", "cats"], "--data must be a folder"),
        (["CKPT", "--class", MODULE, "--data", "mnist"], "the model fails on these images: mat1"),
        (["CKPT", "--class", MODULE, "--data", "digits_data:validation", "--patch-size", "9"], "at most 8"),
    ],
)
def test_bad_input_of_probe(run, arguments, says):
    checkpoint = find_checkpoints([run[0]])[0][-1].path
    done = fitb("probe", *(checkpoint if word == "CKPT" else word for word in arguments))
    assert done.exit_code == 2, done.output
    assert says in done.output
    assert len(done.output.strip().splitlines()) == 1


def test_a_checkpoint_from_before_labels_could_be_independent_has_classes():
    older = EpochCheckpoint(Path("epoch=0.ckpt"), 0, 1, {"images": None, "labels": None, "streamed": None, "size": {}})
    assert not independent_labels([older])
