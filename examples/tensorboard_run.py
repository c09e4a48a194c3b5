"""Watch a network learn handwritten digits, in TensorBoard.

Run it, then: tensorboard --logdir fitb-runs --samples_per_plugin images=200
"""

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn
from torch.utils.data import DataLoader

from fitb_callbacks import FillInBlanksCallback
from fitb_callbacks.data.datasets import load_mnist


class Digits(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            *(
                nn.Conv2d(1, 16, 3, stride=2, padding=1),
                nn.ReLU(),
                nn.Conv2d(16, 32, 3, stride=2, padding=1),
                nn.ReLU(),
            ),
            *(nn.Flatten(), nn.Linear(32 * 7 * 7, 10)),
        )

    def forward(self, images):
        return self.net(images)

    def training_step(self, batch, batch_idx):
        images, labels = batch
        return F.cross_entropy(self(images), labels)

    def validation_step(self, batch, batch_idx):
        images, labels = batch
        self.log("val_acc", (self(images).argmax(1) == labels).float().mean(), prog_bar=True)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=2e-3)


if __name__ == "__main__":
    seed_everything(0)
    digits = load_mnist()
    trainer = Trainer(
        max_epochs=3,
        logger=TensorBoardLogger("fitb-runs", name="digits"),
        callbacks=[FillInBlanksCallback(max_overhead=None)],
    )
    trainer.fit(Digits(), DataLoader(digits.train, batch_size=64, shuffle=True), DataLoader(digits.validation, 500))
    print({name: round(value.item(), 3) for name, value in trainer.callback_metrics.items()})
