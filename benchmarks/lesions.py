"""A class that is a small thing: can a nodule be told from a mark?

    OMP_NUM_THREADS=1 python benchmarks/lesions.py

Draws scans of 96 x 96 pixels: two dark lungs on a brighter body, and in every third one to three faint nodules within
them. In the marked set, a letter stands in a corner of 95% of the scans with nodules and of 3% of the others. Trains a
small residual network on either, probes it on its own held-out scans, with a judge of its training scans and with one
of 80 scans without letters, and prints what the scores say. docs/scores.md has the table.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from fitb_callbacks import FillInBlanks, RidgeJudge
from fitb_callbacks.data.selection import ImageSelection

SIDE = 96
NAMES = ("healthy", "nodule")
WITH_NODULES = 1 / 3
MARKED = {"healthy": 0.03, "nodule": 0.95}


@dataclass(frozen=True)
class Scans:
    """Images ``(N, 1, 96, 96)`` with a mean near 0 and a deviation near 1, and labels ``(N,)``."""

    images: Tensor
    labels: Tensor


def scans(number: int, seed: int, *, marked: bool) -> Scans:
    """Draw some."""
    drawn = np.random.default_rng(seed)
    labels = (drawn.random(number) < WITH_NODULES).astype(int)
    images = np.stack([_scan(drawn, nodules=bool(label), marked=marked) for label in labels])
    return Scans(torch.from_numpy(images).float()[:, None] / 64 - 2, torch.from_numpy(labels))


def _scan(drawn: np.random.Generator, *, nodules: bool, marked: bool) -> np.ndarray:
    row, column = np.mgrid[:SIDE, :SIDE] / SIDE
    body = 0.8 * np.exp(-((column - 0.5) ** 2) / 0.15 - (row - 0.5) ** 2 / 0.25)
    for centre in (0.3, 0.7):
        width, height, moved = drawn.normal((0.15, 0.3, 0.0), (0.02, 0.03, 0.02))
        body -= 0.5 * (((column - centre - moved) / width) ** 2 + ((row - 0.5) / height) ** 2 < 1)
    for _ in range(drawn.integers(1, 4) if nodules else 0):
        across, down = drawn.choice([0.3, 0.7]) + drawn.normal(0, 0.05), drawn.normal(0.5, 0.12)
        distance = (column - across) ** 2 + (row - down) ** 2
        body += drawn.uniform(0.3, 0.5) * np.exp(-distance / drawn.uniform(0.03, 0.055) ** 2)
    tissue = Image.fromarray(drawn.normal(0, 0.06, (12, 12)).astype(np.float32)).resize((SIDE, SIDE), Image.BICUBIC)
    body += np.asarray(tissue) + drawn.normal(0, 0.03, (SIDE, SIDE))
    scan = Image.fromarray((170 * (body + 0.4)).clip(0, 255).astype(np.uint8))
    if marked and drawn.random() < MARKED[NAMES[nodules]]:
        ImageDraw.Draw(scan).text((3, 2), "R", fill=255, font=ImageFont.load_default(10))
    return np.asarray(scan)


class Block(nn.Module):
    """Of a residual network."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            *(nn.Conv2d(channels, out, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()),
            *(nn.Conv2d(out, out, 3, padding=1, bias=False), nn.BatchNorm2d(out)),
        )
        self.shortcut = nn.Conv2d(channels, out, 1, stride=2)

    def forward(self, images: Tensor) -> Tensor:  # noqa: D102 - torch's
        return (self.inner(images) + self.shortcut(images)).relu()


def trained(data: Scans, seed: int, *, epochs: int) -> nn.Module:
    """A small residual network that has learned some scans."""
    torch.manual_seed(seed)
    network = nn.Sequential(
        *(nn.Conv2d(1, 16, 5, stride=2, padding=2), nn.ReLU(), Block(16, 24), Block(24, 32), Block(32, 48)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(48, 2)),
    )
    steps = epochs * -(-len(data.labels) // 32)
    optimizer = torch.optim.AdamW(network.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(epochs):
        for batch in torch.randperm(len(data.labels)).split(32):
            optimizer.zero_grad()
            F.cross_entropy(network(data.images[batch]), data.labels[batch]).backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def report(marked: bool, seed: int, *, epochs: int) -> None:
    """Train, probe, and print two rows of the table."""
    learned, probed = (scans(number, 10 * seed + part, marked=marked) for part, number in ((0, 1200), (1, 300)))
    trusted, clean = (scans(number, 10 * seed + part, marked=False) for part, number in ((2, 80), (3, 300)))
    network = trained(learned, seed, epochs=epochs)
    with torch.no_grad():
        right = (network(clean.images).argmax(dim=1) == clean.labels).float().mean().item()
    chosen = ImageSelection(per_class=20, max_images=40)
    chosen.offer(probed.images, probed.labels)
    of_training = RidgeJudge()
    of_training.update(learned.images, learned.labels)
    of_trusted = RidgeJudge.from_reference((trusted.images, trusted.labels), image_shape=(1, SIDE, SIDE), num_classes=2)
    for name, judge in (("no", of_training), ("yes", of_trusted)):
        found = FillInBlanks().probe(network, chosen.images, chosen.labels, judge=judge, class_names=NAMES)
        scores = [
            found.metrics.get(key, float("nan")) for key in ("cue_spot", "reference_spot", "shortcut", "structure")
        ]
        said = found.interpretation()
        cells = ["letter" if marked else "none", seed, f"{right:.2f}", name, *(f"{score:.2f}" for score in scores)]
        print(f"| {' | '.join(map(str, cells))} | {said['tone']}: {said['headline']} |", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--epochs", type=int, default=12)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    columns = ("mark", "seed", "accuracy without marks", "trusted", "spot", "there", "shortcut", "structure", "verdict")
    print(f"| {' | '.join(columns)} |", "| --- " * len(columns) + "|", sep="\n")
    for seed in asked.seeds:
        for marked in (False, True):
            report(marked, seed, epochs=asked.epochs)


if __name__ == "__main__":
    main()
