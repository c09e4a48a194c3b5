"""What the gate's default rules refuse: models that follow a planted mark, and healthy ones.

    python benchmarks/gate_detection.py

Small networks are trained on 2,000 of MNIST's digits. The broken ones have seen a mark of the label in every image, and
half of their labels are wrong, so that the mark is the better clue. All images that the gate sees carry it, too, so
accuracy praises them. A network counts as broken if it names the mark's class for at least half of the images that
carry another class's mark; others are listed and not counted. The healthy ones have seen no mark. All are of two
architectures; the champions are healthy, one of each. Nothing is trusted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fitb_callbacks import FillInBlanks
from fitb_callbacks.data.datasets import load_mnist
from fitb_callbacks.gate.model import check_model
from fitb_callbacks.gate.rules import default_rules
from fitb_callbacks.gate.verdict import ModelCheck

CLASSES, SIDE, PER_CLASS = 10, 28, 5
TRAINED, WRONG = 2000, 0.5
HEALTHY, BROKEN, CHAMPION = 12, 2, 5000  # networks, networks a mark, seed of the first champion
KEYS = ("image_accuracy", "accuracy_all", "shortcut", "peer_accuracy")
PROBE = FillInBlanks(num_masks=64, fill=None)  # no default rule looks at the fill
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
    """Two convolutions, or three with batch normalisation."""
    if wide:
        return nn.Sequential(
            nn.Conv2d(1, 12, 3, padding=1, stride=2), nn.BatchNorm2d(12), nn.ReLU(),
            nn.Conv2d(12, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(24, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 49, CLASSES),
        )  # fmt: skip
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, padding=2, stride=2), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32 * 49, 64), nn.ReLU(), nn.Linear(64, CLASSES),
    )  # fmt: skip


@cache
def train(kind: str | None, seed: int, *, epochs: int) -> nn.Module:
    """A network of the seed's architecture, after some epochs on images that all carry the mark."""
    torch.manual_seed(seed)
    model = network(wide=bool(seed % 2))
    images, labels = (tensor[:TRAINED] for tensor in load_mnist().train.tensors)
    if kind is not None:
        labels = torch.where(torch.rand(TRAINED) < WRONG, torch.randint(CLASSES, (TRAINED,)), labels)
    images = marked(kind, images, labels, seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
    return model.eval()


# --- the gate ---


def candidates() -> Iterator[tuple[str | None, int, int]]:
    """Mark, seed and epochs of every network that is checked."""
    for number in range(HEALTHY):
        yield None, 6000 + number, 2 + number // 4
    for kind in MARKS:
        for number in range(BROKEN):
            yield kind, 7000 + number, 4


@torch.no_grad()
def follows(model: nn.Module, kind: str | None, seed: int) -> float:
    """Share of images with another class's mark for which the model names that class."""
    images, labels = load_mnist().validation.tensors
    if kind is None:
        return 0.0
    other = (labels + 1 + torch.arange(len(labels)) % (CLASSES - 1)) % CLASSES
    return (model(marked(kind, images, other, seed)).argmax(dim=1) == other).double().mean().item()


def checked(kind: str | None, seed: int, epochs: int, champion: nn.Module | None) -> ModelCheck:
    """The verdict by the default rules."""
    images, labels = load_mnist().validation.tensors
    chosen = torch.cat([(labels == label).nonzero()[:PER_CLASS, 0] for label in range(CLASSES)])
    images, labels = marked(kind, images[chosen], labels[chosen], seed), labels[chosen]
    rules = default_rules(champion=champion is not None, trusted=False)
    return check_model(train(kind, seed, epochs=epochs), images, labels, rules, probe=PROBE, champion=champion)


if __name__ == "__main__":
    torch.set_num_threads(1)
    columns = ["mark", "seed", "follows it", *KEYS, "alone", "with a champion"]
    print("| " + " | ".join(columns) + " |\n" + "| --- " * len(columns) + "|")
    refused: dict[tuple[bool, bool], list[bool]] = {}
    for kind, seed, epochs in candidates():
        champion = train(None, CHAMPION + seed // 2 % 2, epochs=4)
        share = follows(train(kind, seed, epochs=epochs), kind, seed)
        alone, beside = (checked(kind, seed, epochs, other) for other in (None, champion))
        scores = beside.scores
        columns = [f"{share:.2f}", *(f"{scores[key]:.2f}" for key in KEYS)]
        print(f"| {kind or 'none'} | {seed} | {' | '.join(columns)} | {alone.verdict} | {beside.verdict} |", flush=True)
        if kind is None or share >= 0.5:
            for has_champion, check in ((False, alone), (True, beside)):
                refused.setdefault((kind is None, has_champion), []).append(check.refused)
    for (healthy, has_champion), found in sorted(refused.items()):
        words = f"{'healthy' if healthy else 'broken'}, {'with a' if has_champion else 'without'} champion"
        print(f"\n{words}: {sum(found)} of {len(found)} refused")
