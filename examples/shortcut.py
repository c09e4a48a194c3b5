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

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image, ImageDraw
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fitb_callbacks import FillInBlanksCallback
from fitb_callbacks.data.datasets import load_mnist
from fitb_callbacks.plotting.layout import INK, MARGIN, PAPER, RIGHT, WIDTH, WRONG, font, stacked
from fitb_callbacks.plotting.prototypes import prototype_grid
from fitb_callbacks.probing.judging import judged
from fitb_callbacks.scoring.judges.centroid import CentroidJudge

SHOWN = slice(0, 10, 3)  # of the classes


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
    """Scores and result of the last probe."""
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
        "judge trained on these images": judged(callback.result, own).metrics["judge_accuracy"],
        "judge trained on trusted images": callback.result.metrics["judge_accuracy"],
        "shortcut": callback.result.metrics["shortcut"],
        "structure": callback.result.metrics["structure"],
    }, callback.result


def picture_of(runs):
    """The scores of the runs beside each other; below them, what each fills in for four of the classes."""
    parts = [score_table({name: scores for name, (scores, _) in runs.items()})]
    for name, (_, result) in runs.items():
        cells = result.cells()[SHOWN]
        parts.append(Image.fromarray(prototype_grid(cells, result.heading(f"Trained on {name}"))))
    return Image.fromarray(stacked(parts))


def score_table(scores):
    """One row a score, one column a run."""
    line, face = 44, font(30)
    names = list(next(iter(scores.values())))
    table = Image.new("RGB", (WIDTH, line * (len(names) + 1) + 20), PAPER)
    draw = ImageDraw.Draw(table)
    for column, (run, values) in enumerate(scores.items()):
        right, colour = WIDTH - 290 * (len(scores) - 1 - column) - MARGIN, (RIGHT, WRONG)[column]
        draw.text((right, line // 2), run, colour, face, anchor="rm")
        for row, name in enumerate(names, start=1):
            middle = row * line + line // 2
            draw.text((MARGIN, middle), name, INK, face, anchor="lm")
            draw.text((right, middle), f"{values[name]:.2f}", colour, face, anchor="rm")
    return table


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
    picture_of(runs).save(arguments.output / "shortcut.png")
    print(f"picture: {arguments.output / 'shortcut.png'}; charts: tensorboard --logdir {arguments.output}")


if __name__ == "__main__":
    main()
