"""Shapes of data, kinds of runs and loggers that users have."""

import csv
import os
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger
from mlflow import MlflowClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from fitb_callbacks import FillInBlanksCallback
from fitb_callbacks.integrations.loggers import log_picture
from mlflow_store import new_store
from quick import probed_epochs, quick_callback
from small_module import SmallModule


class AnyShape(LightningModule):
    """A classifier of images of one shape, that takes integers, too."""

    def __init__(self, shape=(1, 8, 8), num_classes=10):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(shape[0], 4, 3, padding=1), nn.ReLU(), nn.Flatten())
        self.head = nn.Linear(4 * shape[1] * shape[2], num_classes)

    def forward(self, images):
        return self.head(self.net(images.to(self.head.weight.dtype)))

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.log("val_loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-2)


def data(size=40, shape=(1, 8, 8), num_classes=10, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(size, *shape, generator=generator)
    images = (images * 255).to(dtype) if dtype == torch.uint8 else images.to(dtype)
    return TensorDataset(images, torch.randint(num_classes, (size,), generator=generator))


callback = partial(quick_callback, num_masks=4, images_per_class=4, audit=True)


@pytest.mark.parametrize(
    "options",
    [
        {"fast_dev_run": True},
        {"fast_dev_run": 2},
        {"limit_val_batches": 1},
        {"limit_val_batches": 0.5, "limit_train_batches": 2},
        {"overfit_batches": 1},
        {"overfit_batches": 0.5},
        {"max_steps": 3, "max_epochs": -1},
        {"barebones": True},
        {"reload_dataloaders_every_n_epochs": 1},
    ],
)
def test_kinds_of_runs(trainer, options):
    probe = callback()
    if "barebones" in options:
        options = options | {"logger": None, "enable_checkpointing": None, "enable_progress_bar": None}
        options |= {"enable_model_summary": None}
    loader = DataLoader(data(), batch_size=10)
    run = trainer(callbacks=[probe], **options)
    run.fit(AnyShape(), loader, loader)
    assert probed_epochs(probe) == list(range(max(1, run.current_epoch)))
    assert len(probe.result.images) > 0


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((1, 8, 8), torch.float32),
        ((3, 8, 8), torch.float32),
        ((4, 8, 8), torch.float32),
        ((2, 8, 8), torch.float32),
        ((3, 7, 13), torch.float32),
        ((1, 3, 40), torch.float32),
        ((3, 8, 8), torch.uint8),
        ((1, 8, 8), torch.float64),
        ((1, 8, 8), torch.float16),
    ],
)
def test_shapes_and_types(trainer, tmp_path, shape, dtype):
    probe, logger = callback(), TensorBoardLogger(tmp_path)
    options = {"precision": "64-true"} if dtype == torch.float64 else {}
    loader = DataLoader(data(shape=shape, dtype=dtype), batch_size=10)
    trainer(callbacks=[probe], logger=logger, **options).fit(AnyShape(shape), loader, loader)
    assert probed_epochs(probe) == [0, 1]
    assert probe.result.prototypes.shape[1:] == shape
    events = EventAccumulator(logger.log_dir, size_guidance={"images": 0}).Reload()
    # There may be one before training, at step 0, where there was time
    assert len([event for event in events.Images("fitb/prototypes") if event.step]) == 2


@pytest.mark.parametrize("size", [1, 7, 40])
def test_batch_of_one_and_last_partial_batch(trainer, size):
    probe = callback()
    loader = DataLoader(data(), batch_size=size)
    trainer(callbacks=[probe]).fit(AnyShape(), loader, loader)
    assert probed_epochs(probe) == [0, 1]
    assert len(probe.result.images) == min(40, len(probe.result.images))


def test_several_validation_loaders(trainer):
    """The probe images come from the first."""
    probe = callback()
    loaders = [DataLoader(data(), batch_size=10), DataLoader(data(shape=(1, 8, 8), num_classes=3), batch_size=10)]
    trainer(callbacks=[probe]).fit(AnyShape(), loaders[0], loaders)
    assert probed_epochs(probe) == [0, 1]
    first = {image.numpy().tobytes() for image in loaders[0].dataset.tensors[0]}
    assert all(image.numpy().tobytes() in first for image in probe.result.images)


class Stream(IterableDataset):
    def __init__(self, dataset):
        self.dataset = dataset

    def __iter__(self):
        return iter(self.dataset)


@pytest.mark.parametrize("options", [{}, {"val_check_interval": 2}, {"limit_val_batches": 0}])
def test_iterable_data_set(trainer, options):
    probe = callback()
    loaders = [DataLoader(Stream(data()), batch_size=10) for _ in range(2)]
    trainer(callbacks=[probe], **options).fit(AnyShape(), *loaders)
    assert probed_epochs(probe) == ([0, 0, 1, 1] if "val_check_interval" in options else [0, 1])


def test_classes_that_never_occur(trainer):
    probe = callback()
    loader = DataLoader(data(num_classes=3), batch_size=10)
    trainer(callbacks=[probe]).fit(AnyShape(num_classes=50), loader, loader)
    assert set(probe.result.labels.tolist()) == {0, 1, 2}
    assert probe.result.settings["num_classes"] == 50


def test_a_thousand_classes_with_max_images(trainer, tmp_path):
    probe, logger = callback(max_images=30), TensorBoardLogger(tmp_path)
    images, _ = data(size=2000).tensors
    loader = DataLoader(TensorDataset(images, torch.arange(2000) % 1000), batch_size=500)
    trainer(callbacks=[probe], logger=logger).fit(AnyShape(num_classes=1000), loader, loader)
    assert probe.result.labels.tolist() == list(range(30))
    assert probed_epochs(probe) == [0, 1]


def test_dictionaries_and_other_names(trainer):
    class Rows(Dataset):
        def __len__(self):
            return 40

        def __getitem__(self, index):
            image, label = data()[index]
            return {"pixel_values": image, "labels": label, "path": f"{index}.png"}

    class Module(AnyShape):
        def training_step(self, batch, batch_idx):
            return F.cross_entropy(self(batch["pixel_values"]), batch["labels"])

        def validation_step(self, batch, batch_idx):
            self.training_step(batch, batch_idx)

    probe = callback()
    loader = DataLoader(Rows(), batch_size=10)
    trainer(callbacks=[probe]).fit(Module(), loader, loader)
    assert probed_epochs(probe) == [0, 1]


def test_fit_twice_with_one_callback(trainer):
    """Another fit goes on with the same images; the epochs already probed are not probed again."""
    probe = callback()
    loader = DataLoader(data(), batch_size=10)
    run = trainer(callbacks=[probe], max_epochs=2)
    model = AnyShape()
    run.fit(model, loader, loader)
    images = probe.result.images
    run.fit_loop.max_epochs = 4
    run.fit(model, loader, loader)
    assert probed_epochs(probe) == [0, 1, 2, 3]
    assert torch.equal(probe.result.images, images)


def test_all_loggers_at_once(trainer, tmp_path):
    tensorboard, csv_logger = TensorBoardLogger(tmp_path, name="tensorboard"), CSVLogger(tmp_path, name="csv")
    uri = new_store(tmp_path / "mlflow.db")
    mlflow = MLFlowLogger(tracking_uri=uri, artifact_location=(tmp_path / "artifacts").as_uri())
    pictures = []

    class Own(CSVLogger):
        """A logger of someone's own, made to take pictures."""

    @log_picture.register
    def _(logger: Own, name, picture, step):
        pictures.append((name, step))
        return True

    loggers = [tensorboard, csv_logger, mlflow, Own(tmp_path, name="own")]
    probe = callback()
    loader = DataLoader(data(), batch_size=10)
    trainer(callbacks=[probe], logger=loggers).fit(AnyShape(), loader, loader)
    steps = [3, 7]
    assert [step for name, step in pictures if name == "fitb/prototypes"] == [0, *steps]
    events = EventAccumulator(tensorboard.log_dir, size_guidance={"images": 0}).Reload()
    assert [event.step for event in events.Images("fitb/prototypes")] == [0, *steps]
    assert [metric.step for metric in MlflowClient(uri).get_metric_history(mlflow.run_id, "fitb/coverage")] == steps
    with Path(csv_logger.log_dir, "metrics.csv").open() as file:
        assert [int(row["step"]) for row in csv.DictReader(file) if row["fitb/coverage"]] == steps
    in_folder = sorted(Path(csv_logger.log_dir, "fitb/prototypes").iterdir())
    assert [path.name for path in in_folder] == [f"step-{step:08}.png" for step in (0, 3, 7)]


@pytest.mark.slow
def test_weights_and_biases_offline(trainer, tmp_path):
    pytest.importorskip("wandb")
    before = set(os.environ)
    logger = WandbLogger(save_dir=tmp_path, offline=True, project="fitb")
    loader = DataLoader(data(), batch_size=10)
    probe = callback()
    trainer(callbacks=[probe], logger=logger).fit(AnyShape(), loader, loader)
    logger.experiment.finish()
    for key in set(os.environ) - before:  # what wandb leaves behind
        del os.environ[key]
    assert probed_epochs(probe) == [0, 1]
    for name in ("prototypes", "timeline", "confusion"):
        number = len(list(tmp_path.rglob(f"{name}*.png")))
        assert number == 2 or (name != "timeline" and number == 3)  # there may be one before training


def test_lightning_cli_builds_it_from_yaml(tmp_path, monkeypatch):
    """LightningCLI's own config saver fails where a logger has no folder: it is turned off, as with MLflow."""
    (tmp_path / "config.yaml").write_text(
        """
trainer:
  max_epochs: 1
  logger: false
  enable_checkpointing: false
  enable_progress_bar: false
  enable_model_summary: false
  accelerator: cpu
  callbacks:
    - class_path: fitb_callbacks.FillInBlanksCallback
      init_args:
        num_masks: 4
        images_per_class: 2
        prefix: probe
        class_names: [a, b, c, d, e, f, g, h, i, j]
        on_error: raise
        audit: true
        baseline: 0.0
"""
    )

    class WithData(AnyShape):
        def train_dataloader(self):
            return DataLoader(data(), batch_size=10)

        val_dataloader = train_dataloader

    monkeypatch.setattr(sys, "argv", ["train.py", "fit", "--config", str(tmp_path / "config.yaml")])
    cli = LightningCLI(WithData, save_config_callback=None, seed_everything_default=False)
    (probe,) = [c for c in cli.trainer.callbacks if isinstance(c, FillInBlanksCallback)]
    assert probed_epochs(probe) == [0]
    assert (probe.prefix, probe.probe.num_masks, probe.probe.baseline) == ("probe", 4, 0.0)


def test_two_probes_under_two_prefixes_and_a_checkpoint_keep_apart(trainer):
    loader = DataLoader(data(), batch_size=10)
    probes = [callback(), callback(prefix="large", patch_size=4)]
    trainer(callbacks=probes).fit(AnyShape(), loader, loader)
    assert [probed_epochs(probe) for probe in probes] == [[0, 1], [0, 1]]
    assert len({probe.state_key for probe in probes}) == 2
    with pytest.raises(RuntimeError, match="more than one stateful callback of type `FillInBlanksCallback`"):
        trainer(callbacks=[callback(), callback()])  # Lightning's own check, by our state_key


def test_the_module_of_the_other_tests_too(trainer, loaders):
    probe = callback()
    trainer(callbacks=[probe]).fit(SmallModule(), *loaders)
    assert probed_epochs(probe) == [0, 1]
