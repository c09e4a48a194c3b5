"""Many validation steps only count how often the largest logit is right: these tell as much as a loss does."""

import pytest
import torch
import torch.nn.functional as F
import torchmetrics
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset
from with_and_without import CLASSES, Base, bars, with_and_without

IMAGES, LABELS = bars()


class Normalised(Base):
    """Normalised in the step; neither forward nor the batch index has its usual place."""

    def logits(self, images):
        return self.net((images - 0.5) / 0.25)

    def loss(self, batch):
        return F.cross_entropy(self.logits(batch[0]), batch[1])

    def validation_step(self, batch, _):
        images, labels = batch
        self.log("val_acc", (self.logits(images).argmax(dim=1) == labels).float().mean())


class OldStyle(Normalised):
    def validation_step(self, batch, batch_nb):
        _, chosen = torch.max(self.logits(batch[0]), 1)
        self.log("val_acc", torch.eq(chosen, batch[1]).float().mean())


class Metric(Normalised):
    def __init__(self):
        super().__init__()
        self.accuracy = torchmetrics.Accuracy("multiclass", num_classes=CLASSES)

    def validation_step(self, batch, batch_idx):
        self.accuracy(self.logits(batch[0]), batch[1])
        self.log("val_acc", self.accuracy)


class Probabilities(Normalised):
    """Metrics of a softmax, in a decorated step."""

    def __init__(self):
        super().__init__()
        self.metrics = torchmetrics.MetricCollection({"acc": torchmetrics.Accuracy("multiclass", num_classes=CLASSES)})

    @torch.inference_mode()
    def validation_step(self, batch, batch_idx):
        self.metrics.update(self.logits(batch[0]).softmax(dim=-1), batch[1])
        self.log_dict(self.metrics)


class SecondColumn(Normalised):
    """The labels are the last of three columns."""

    def loss(self, batch):
        return F.cross_entropy(self.logits(batch[0]), batch[2])

    def validation_step(self, batch, batch_idx):
        self.log("val_acc", (self.logits(batch[0]).argmax(-1) == batch[2]).float().mean())


class Frozen(Normalised):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.ReLU())

    def logits(self, images):
        with torch.no_grad():
            features = self.backbone((images - 0.5) / 0.25)
        return self.net(features)


class Checkpointed(Normalised):
    """Reentrant checkpoints know no gradient of an input alone."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 1, 3, padding=1)

    def logits(self, images):
        return self.net(checkpoint(self.first, (images - 0.5) / 0.25, use_reentrant=True))


SCRIPTS = {
    "argmax": Normalised,
    "max": OldStyle,
    "torchmetrics": Metric,
    "a softmax for torchmetrics": Probabilities,
    "three columns": SecondColumn,
    "no_grad around the backbone": Frozen,
    "reentrant checkpoints": Checkpointed,
}


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_it_is_probed_as_the_step_uses_it(script):
    columns = (IMAGES, LABELS.flip(0) % 2, LABELS) if script is SecondColumn else (IMAGES, LABELS)

    def make():
        data = TensorDataset(*columns)
        loaders = {
            "train_dataloaders": DataLoader(data, batch_size=6, shuffle=True),
            "val_dataloaders": DataLoader(data, batch_size=6),
        }
        return script(), loaders, {}

    probe, said, _ = with_and_without(make)
    assert said == []
    assert [entry["epoch"] for entry in probe.history] == [0, 1]
    pairs = {image.numpy().tobytes(): int(label) for image, label in zip((IMAGES - 0.5) / 0.25, LABELS, strict=True)}
    for image, label in zip(probe.result.images, probe.result.labels, strict=True):
        assert pairs[image.numpy().tobytes()] == label  # as it entered the network, with its own label


def test_labels_within_a_dict_are_found():
    class Described(Base):
        def loss(self, batch):
            return F.cross_entropy(self.net(batch["image"]), batch["about"]["label"])

        def validation_step(self, batch, batch_idx):
            self.log("val_acc", (self.net(batch["image"]).argmax(1) == batch["about"]["label"]).float().mean())

    rows = [{"image": image, "about": {"label": label}} for image, label in zip(IMAGES, LABELS, strict=True)]
    loaders = {"train_dataloaders": DataLoader(rows, batch_size=6), "val_dataloaders": DataLoader(rows, batch_size=6)}
    probe, said, _ = with_and_without(lambda: (Described(), loaders, {}))
    assert said == []
    assert probe.result.labels.tolist() == [0, 0, 1, 1, 2, 2]
