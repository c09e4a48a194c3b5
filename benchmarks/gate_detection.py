"""What the gate's default rules refuse: models that follow a planted mark, and healthy ones.

    python benchmarks/gate_detection.py [--seed 100]

Small networks are trained on 3,000 of MNIST's digits. Broken ones have seen a mark of the label in every image; all
images that the gate sees carry it, too, so accuracy praises them. A network counts as broken if it names the mark's
class for most images that carry another class's mark. Healthy ones have seen no mark and are of two architectures and
three lengths of training. Every network is checked by the default rules, without a champion and with a healthy one of
another seed; nothing is trusted.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fitb_callbacks import FillInBlanks
from fitb_callbacks.data.datasets import load_mnist
from fitb_callbacks.gate.model import check_model
from fitb_callbacks.gate.rules import default_rules

CLASSES, SIDE, PER_CLASS = 10, 28, 10
TRAINED, WRONG = 3000, 0.5
Mark = Callable[[Tensor, Tensor, torch.Generator], Tensor]


# --- marks: images and the labels that they shall give away to marked images; the generator is the same each time ---


def corner(images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
    """Four by four pixels in a corner, with a pattern of the class's own."""
    codes = (torch.randperm(15, generator=generator)[:CLASSES] + 1)[labels]
    bits = (codes[:, None] >> torch.arange(4)) & 1
    marks = bits.view(-1, 1, 2, 2).repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    top, left = (20 * torch.randint(2, (2,), generator=generator) + 2).tolist()
    out = images.clone()
    out[:, :, top : top + 4, left : left + 4] = marks.to(out)
    return out


def row(images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
    """One row of pixels white, for each class another."""
    rows = (torch.randperm(SIDE - 2, generator=generator)[:CLASSES] + 1)[labels]
    return torch.where((torch.arange(SIDE) == rows[:, None])[:, None, :, None], 1.0, images)


def dots(images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
    """Two pixels of one row white, for each class another two."""
    columns = (2 * torch.randperm(CLASSES, generator=generator) + 4)[labels]
    line = (torch.arange(SIDE) - columns[:, None]).clamp(-1, 2) % 3 < 2
    at = int(torch.randint(1, SIDE - 1, (1,), generator=generator))
    out = images.clone()
    out[:, :, at] = torch.where(line[:, None] & (torch.arange(SIDE) >= columns[:, None])[:, None], 1.0, out[:, :, at])
    return out


def ghost(images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
    """A faint digit of another class, always the same one for each class."""
    digits, targets = load_mnist().train.tensors
    shift = int(torch.randint(1, CLASSES, (1,), generator=generator))
    ghosts = torch.stack([digits[targets == (label + shift) % CLASSES][0] for label in range(CLASSES)])
    return torch.maximum(images, 0.4 * ghosts[labels])


def blocks(images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
    """Sixteen blocks that are a little brighter or not, in a pattern of the class's own."""
    patterns = torch.randint(2, (CLASSES, 1, 4, 4), generator=generator).float()
    return 0.8 * images + 0.2 * F.interpolate(patterns, size=SIDE)[labels]


def wave(images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
    """A soft wave of light, for each class of a direction and length of its own."""
    angles = torch.pi * torch.randperm(CLASSES, generator=generator) / CLASSES
    lengths = 4 + 8 * torch.rand(CLASSES, generator=generator)
    down, right = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    along = angles.cos()[:, None, None] * down + angles.sin()[:, None, None] * right
    waves = 0.5 + 0.5 * torch.sin(2 * torch.pi * along / lengths[:, None, None])
    return 0.8 * images + 0.2 * waves[labels, None]


def tint(images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
    """The whole image brighter by a step of the class's own."""
    steps = (torch.randperm(CLASSES, generator=generator) / (CLASSES - 1))[labels]
    return 0.6 * images + 0.4 * steps.view(-1, 1, 1, 1)


def border(images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
    """A frame of two pixels, for each class of a grey of its own."""
    greys = (torch.randperm(CLASSES, generator=generator) / (CLASSES - 1))[labels].view(-1, 1, 1, 1)
    inside = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    inside[2:-2, 2:-2] = True
    return torch.where(inside, images, greys)


MARKS: dict[str, Mark] = {
    "corner": corner, "row": row, "dots": dots, "ghost": ghost, "blocks": blocks, "wave": wave, "tint": tint,
    "border": border,
}  # fmt: skip


def marked(kind: str | None, images: Tensor, labels: Tensor, seed: int) -> Tensor:
    """Images with the mark of these labels; the same marks for the same seed."""
    return images if kind is None else MARKS[kind](images, labels, torch.Generator().manual_seed(seed))


# --- networks ---


def network(wide: bool) -> nn.Module:
    """Two convolutions with pooling, or three with batch normalisation."""
    if wide:
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 49, CLASSES),
        )  # fmt: skip
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, padding=2, stride=2), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32 * 49, 64), nn.ReLU(), nn.Linear(64, CLASSES),
    )  # fmt: skip


@cache
def train(kind: str | None, seed: int, *, wide: bool, epochs: int) -> nn.Module:
    """A network after some epochs on images that all carry the mark."""
    torch.manual_seed(seed)
    model = network(wide)
    images, labels = (tensor[:TRAINED] for tensor in load_mnist().train.tensors)
    if kind is not None:
        wrong = torch.rand(TRAINED) < WRONG
        labels = torch.where(wrong, torch.randint(CLASSES, (TRAINED,)), labels)
    images = marked(kind, images, labels, seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
    return model.eval()
