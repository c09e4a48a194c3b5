"""The pictures of the docs' gallery: small networks, some of which go by a planted mark, as the callback logs them.

Run it with::

    OMP_NUM_THREADS=1 python benchmarks/gallery.py --output docs/images/gallery

Digits and clothes, each with and without a mark that gives the class away; forty letters and digits; and a network that
has hardly learned. Every run is an ordinary training with the callback and a `CSVLogger`; the pictures are its last
ones, as they are. The judge learns from 500 trusted images without marks. Needs Debian's `dataset-fashion-mnist`.
"""

import argparse
import csv
import math
import string
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from fitb_callbacks import FillInBlanksCallback
from fitb_callbacks.data.datasets import load_fashion_mnist, load_mnist
from fitb_callbacks.demo import SmallCNN

Mark = Callable[[Tensor, Tensor], Tensor]
GLYPHS = (string.ascii_uppercase + "abdefghnqrt234")[:40]
TRUSTED, TRAIN, VALIDATION = 500, 3500, 1000


@dataclass(frozen=True)
class Run:
    """A training: its images, what is planted in them, for how many epochs and batches, and the pictures to keep."""

    images: Tensor
    labels: Tensor
    classes: Sequence[str]
    plant: Mark
    epochs: int
    pictures: Sequence[str]
    batches: float = 1.0


def unmarked(images: Tensor, labels: Tensor) -> Tensor:
    """The images as they are."""
    return images


def marked(images: Tensor, labels: Tensor) -> Tensor:
    """A bright square of 3 x 3 pixels in each image, whose place along the lower edge is that of its class."""
    images = images.clone()
    for image, label in zip(images, labels.tolist(), strict=True):
        left = 2 * label + 3
        image[:, 24:27, left : left + 3] = 1
    return images


def glyphs(number: int) -> tuple[Tensor, Tensor]:
    """Letters and digits in Pillow's own font, moved, turned and resized at random, on a little noise."""
    random = np.random.default_rng(0)
    labels = np.arange(number) % len(GLYPHS)
    random.shuffle(labels)
    images = []
    for label in labels:
        canvas = Image.new("L", (56, 56))
        face = ImageFont.load_default(size=random.uniform(34, 44))
        place = tuple(28 + random.uniform(-4, 4, 2))
        ImageDraw.Draw(canvas).text(place, GLYPHS[label], 255, face, anchor="mm")
        turned = canvas.rotate(random.uniform(-12, 12), Image.Resampling.BILINEAR).resize((28, 28))
        images.append(np.clip(np.asarray(turned) / 255 + random.normal(0, 0.05, (28, 28)), 0, 1))
    return torch.tensor(np.stack(images), dtype=torch.float32)[:, None], torch.tensor(labels)


def runs() -> dict[str, Run]:
    """Name, which is that of the pictures' files, to run."""
    digits, clothes = load_mnist(), load_fashion_mnist()
    of_digits = [torch.cat(parts) for parts in zip(digits.train.tensors, digits.validation.tensors, strict=True)]
    of_clothes = [part[: TRUSTED + TRAIN + VALIDATION] for part in clothes.train.tensors]
    of_glyphs = glyphs(TRUSTED + 2 * TRAIN + VALIDATION)
    all_pictures = ("at_a_glance", "prototypes", "timeline", "confusion")
    return {
        "untrained": Run(*of_digits, digits.classes, unmarked, 1, ("at_a_glance",), batches=3),
        "digits": Run(*of_digits, digits.classes, unmarked, 4, all_pictures),
        "digits-mark": Run(*of_digits, digits.classes, marked, 4, all_pictures),
        "clothes": Run(*of_clothes, clothes.classes, unmarked, 4, all_pictures),
        "clothes-mark": Run(*of_clothes, clothes.classes, marked, 4, all_pictures),
        "glyphs": Run(*of_glyphs, GLYPHS, unmarked, 2, ("at_a_glance", "confusion")),
    }


def train(name: str, run: Run, output: Path) -> dict[str, str]:
    """Train, keep the last pictures, and return the last scores."""
    seed_everything(0)
    trusted = TensorDataset(run.images[:TRUSTED], run.labels[:TRUSTED])
    images, labels = run.plant(run.images[TRUSTED:], run.labels[TRUSTED:]), run.labels[TRUSTED:]
    callback = FillInBlanksCallback(
        reference=trusted,
        class_names=list(run.classes),
        max_images=min(80, 4 * len(run.classes)),
        max_overhead=None,
        on_error="raise",
    )
    with tempfile.TemporaryDirectory() as folder:
        logger = CSVLogger(folder)
        trainer = Trainer(
            max_epochs=run.epochs,
            limit_train_batches=math.ceil(run.batches) if run.batches > 1 else 1.0,
            accelerator="cpu",
            logger=logger,
            callbacks=[callback],
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            log_every_n_steps=20,
        )
        training = TensorDataset(images[:-VALIDATION], labels[:-VALIDATION])
        validation = TensorDataset(images[-VALIDATION:], labels[-VALIDATION:])
        trainer.fit(SmallCNN(len(run.classes)), DataLoader(training, 64, shuffle=True), DataLoader(validation, 500))
        for picture in run.pictures:
            last = max(Path(logger.log_dir, "fitb", picture).glob("*.png"))
            # A palette of 256 colours halves the file, and cannot be told from the original
            Image.open(last).quantize(256, dither=Image.Dither.NONE).save(
                output / f"{name}-{picture.replace('_', '-')}.png", optimize=True
            )
        with Path(logger.log_dir, "metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
    return {key: [row[key] for row in rows if row[key]][-1] for key in rows[0] if any(row[key] for row in rows)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("docs/images/gallery"))
    parser.add_argument("--only", nargs="*", help="names of the runs; all otherwise")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    for name, run in runs().items():
        if not arguments.only or name in arguments.only:
            scores = train(name, run, arguments.output)
            shown = ("val_acc", "fitb/structure", "fitb/knows", "fitb/shortcut", "fitb/coverage", "fitb/judge_ceiling")
            print(name, *(f"{key} {float(scores[key]):.2f}" for key in shown if key in scores), sep="  ", flush=True)


if __name__ == "__main__":
    main()
