"""A run that was killed goes on as if it had not been."""

import json
import math
import os
import signal
import warnings
from functools import cache
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, TensorDataset

import warm_process
from fitb_callbacks import FillInBlanksCallback
from fitb_callbacks.callback import callback as callback_module
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


def resumed(trainer, loaders, path, **settings):
    """One epoch more; the callback, and what it said."""
    probe = FillInBlanksCallback(**{"max_overhead": None, "num_masks": 4, "images_per_class": 2} | settings)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer(callbacks=[probe], max_epochs=2).fit(SmallModule(), *loaders, ckpt_path=path)
    assert [entry["epoch"] for entry in probe.history] == [0, 1]
    return probe, [str(each.message) for each in caught if "FillInBlanks" in str(each.message)]


@pytest.fixture
def first_epoch(trainer, loaders, tmp_path):
    """The checkpoint of a run's first epoch, and its callback."""
    probe = FillInBlanksCallback(max_overhead=None, num_masks=4, images_per_class=2)
    return checkpointed(trainer, loaders, tmp_path, [probe]), probe


def test_the_same_settings_and_data_are_compared(trainer, loaders, first_epoch):
    path, before = first_epoch
    probe, said = resumed(trainer, loaders, path)
    assert said == []
    assert torch.equal(probe.result.images, before.result.images)
    assert probe.history[1]["drift"] >= 0


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"images_per_class": 3}, "images_per_class was 2, is 3"),
        ({"patch_size": 4}, "patch_size was None, is 4"),
        ({"masking": "progressive"}, "maskings was ['random'], is ['progressive']"),
    ],
)
def test_other_settings_are_said_and_not_compared(trainer, loaders, first_epoch, settings, says):
    probe, (said,) = resumed(trainer, loaders, first_epoch[0], **settings)
    assert says in said
    assert "scores before and after do not compare" in said
    assert math.isnan(probe.history[1]["drift"])
    assert len(probe.result.images) == 10 * settings.get("images_per_class", 2)


def other(loader):
    """The same images in negative, which no longer are those of the checkpoint."""
    images, labels = loader.dataset[:]
    return DataLoader(TensorDataset(1 - images, labels), batch_size=50)


def test_other_data_are_said_and_probed(trainer, loaders, first_epoch):
    path, before = first_epoch
    probe, (said,) = resumed(trainer, [other(each) for each in loaders], path)
    assert "the probe images are not those of the checkpoint" in said
    torch.testing.assert_close(probe.result.images, 1 - before.result.images)
    assert math.isnan(probe.history[1]["drift"])


def test_a_shuffled_validation_holds_the_images_all_the_same(trainer, loaders, first_epoch):
    path, before = first_epoch
    shuffled = DataLoader(loaders[1].dataset, batch_size=5, shuffle=True)
    probe, said = resumed(trainer, (loaders[0], shuffled), path)
    assert said == []
    assert torch.equal(probe.result.images, before.result.images)


def test_given_images_are_those_that_are_given(trainer, loaders, first_epoch):
    images, labels = loaders[0].dataset[:10]
    probe, (said,) = resumed(trainer, loaders, first_epoch[0], probe_images=(images, labels))
    assert "the probe images are not those of the checkpoint" in said
    assert len(probe.result.images) <= 10
    assert all((image == images).flatten(1).all(dim=1).any() for image in probe.result.images)


@pytest.mark.parametrize("data", ["the same", "other"])
def test_images_too_large_for_a_checkpoint_are_chosen_anew(trainer, loaders, tmp_path, data, monkeypatch):
    monkeypatch.setattr(callback_module, "_CHECKPOINT_BYTES", 0)
    before = FillInBlanksCallback(max_overhead=None, num_masks=4, images_per_class=2)
    path = checkpointed(trainer, loaders, tmp_path, [before])
    assert torch.load(path, weights_only=True)["callbacks"][before.state_key]["images"] is None
    probe, said = resumed(trainer, loaders if data == "the same" else [other(each) for each in loaders], path)
    assert torch.equal(probe.result.images, before.result.images) == (data == "the same")
    assert len(said) == (data == "other")


def test_a_requeue_in_the_middle_of_a_probe_leaves_no_gap(trainer, loaders, tmp_path):
    """SIGUSR1 makes Lightning write a checkpoint and requeue the job, wherever the process is at that moment."""
    settings = {"max_overhead": None, "num_masks": 4, "images_per_class": 2}
    interrupted = []

    def logits(module, images):
        if images.requires_grad and module.trainer.current_epoch == 2 and not interrupted:
            interrupted.append(True)
            os.kill(os.getpid(), signal.SIGUSR1)
        return module(images)

    first = trainer(callbacks=[FillInBlanksCallback(logits_fn=logits, **settings)], max_epochs=3)
    before = signal.signal(signal.SIGUSR1, lambda *_: first.save_checkpoint(tmp_path / "hpc.ckpt"))
    try:
        first.fit(SmallModule(), *loaders)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert interrupted
    probe = FillInBlanksCallback(**settings)
    trainer(callbacks=[probe], max_epochs=5).fit(SmallModule(), *loaders, ckpt_path=tmp_path / "hpc.ckpt")
    assert [entry["epoch"] for entry in probe.history] == [0, 1, 2, 3, 4]


class ManyClasses(SmallModule):
    """A thousand classes of photographs."""

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.AvgPool2d(28), torch.nn.Flatten(), torch.nn.Linear(192, 1000))


@pytest.mark.slow
def test_a_checkpoint_grows_by_less_than_10_megabytes(trainer, tmp_path):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (96, 3, 224, 224), generator=generator) / 255
    data = DataLoader(TensorDataset(images, torch.arange(96) * 10 + 9), batch_size=32)
    sizes = []
    for callbacks in ([], [FillInBlanksCallback(max_overhead=None, num_masks=2, fill=None)]):
        run = trainer(callbacks=callbacks, max_epochs=1)
        run.fit(ManyClasses(), data, data)
        run.save_checkpoint(tmp_path / "large.ckpt")
        sizes.append((tmp_path / "large.ckpt").stat().st_size)
    assert len(callbacks[0].result.images) == 64
    assert callbacks[0].state_dict()["streamed"]["class_sums"].shape[0] == 1000
    assert 7e6 < sizes[1] - sizes[0] < 10e6
