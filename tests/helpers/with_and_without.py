"""A training with and without the callback, and everything that it depends on compared bit for bit."""

import copy
import random
import warnings

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import nn
from torch.utils.data import DataLoader

from fitb_callbacks import FillInBlanksCallback
from identical import assert_identical

CLASSES = 3


def bars(number=24, seed=0):
    """Images with a bar at the height of their class, and labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(number) % CLASSES
    images = 0.3 * torch.rand(number, 1, 8, 8, generator=generator)
    for image, label in zip(images, labels, strict=True):
        image[:, 3 * int(label)] += 0.7
    return images, labels


class Base(LightningModule):
    """A step with a loss for training and validation; subclasses say which."""

    def __init__(self, outputs=CLASSES):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, outputs))

    def loss(self, batch):
        return F.cross_entropy(self(batch[0]), batch[1])

    def training_step(self, batch, batch_idx):
        return self.loss(batch)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(batch))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


def state_after(make, callbacks):
    """Train, and return everything that training depends on.

    Args:
        make: Makes a module, what `Trainer.fit` takes beside it, and the Trainer's options, all of them new.
        callbacks: To add to those of the options.
    """
    seed_everything(1, verbose=False)
    module, data, options = make()
    quiet = {
        "max_epochs": 2,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = Trainer(**quiet | options | {"callbacks": [*options.get("callbacks", []), *callbacks]})
    trainer.fit(module, **data)
    return trainer, {
        "weights": copy.deepcopy(dict(module.state_dict())),
        "optimizers": copy.deepcopy([optimizer.state_dict() for optimizer in trainer.optimizers]),
        "own": [getattr(module, name, None) for name in ("steps", "bank", "seen")],
        "logged": {key: value for key, value in trainer.callback_metrics.items() if "fitb" not in key},
        "step": trainer.global_step,
        "modes": [each.training for each in module.modules()],
        "requires_grad": [each.requires_grad for each in module.parameters()],
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state(),
        "python": random.getstate(),
    }


def with_and_without(make, **settings):
    """Train without the callback and with it, compare, and return the callback, what it warned of, and the Trainer."""
    small = {"num_masks": 4, "images_per_class": 2, "max_overhead": None, "audit": True}
    probe = FillInBlanksCallback(**small | settings)
    _, without = state_after(make, [])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer, with_probe = state_after(make, [probe])
    assert_identical(without, with_probe)
    said = [str(each.message) for each in caught if "FillInBlanks" in str(each.message)]
    return probe, [line.removeprefix("FillInBlanksCallback: ") for line in said], trainer


def compared_with_and_without(module_class, dataset, **settings):
    """The same for a module and a data set, both for training and validation."""
    options = settings.pop("options", {})

    def make():
        loaders = {
            "train_dataloaders": DataLoader(dataset, batch_size=6, shuffle=True),
            "val_dataloaders": DataLoader(dataset, batch_size=6),
        }
        return module_class(), loaders, options

    return with_and_without(make, **settings)
