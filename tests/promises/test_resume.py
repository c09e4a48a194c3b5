"""A run that was killed goes on as if it had not been."""

import json
import os
import signal
from functools import cache
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint

import warm_process
from fitb_callbacks import FillInBlanksCallback
from fitb_callbacks.callback.probe_images import unpack
from small_module import SmallModule

SCRIPT = Path(__file__).parents[1] / "helpers" / "resume_run.py"


def run(folder, kill="never", *options):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(SCRIPT.parent)}
    return warm_process.run(SCRIPT, folder, kill, *options, environment=environment)


def series(folder):
    history = json.loads((folder / "history.json").read_text())
    return [{key: value for key, value in entry.items() if key not in {"seconds", "overhead"}} for entry in history]


def timelines(folder):
    """The timeline as it was after each epoch."""
    return [path.read_bytes() for path in sorted((folder / "log" / "run" / "fitb" / "timeline").iterdir())]


def notes(folder):
    return [json.loads(line) for line in (folder / "notes.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The same run, left alone."""

    @cache
    def folder(*options):
        path = tmp_path_factory.mktemp("uninterrupted")
        done = run(path, "never", *options)
        assert done.returncode == 0, done.stderr
        return path

    return folder


@pytest.mark.parametrize(
    ("kill", "options", "epochs_before"),
    [
        ("in a probe", (), [0, 1]),
        pytest.param("in an epoch", (), [0, 1], marks=pytest.mark.slow),
        pytest.param("in a probe", ("no validation",), [0, 1], marks=pytest.mark.slow),
        # The first epoch's batches give the probe images: those found before the checkpoint are in it.
        pytest.param("in the first epoch", ("no validation",), [], marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_gives_the_same_series(tmp_path, uninterrupted, kill, options, epochs_before):
    killed = run(tmp_path, kill, *options)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    before = notes(tmp_path) if (tmp_path / "notes.jsonl").exists() else []
    assert [note["epoch"] for note in before] == epochs_before
    resumed = run(tmp_path, "never", *options)
    assert resumed.returncode == 0, resumed.stderr

    expected = uninterrupted(*options)
    assert [entry["epoch"] for entry in series(tmp_path)] == [0, 1, 2, 3, 4]
    assert [note["epoch"] for note in notes(tmp_path)] == [0, 1, 2, 3, 4]
    for note, expected_note in zip(notes(tmp_path), notes(expected), strict=True):
        assert (note["images"], note["labels"]) == (expected_note["images"], expected_note["labels"])
    if kill != "in the first epoch":  # there, Lightning begins the epoch's data anew: other weights
        assert series(tmp_path) == series(expected)
        assert notes(tmp_path) == notes(expected)
        assert len(set(timelines(tmp_path))) == 5
        assert timelines(tmp_path) == timelines(expected)


def checkpointed(trainer, loaders, tmp_path, callbacks):
    saved = ModelCheckpoint(dirpath=tmp_path, filename="last")
    run = trainer(callbacks=[*callbacks, saved], enable_checkpointing=True, max_epochs=1)
    run.fit(SmallModule(), *loaders)
    return tmp_path / "last.ckpt"


def test_the_state_loads_with_weights_only(trainer, loaders, tmp_path):
    probe = FillInBlanksCallback(max_overhead=None, num_masks=4)
    path = checkpointed(trainer, loaders, tmp_path, [probe])
    state = torch.load(path, weights_only=True)["callbacks"][probe.state_key]
    assert torch.equal(unpack(state["images"]), probe.result.images)
    again = FillInBlanksCallback(max_overhead=None, num_masks=4)
    again.load_state_dict(state)
    assert repr(again.history) == repr(probe.history)  # NaN is not equal to itself
    again_state = again.state_dict()
    assert again_state["probed_epoch"] == 0
    assert torch.equal(again_state["labels"], probe.result.labels)


def test_a_checkpoint_without_our_state_loads_with_one_warning(trainer, loaders, tmp_path, recwarn):
    path = checkpointed(trainer, loaders, tmp_path, [])
    probe = FillInBlanksCallback(max_overhead=None, num_masks=4)
    trainer(callbacks=[probe], max_epochs=3).fit(SmallModule(), *loaders, ckpt_path=path)
    assert [entry["epoch"] for entry in probe.history] == [1, 2]
    ours = [str(warning.message) for warning in recwarn if "FillInBlanksCallback" in str(warning.message)]
    assert len(ours) == 1
    assert "holds no state for prefix 'fitb'" in ours[0]


def test_a_checkpoint_with_our_state_loads_without_us(trainer, loaders, tmp_path):
    path = checkpointed(trainer, loaders, tmp_path, [FillInBlanksCallback(max_overhead=None, num_masks=4)])
    run = trainer(max_epochs=2)
    run.fit(SmallModule(), *loaders, ckpt_path=path)
    assert run.current_epoch == 2
    assert isinstance(SmallModule.load_from_checkpoint(path), LightningModule)
