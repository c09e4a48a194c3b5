"""Images with up to three bars, each of which is a label, and a module that learns them; also for other processes."""

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import nn


def bars(number=48):
    """Images ``(N, 1, 8, 8)`` with bars at the top, in the middle, at the bottom, and which of them; at least one."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.stack([(torch.arange(number) % 7 + 1) >> bit & 1 for bit in range(3)], dim=1)
    images = 0.1 * torch.rand(number, 1, 8, 8, generator=generator)
    for label, row in enumerate((1, 4, 7)):
        images[:, :, row] += labels[:, None, label, None].float()
    return images, labels


def as_numbers():
    """The same with labels as a loss takes them."""
    images, labels = bars()
    return images, labels.float()


class SeveralLabels(LightningModule):
    """A sigmoid for each label."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))

    def forward(self, images):
        return self.net(images)

    def training_step(self, batch, batch_idx):
        return F.binary_cross_entropy_with_logits(self(batch[0]), batch[1].float())

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", F.binary_cross_entropy_with_logits(self(batch[0]), batch[1].float()))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.1)
