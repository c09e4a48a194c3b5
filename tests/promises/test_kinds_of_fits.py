"""Step-based runs, several fits, validate and test, the other package, monitors that see nothing made-up."""

import math

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from fitb_callbacks import FillInBlanksCallback
from identical import assert_identical
from quick import probed_epochs, quick_callback, quiet_trainer
from small_module import SmallModule


class Endless(IterableDataset):
    def __init__(self, dataset):
        self.dataset = dataset

    def __iter__(self):
        while True:
            yield from self.dataset


@pytest.fixture
def endless(digits):
    return DataLoader(Endless(TensorDataset(*(tensor[:100] for tensor in digits.tensors))), batch_size=10)


STEPS = {"max_steps": 12, "max_epochs": -1, "val_check_interval": 4, "check_val_every_n_epoch": None}


def steps(probe):
    return [int(entry["step"]) for entry in probe.history]


def test_an_endless_training_is_probed_with_its_validations(trainer, endless, loaders):
    probe = quick_callback()
    trainer(callbacks=[probe], **STEPS).fit(SmallModule(), endless, loaders[1])
    assert steps(probe) == [3, 7, 11]


def test_every_n_train_steps(trainer, endless, loaders):
    probe = quick_callback(every_n_train_steps=8)
    trainer(callbacks=[probe], **STEPS).fit(SmallModule(), endless, loaders[1])
    assert steps(probe) == [3, 11]  # the first chance is taken


def test_every_n_train_steps_without_validation(trainer, endless):
    probe = quick_callback(every_n_train_steps=5)
    run = trainer(callbacks=[probe], max_steps=12, max_epochs=-1)
    run.fit(SmallModule(), endless)
    assert steps(probe) == [4, 9]
    assert run.callback_metrics["fitb/coverage"] == probe.history[-1]["coverage"]


def test_an_endless_training_without_any_chance_is_probed_at_its_end(trainer, endless):
    probe = quick_callback()
    trainer(callbacks=[probe], max_steps=12, max_epochs=-1).fit(SmallModule(), endless)
    assert steps(probe) == [11]


def test_every_n_epochs(trainer, loaders):
    probe = quick_callback(every_n_epochs=2)
    trainer(callbacks=[probe], max_epochs=5, val_check_interval=0.5).fit(SmallModule(), *loaders)
    assert probed_epochs(probe) == [0, 1, 3]


@pytest.mark.parametrize("order", [0, 1])
def test_monitors_see_nothing_that_was_made_up(trainer, endless, loaders, order, tmp_path):
    """From the first validation on there is a value, and it is the probe's."""
    seen = []

    class Watching(EarlyStopping):
        def _evaluate_stopping_criteria(self, current):
            seen.append(float(current))
            return super()._evaluate_stopping_criteria(current)

    probe, stopping = quick_callback(), Watching("fitb/coverage", mode="max", patience=50)
    saved = ModelCheckpoint(tmp_path, monitor="fitb/coverage", mode="max")
    callbacks = [stopping, saved]
    callbacks.insert(order, probe)
    trainer(callbacks=callbacks, enable_checkpointing=True, **STEPS).fit(SmallModule(), endless, loaders[1])
    assert seen == pytest.approx([entry["coverage"] for entry in probe.history])
    assert float(saved.best_model_score) == pytest.approx(max(seen))


class NoImages(SmallModule):
    def training_step(self, batch, batch_idx):
        return F.mse_loss(self(batch[0]), torch.zeros(len(batch[0]), 10))

    def validation_step(self, batch, batch_idx):
        self.training_step(batch, batch_idx)


def test_monitors_of_a_score_that_never_comes_end_nothing(trainer, loaders, tmp_path):
    """The callback is off: early stopping waits, the latest weights are kept, and both are as before afterwards."""

    class Plateau(NoImages):
        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=1e-2)
            scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "fitb/structure"}}

    stopping = EarlyStopping("fitb/structure", mode="max")
    saved = ModelCheckpoint(tmp_path, monitor="fitb/structure", mode="max")
    probe = FillInBlanksCallback(num_masks=4)
    run = trainer(callbacks=[stopping, saved, probe], max_epochs=3, enable_checkpointing=True)
    with pytest.warns(UserWarning, match="off for this run"):
        run.fit(Plateau(), *loaders)
    assert run.current_epoch == 3
    assert probe.history == []
    assert list(tmp_path.glob("*.ckpt"))
    assert (stopping.strict, saved.monitor) == (True, "fitb/structure")


def test_a_score_that_is_undefined_is_not_monitored(trainer, loaders):
    class Diverged(SmallModule):
        def forward(self, images):
            return super().forward(images) * (1 if self.training or self.trainer.sanity_checking else torch.nan)

    probe = FillInBlanksCallback(num_masks=4, max_overhead=None)
    stopping = EarlyStopping("fitb/accuracy", mode="max", patience=1)
    run = trainer(callbacks=[probe, stopping], max_epochs=4)
    run.fit(Diverged(), *loaders)
    assert run.current_epoch == 4
    assert "fitb/accuracy" not in run.callback_metrics
    assert all(math.isnan(entry["accuracy"]) for entry in probe.history)


@pytest.mark.slow
def test_each_fit_begins_anew(trainer, loaders, tmp_path):
    """As in cross-validation, or the trials of a search: one callback, several Trainers."""
    probe, kept = quick_callback(), []
    for fold in range(3):
        seed_everything(fold, verbose=False)
        saved = ModelCheckpoint(tmp_path / str(fold), monitor="fitb/coverage", mode="max")
        trainer(callbacks=[probe, saved], enable_checkpointing=True).fit(SmallModule(), *loaders)
        assert probed_epochs(probe) == [0, 1]
        assert math.isnan(probe.history[0]["drift"])
        kept.append(probe.result.updates)
        alone = quick_callback()
        seed_everything(fold, verbose=False)
        trainer(callbacks=[alone]).fit(SmallModule(), *loaders)
        assert torch.equal(alone.result.updates, probe.result.updates)
    assert not torch.equal(kept[0], kept[1])
    probe.reset()
    assert (probe.result, probe.history) == (None, [])


@pytest.mark.parametrize("function", ["validate", "test"])
def test_a_probe_on_request_with_validate_and_test(trainer, loaders, function):
    class Module(SmallModule):
        test_step = SmallModule.validation_step

    probe, model = quick_callback(probe_on=["fit", function]), Module()
    run = trainer(callbacks=[probe])
    getattr(run, function)(model, loaders[1], verbose=False)
    assert len(probe.history) == 1
    assert run.callback_metrics["fitb/coverage"] == probe.history[0]["coverage"]
    before = probe.history[-1]
    run.fit(model, *loaders)
    assert probed_epochs(probe) == [0, 1]
    assert probe.history[0] != before


def test_images_of_ones_own(trainer, loaders, digits):
    images, labels = (tensor[700:712] for tensor in digits.tensors)
    for given in ((images, labels), TensorDataset(images, labels), DataLoader(TensorDataset(images, labels))):
        probe = quick_callback(probe_images=given, images_per_class=20)
        trainer(callbacks=[probe], max_epochs=1).fit(SmallModule(), *loaders)
        assert sorted(probe.result.labels.tolist()) == sorted(labels.tolist())
        known = {image.numpy().tobytes() for image in images}
        assert all(image.numpy().tobytes() in known for image in probe.result.images)


def test_another_validation_loader(trainer, loaders, digits):
    other = DataLoader(TensorDataset(*(tensor[700:740] for tensor in digits.tensors)), batch_size=20)

    class Module(SmallModule):
        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            super().validation_step(batch, batch_idx)

    probe = quick_callback(dataloader_idx=1)
    trainer(callbacks=[probe]).fit(Module(), loaders[0], [loaders[1], other])
    known = {image.numpy().tobytes() for image in other.dataset.tensors[0]}
    assert probed_epochs(probe) == [0, 1]
    assert all(image.numpy().tobytes() in known for image in probe.result.images)


def test_a_validation_loader_that_is_not_there_is_said(trainer, loaders):
    probe = quick_callback(dataloader_idx=3, on_error="warn")
    with pytest.warns(UserWarning, match="dataloader_idx must be less than 1.*got 3.*loader 0") as said:
        trainer(callbacks=[probe]).fit(SmallModule(), *loaders)
    assert len([each for each in said if "FillInBlanks" in str(each.message)]) == 1
    validation = loaders[1].dataset.tensors[0]
    assert all((image == validation).flatten(1).all(dim=1).any() for image in probe.result.images)


def test_images_that_grow_are_followed(trainer, digits):
    """Progressive resizing: a larger size from the second epoch on."""

    class Pooled(SmallModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(
                nn.Conv2d(1, 8, 3, padding=1), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, 10)
            )

        def train_dataloader(self):
            side = 8 if self.current_epoch == 0 else 12
            images, labels = (tensor[:60] for tensor in digits.tensors)
            return DataLoader(TensorDataset(F.interpolate(images, side), labels), batch_size=20)

        val_dataloader = train_dataloader

    probe = FillInBlanksCallback(num_masks=4, max_overhead=None)
    with pytest.warns(UserWarning, match=r"images are now \(1, 12, 12\), no longer \(1, 8, 8\)"):
        trainer(callbacks=[probe], max_epochs=3, reload_dataloaders_every_n_epochs=1).fit(Pooled())
    assert probed_epochs(probe) == [0, 1, 2]
    assert probe.result.images.shape[1:] == (1, 12, 12)
    assert math.isnan(probe.history[1]["drift"])
    assert not math.isnan(probe.history[2]["drift"])


def test_the_other_package(tmp_path, loaders):
    """`pytorch_lightning` has classes of its own: its Trainer, modules and loggers work as those of `lightning`."""
    pl = pytest.importorskip("pytorch_lightning")
    if pl.LightningModule is LightningModule:
        pytest.skip("one and the same here")

    class Old(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = SmallModule().net

        forward, training_step, validation_step = (
            SmallModule.__dict__[name] for name in ("forward", "training_step", "validation_step")
        )
        configure_optimizers = SmallModule.configure_optimizers

    def fit(callbacks, folder):
        pl.seed_everything(0, verbose=False)
        model = Old()
        logger = pl.loggers.TensorBoardLogger(folder, name="", version="")
        run = pl.Trainer(
            max_epochs=2, accelerator="cpu", callbacks=callbacks, logger=logger, enable_progress_bar=False,
            enable_model_summary=False, default_root_dir=folder,
        )  # fmt: skip
        run.fit(model, *loaders)
        return {name: value.clone() for name, value in model.state_dict().items()}, torch.get_rng_state()

    probe = quick_callback(audit=True)
    stopping = pl.callbacks.EarlyStopping("fitb/coverage", mode="max", patience=9)
    saved = pl.callbacks.ModelCheckpoint(tmp_path / "with", monitor="fitb/coverage", mode="max")
    assert_identical(fit([], tmp_path / "without"), fit([probe, stopping, saved], tmp_path / "with"))
    assert probed_epochs(probe) == [0, 1]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "with"), size_guidance={"images": 0}).Reload()
    assert len(events.Images("fitb/prototypes")) == 3  # the first before training
    assert len(events.Scalars("fitb/coverage")) == 2


def test_the_callback_in_a_quiet_trainer_of_each_kind(tmp_path, loaders):
    """Barebones and fast_dev_run take away what the callback would use."""
    for options in ({"fast_dev_run": True}, {"max_epochs": 1, "limit_val_batches": 0}):
        probe = quick_callback()
        quiet_trainer(tmp_path, callbacks=[probe], **options).fit(SmallModule(), *loaders)
        assert probed_epochs(probe) == [0]
