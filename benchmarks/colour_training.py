"""A residual network and a small vision transformer, trained on 64-pixel colour pictures under the callback.

    apt install fonts-noto-color-emoji
    OMP_NUM_THREADS=1 python benchmarks/colour_training.py

Six kinds of emoji at random places and sizes on random backgrounds, see `validity_worlds.py`. The reference is a third
set of pictures that no network was trained on. Prints the scores of each probe, and keeps the pictures of each in
``benchmarks/.cache/colour_training``; docs/gallery.md shows the last timelines.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import lightning
import torch
import torch.nn.functional as F
import validity_worlds as worlds
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from fitb_callbacks import FillInBlanksCallback

OUTPUT = Path(__file__).parent / ".cache" / "colour_training"
NETWORKS = {"resnet": 3e-3, "vit": 1.5e-3}
"""Network to its learning rate."""
SHOWN = ("image_accuracy", "structure", "knows", "shortcut", "coverage", "accuracy", "accuracy_all", "judge_ceiling")


class Classifier(lightning.LightningModule):
    """A network of `validity_worlds.py`."""

    def __init__(self, network: str, data: worlds.Data) -> None:
        super().__init__()
        images = data.train[0]
        self.network = worlds.NETWORKS[network](images.shape[1], images.shape[-1], data.num_classes)
        self.rate = NETWORKS[network]

    def forward(self, images: Tensor) -> Tensor:  # noqa: D102 - Lightning's
        return self.network(images)

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:  # noqa: D102
        images, labels = batch
        flipped = torch.where(torch.rand(len(images), 1, 1, 1) < 0.5, images, images.flip(3))
        return F.cross_entropy(self(flipped), labels)

    def validation_step(self, batch: list[Tensor], _: int) -> None:  # noqa: D102
        images, labels = batch
        self.log("val_accuracy", (self(images).argmax(dim=1) == labels).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:  # noqa: D102
        return torch.optim.Adam(self.parameters(), lr=self.rate)


def train(network: str, *, epochs: int, every: int) -> list[dict[str, str]]:
    """Train a network, and give the scores of its probes."""
    lightning.seed_everything(0, verbose=False)
    data = worlds.load("emoji")
    callback = FillInBlanksCallback(
        reference=data.trusted, every_n_epochs=every, max_overhead=None, scores="all", class_names=list(worlds.EMOJI)
    )
    trainer = lightning.Trainer(
        max_epochs=epochs,
        callbacks=[callback],
        logger=CSVLogger(OUTPUT, name=network, version=""),
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(
        Classifier(network, data),
        DataLoader(TensorDataset(*data.train), batch_size=50, shuffle=True),
        DataLoader(TensorDataset(*data.held_out), batch_size=250),
    )
    with (OUTPUT / network / "metrics.csv").open() as file:
        return [row for row in csv.DictReader(file) if row.get("fitb/coverage")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--every", type=int, default=4, help="epochs between two probes")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for network in asked.networks:
        rows = train(network, epochs=asked.epochs, every=asked.every)
        print(f"| {network}, step | {' | '.join(SHOWN)} |", "| --- |" + " --- |" * len(SHOWN), sep="\n")
        for row in rows:
            cells = (row.get(f"fitb/{name}") for name in SHOWN)
            print(f"| {row['step']} | {' | '.join(f'{float(cell):.2f}' if cell else '' for cell in cells)} |")


if __name__ == "__main__":
    main()
