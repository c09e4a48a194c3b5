"""A model whose validation accuracy is 1.00 for the wrong reason, and how its prototypes give it away.

A machine labelled the training images; two in five labels are wrong. In the second run it also left a small mark in
each image, at a place that depends on the label. The marks are in the validation images too, so the accuracy praises
the wrong model. Both runs are logged to TensorBoard, and one picture shows them side by side::

    pip install "fitb-callbacks[demo]"
    python examples/shortcut.py
    tensorboard --logdir fitb-runs/shortcut
"""

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image, ImageDraw, ImageFont
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fitb_callbacks import FillInBlanksCallback
from fitb_callbacks.data.datasets import load_mnist
from fitb_callbacks.probing.judging import judged
from fitb_callbacks.scoring.judges.centroid import CentroidJudge


class Net(LightningModule):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(32 * 7 * 7, 10)),
        )

    def forward(self, images):
        return self.layers(images)

    def training_step(self, batch, batch_idx):
        images, labels = batch
        return F.cross_entropy(self(images), labels)

    def validation_step(self, batch, batch_idx):
        images, labels = batch
        self.log("val_accuracy", (self(images).argmax(dim=1) == labels).float().mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=2e-3)


def with_mark(images, labels):
    """A bright bar at the upper edge for the classes 0 to 4, at the lower edge for 5 to 9."""
    marked = images.clone()
    for image, label in zip(marked, labels.tolist(), strict=True):
        row, column = (1, 25)[label // 5], 2 + 5 * (label % 5)
        image[:, row : row + 2, column : column + 4] = 1
    return marked


def train(name, train_set, validation_set, trusted, folder, epochs):  # noqa: PLR0913 - three sets of images
    """Scores and picture of the last probe."""
    seed_everything(0)
    # The epochs last a second: the usual share of their time is too little, and would not be the same on every machine.
    callback = FillInBlanksCallback(reference=trusted, max_overhead=None, on_error="raise")
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[callback],
        logger=TensorBoardLogger(folder, name=name),
        enable_checkpointing=False,
        enable_model_summary=False,
        log_every_n_steps=20,
    )
    trainer.fit(Net(), DataLoader(train_set, 64, shuffle=True), DataLoader(validation_set, 500))
    own = CentroidJudge()  # knows the marks, as it learns from the marked images
    own.update(*train_set.tensors)
    return {
        "validation accuracy": trainer.callback_metrics["val_accuracy"].item(),
        "self-consistency": callback.result.metrics["accuracy"],
        "judge that shares the training data": judged(callback.result, own).metrics["judge_accuracy"],
        "judge that has seen trusted images only": callback.result.metrics["judge_accuracy"],
        "shortcut: how far one cue explains the answers": callback.result.metrics["shortcut"],
        "structure": callback.result.metrics["structure"],
    }, callback.result.figure()


def side_by_side(runs):
    """The grid of each run, with its scores above."""
    font, bold = ImageFont.load_default(size=34), ImageFont.load_default(size=44)
    panels, tallest = [], max(grid.height for _, grid in runs.values())
    for title, (scores, grid) in runs.items():
        panel = Image.new("RGB", (grid.width + 40, tallest + 120 + 48 * len(scores)), "white")
        draw = ImageDraw.Draw(panel)
        draw.text((34, 20), f"trained on {title}", (40, 40, 40), bold)
        for row, (score, value) in enumerate(scores.items()):
            colour = (40, 40, 40) if row < 3 else (0, 92, 148) if title == "digits" else (184, 74, 0)
            draw.text((34, 92 + 48 * row), f"{value:.2f}   {score}", colour, font)
        panel.paste(grid, (20, 106 + 48 * len(scores)))
        panels.append(np.array(panel))
    return Image.fromarray(np.concatenate(panels, axis=1))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("fitb-runs/shortcut"))
    parser.add_argument("--epochs", type=int, default=2)
    arguments = parser.parse_args()
    data = load_mnist()
    trusted = data.train[:500]  # right labels, no marks, in neither run
    images, labels = data.train[500:]
    generator = torch.Generator().manual_seed(0)
    wrong = torch.rand(len(labels), generator=generator) < 0.4
    labels = torch.where(wrong, torch.randint(10, labels.shape, generator=generator), labels)
    splits = (images, labels), data.validation[:]
    runs = {}
    for name, mark in {"digits": lambda images, labels: images, "digits with a mark": with_mark}.items():
        sets = [TensorDataset(mark(*split), split[1]) for split in splits]
        runs[name] = train(name, *sets, trusted, arguments.output, arguments.epochs)
    for name, (scores, _) in runs.items():
        print(name, *(f"{score}: {value:.2f}" for score, value in scores.items()), sep="\n  ")
    side_by_side(runs).save(arguments.output / "shortcut.png")
    print(f"picture: {arguments.output / 'shortcut.png'}; charts: tensorboard --logdir {arguments.output}")


if __name__ == "__main__":
    main()
