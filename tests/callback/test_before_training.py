"""A picture of the untrained network at step 0, to compare with; it is no score, and no probe of the history."""

import contextlib
import json
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader, Subset, TensorDataset
from with_and_without import Base, bars, compared_with_and_without

from fitb_callbacks.callback.time_budget import ProbeSize, Speeds, TimeBudget
from quick import probed_epochs, quick_callback
from small_module import SmallModule


def steps_of_pictures(logger):
    events = EventAccumulator(logger.log_dir).Reload()
    return [event.step for event in events.Images("fitb/prototypes")], [
        event.step for event in events.Scalars("fitb/coverage")
    ]


class Bars(Base):
    def forward(self, images):
        return self.net(images)


class Look(Callback):
    """What is monitored when training starts."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == 0:
            self.keys = [key for key in trainer.callback_metrics if "fitb" in key]


def test_the_untrained_network_is_shown_at_step_0_and_is_no_score(trainer, loaders, tmp_path):
    logger, callback, look = TensorBoardLogger(tmp_path), quick_callback(masking=["random", "progressive"]), Look()
    run = trainer(logger=logger, callbacks=[callback, look], num_sanity_val_steps=2)
    run.fit(SmallModule(), *loaders)
    assert steps_of_pictures(logger) == ([0, 7, 15], [7, 15])
    events = EventAccumulator(logger.log_dir).Reload()
    assert [event.step for event in events.Images("fitb/progressive/prototypes")] == [0, 7, 15]
    assert [event.step for event in events.Images("fitb/at_a_glance")] == [0, 7, 15]
    assert [event.step for event in events.Images("fitb/timeline")] == [7, 15]
    assert look.keys == []
    assert probed_epochs(callback) == [0, 1]
    run.fit_loop.max_epochs = 3
    run.fit(SmallModule(), *loaders)  # goes on
    assert steps_of_pictures(logger) == ([0, 7, 15, 23], [7, 15, 23])


@pytest.mark.parametrize(
    ("options", "settings", "number"),
    [
        ({"num_sanity_val_steps": 0}, {}, 100),
        ({}, {}, 5),  # images, fewer than classes
        ({}, {"max_overhead": "auto"}, 100),
        ({"fast_dev_run": True}, {}, 100),
    ],
    ids=["no sanity check", "not every class is there", "no time", "fast_dev_run"],
)
def test_without_images_time_or_loggers_there_is_none(trainer, loaders, tmp_path, options, settings, number):
    logger, callback = TensorBoardLogger(tmp_path), quick_callback(**settings)
    run = trainer(logger=logger, callbacks=[callback], max_epochs=1, **options)
    data = Subset(loaders[1].dataset, range(number))
    run.fit(SmallModule(), loaders[0], DataLoader(data, batch_size=50))
    assert probed_epochs(callback) in ([0], [])
    if "fast_dev_run" in options:
        return
    events = EventAccumulator(logger.log_dir).Reload()
    shown = events.Images("fitb/prototypes") if "fitb/prototypes" in events.Tags()["images"] else []
    assert [event.step for event in shown] in ([7], [])


def test_a_resumed_run_shows_none(trainer, loaders, tmp_path):
    keep = ModelCheckpoint(tmp_path, save_last=True)
    trainer(callbacks=[quick_callback(), keep], max_epochs=1, enable_checkpointing=True).fit(SmallModule(), *loaders)
    logger = TensorBoardLogger(tmp_path / "again")
    run = trainer(logger=logger, callbacks=[quick_callback()], max_epochs=2)
    run.fit(SmallModule(), *loaders, ckpt_path=tmp_path / "last.ckpt")
    assert steps_of_pictures(logger)[0] == [15]


def records_of(folder):
    paths = sorted(Path(folder, "fitb-records").glob("*.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def test_the_first_record_holds_the_picture_also_after_a_resume_in_mid_epoch(trainer, loaders, tmp_path):
    class Stop(Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 4:
                trainer.save_checkpoint(tmp_path / "middle.ckpt")
                raise KeyboardInterrupt

    def fit(name, *callbacks, **options):
        logger, callback = CSVLogger(tmp_path, name=name, version=""), quick_callback()
        run = trainer(logger=logger, callbacks=[callback, *callbacks], num_sanity_val_steps=2)
        torch.manual_seed(0)
        with contextlib.suppress(SystemExit, KeyboardInterrupt):
            run.fit(SmallModule(), *loaders, **options)
        return records_of(logger.log_dir)

    first, second = fit("whole")
    assert "before" not in second
    assert first["before"].startswith("data:image/webp;base64,")
    assert fit("stopped", Stop()) == []
    assert (tmp_path / "middle.ckpt").stat().st_size < 10 * 2**20
    resumed, second = fit("resumed", ckpt_path=tmp_path / "middle.ckpt")
    assert (resumed["before"], "before" in second) == (first["before"], False)


def test_training_is_untouched(tmp_path):
    logger = CSVLogger(tmp_path)
    probe, said, _ = compared_with_and_without(
        Bars, TensorDataset(*bars()), options={"logger": logger}, images_per_class=1, on_error="raise"
    )
    assert said == []
    assert probed_epochs(probe) == [0, 1]
    pictures = sorted(path.name for path in Path(logger.log_dir, "fitb/prototypes").iterdir())
    assert pictures == [f"step-{step:08}.png" for step in (0, 3, 7)]


def test_a_quarter_of_the_first_epochs_share_pays_for_it():
    wanted = ProbeSize(masks=256, images=40)
    speeds = Speeds(masked_image=0.01, image=0.1, filled_image=0.5)
    smallest = 8 * (16 * 0.01 + 0.1) + 0.4
    for share, expected in (
        (0.99 * smallest, None),
        (1.01 * smallest, ProbeSize(16, 8, fill=False)),
        (1.01 * (smallest + 8 * 0.5), ProbeSize(16, 8)),
        (1000, ProbeSize(16, 8)),
    ):
        budget = TimeBudget(0.05)
        budget.measure(speeds)
        assert budget.plan_before_training(wanted, epoch_seconds=4 * share / 0.05) == expected
    assert TimeBudget(None).plan_before_training(wanted, epoch_seconds=0) == wanted
