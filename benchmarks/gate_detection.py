"""What the gate's default rules refuse: models that follow a planted mark, and healthy ones.

    python benchmarks/gate_detection.py [mnist|fashion|emoji]

Small networks are trained on 2,000 images. The broken ones have seen a mark of the label in every image, and half of
their labels are wrong, so that the mark is the better clue. All images that the gate sees carry it, too, so accuracy
praises them. A network counts as broken if it names the mark's class for at least half of the images that carry another
class's mark; others are listed and not counted. The healthy ones have seen no mark. All are of two architectures; the
champions are healthy, one of each. Nothing is trusted. The last marks are those of `unplanned.py`, which nobody had in
mind when cues and rules were made.

What was found of each network is kept in `.cache/gate_detection.jsonl`: called again, the script goes on where it was.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import unplanned
from torch import Tensor, nn
from validity_worlds import load

from fitb_callbacks import FillInBlanks
from fitb_callbacks.data.datasets import load_fashion_mnist, load_mnist
from fitb_callbacks.gate.model import check_model
from fitb_callbacks.gate.rules import Rule, default_rules
from fitb_callbacks.gate.verdict import Measured, ModelCheck, decide

PER_CLASS = 5
TRAINED, WRONG = 2000, 0.5
HEALTHY = {"mnist": 12, "fashion": 12, "emoji": 6}  # networks
BROKEN = {"mnist": 2, "fashion": 2, "emoji": 1}  # networks a mark; one of each that nobody had planned
CHAMPION = 5000  # seed of the first one
KEPT = Path(__file__).parent / ".cache" / "gate_detection.jsonl"
KEYS = ("image_accuracy", "shortcut", "peer_accuracy", "peer_agreement")
PROBE = FillInBlanks(num_masks=64, fill=None)  # no default rule looks at the fill
RULES_BUT_PEERS = [Rule("max", "nonfinite", 0.0), Rule("max_drop", "coverage", 0.1)]
LONGER = {"mnist": 1, "fashion": 2, "emoji": 3}  # times the epochs, for healthy networks to know their classes
Mark = Callable[[Tensor, Tensor, torch.Generator, Tensor], Tensor]


@cache
def splits(data: str) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Images and labels to train on, and others."""
    if data == "emoji":
        drawn = load(data)
        return drawn.train, drawn.held_out
    images = load_mnist() if data == "mnist" else load_fashion_mnist()
    train, validation = images.train.tensors, images.validation.tensors
    return (train[0][:TRAINED], train[1][:TRAINED]), (validation[0][:2000], validation[1][:2000])


# --- marks: images, the labels that they shall give away, a generator that is the same each time, an image a class ---


def corner(images: Tensor, labels: Tensor, generator: torch.Generator, examples: Tensor) -> Tensor:
    """Four by four pixels in a corner, with a pattern of the class's own."""
    side = images.shape[-1]
    codes = (torch.randperm(15, generator=generator)[: len(examples)] + 1)[labels]
    bits = (codes[:, None] >> torch.arange(4)) & 1
    marks = bits.view(-1, 1, 2, 2).repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    top, left = ((side - 8) * torch.randint(2, (2,), generator=generator) + 2).tolist()
    out = images.clone()
    out[:, :, top : top + 4, left : left + 4] = marks.to(out)
    return out


def row(images: Tensor, labels: Tensor, generator: torch.Generator, examples: Tensor) -> Tensor:
    """One row of pixels white, for each class another."""
    side = images.shape[-1]
    rows = (torch.randperm(side - 2, generator=generator)[: len(examples)] + 1)[labels]
    return torch.where((torch.arange(side) == rows[:, None])[:, None, :, None], 1.0, images)


def dots(images: Tensor, labels: Tensor, generator: torch.Generator, examples: Tensor) -> Tensor:
    """Two pixels of one row white, for each class another two."""
    side = images.shape[-1]
    columns = (2 * torch.randperm(len(examples), generator=generator) + 4)[labels]
    line = (torch.arange(side) - columns[:, None]).clamp(-1, 2) % 3 < 2
    at = int(torch.randint(1, side - 1, (1,), generator=generator))
    out = images.clone()
    out[:, :, at] = torch.where(line[:, None] & (torch.arange(side) >= columns[:, None])[:, None], 1.0, out[:, :, at])
    return out


def ghost(images: Tensor, labels: Tensor, generator: torch.Generator, examples: Tensor) -> Tensor:
    """A faint image of another class, always the same one for each class."""
    shift = int(torch.randint(1, len(examples), (1,), generator=generator))
    return torch.maximum(images, 0.4 * examples.roll(-shift, dims=0)[labels])


def blocks(images: Tensor, labels: Tensor, generator: torch.Generator, examples: Tensor) -> Tensor:
    """Sixteen blocks that are a little brighter or not, in a pattern of the class's own."""
    patterns = torch.randint(2, (len(examples), 1, 4, 4), generator=generator).float()
    return 0.8 * images + 0.2 * F.interpolate(patterns, size=images.shape[-1])[labels]


def wave(images: Tensor, labels: Tensor, generator: torch.Generator, examples: Tensor) -> Tensor:
    """A soft wave of light, for each class of a direction and length of its own."""
    side = images.shape[-1]
    angles = torch.pi * torch.randperm(len(examples), generator=generator) / len(examples)
    lengths = 4 + 8 * torch.rand(len(examples), generator=generator)
    down, right = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    along = angles.cos()[:, None, None] * down + angles.sin()[:, None, None] * right
    waves = 0.5 + 0.5 * torch.sin(2 * torch.pi * along / lengths[:, None, None])
    return 0.8 * images + 0.2 * waves[labels, None]


def tint(images: Tensor, labels: Tensor, generator: torch.Generator, examples: Tensor) -> Tensor:
    """The whole image brighter by a step of the class's own."""
    steps = (torch.randperm(len(examples), generator=generator) / (len(examples) - 1))[labels]
    return 0.6 * images + 0.4 * steps.view(-1, 1, 1, 1)


def border(images: Tensor, labels: Tensor, generator: torch.Generator, examples: Tensor) -> Tensor:
    """A frame of two pixels, for each class of a grey of its own."""
    greys = (torch.randperm(len(examples), generator=generator) / (len(examples) - 1))[labels].view(-1, 1, 1, 1)
    inside = torch.zeros(images.shape[-1], images.shape[-1], dtype=torch.bool)
    inside[2:-2, 2:-2] = True
    return torch.where(inside, images, greys)


MARKS: dict[str, Mark] = {
    "corner": corner, "row": row, "dots": dots, "ghost": ghost, "blocks": blocks, "wave": wave, "tint": tint,
    "border": border,
}  # fmt: skip
UNPLANNED = ("contrast", "noise", "rotation", "gradient", "line", "timestamp")  # JPEG is hardly learned


def marked(kind: str | None, data: str, images: Tensor, labels: Tensor, seed: int) -> Tensor:
    """Images with the mark of these labels; the same marks for the same seed."""
    if kind is None:
        return images
    originals, targets = splits(data)[0]
    examples = torch.stack([originals[targets == label][0] for label in targets.unique()])
    generator = torch.Generator().manual_seed(seed)
    if kind in UNPLANNED:
        return unplanned.PLANTS[kind](images, labels, generator, len(examples))[0]
    return MARKS[kind](images, labels, generator, examples)


# --- networks ---


def network(channels: int, classes: int, *, wide: bool) -> nn.Module:
    """Two convolutions, or three with batch normalisation."""
    if wide:
        return nn.Sequential(
            nn.Conv2d(channels, 12, 3, padding=1, stride=2), nn.BatchNorm2d(12), nn.ReLU(),
            nn.Conv2d(12, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(), nn.AdaptiveMaxPool2d(7),
            nn.Conv2d(24, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 49, classes),
        )  # fmt: skip
    return nn.Sequential(
        nn.Conv2d(channels, 16, 5, padding=2, stride=2), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
        nn.AdaptiveMaxPool2d(7), nn.Flatten(), nn.Linear(32 * 49, 64), nn.ReLU(), nn.Linear(64, classes),
    )  # fmt: skip


@cache
def train(data: str, kind: str | None, seed: int, *, epochs: int) -> nn.Module:
    """A network of the seed's architecture, after some epochs on images that all carry the mark."""
    images, labels = splits(data)[0]
    classes = int(labels.max()) + 1
    torch.manual_seed(seed)
    model = network(images.shape[1], classes, wide=bool(seed % 2))
    if kind is not None:
        labels = torch.where(torch.rand(len(labels)) < WRONG, torch.randint(classes, (len(labels),)), labels)
    images = marked(kind, data, images, labels, seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
    return model.eval()


# --- the gate ---


def candidates(data: str) -> Iterator[tuple[str | None, int, int]]:
    """Mark, seed and epochs of every network that is checked."""
    more = LONGER[data]
    for number in range(HEALTHY[data]):
        yield None, 6000 + number, more * (2 + number % 3)
    for kind in MARKS:
        for number in range(BROKEN[data]):
            yield kind, 7000 + number, more * 4
    for number, kind in enumerate(UNPLANNED):
        yield kind, 7100 + number, more * 4


@torch.no_grad()
def follows(model: nn.Module, data: str, kind: str | None, seed: int) -> float:
    """Share of images with another class's mark for which the model names that class."""
    images, labels = splits(data)[1]
    if kind is None:
        return 0.0
    classes = int(labels.max()) + 1
    other = (labels + 1 + torch.arange(len(labels)) % (classes - 1)) % classes
    return (model(marked(kind, data, images, other, seed)).argmax(dim=1) == other).double().mean().item()


def found(data: str, kind: str | None, seed: int, epochs: int) -> dict[str, Any]:
    """What the gate finds of a network, by the default rules without a champion and with one; kept once found."""
    key = f"{data} {kind} {seed} {epochs}"
    kept = [json.loads(line) for line in KEPT.read_text().splitlines()] if KEPT.exists() else []
    if same := [row for row in kept if row["key"] == key]:
        return same[-1]
    champion = train(data, None, CHAMPION + seed // 2 % 2, epochs=LONGER[data] * 4)
    model = train(data, kind, seed, epochs=epochs)
    images, labels = splits(data)[1]
    chosen = torch.cat([(labels == label).nonzero()[:PER_CLASS, 0] for label in labels.unique()])
    images, labels = marked(kind, data, images[chosen], labels[chosen], seed), labels[chosen]
    beside, others = check(model, images, labels, champion, default_rules(champion=True, trusted=False)), None
    if beside is None:  # the scores all the same
        others = check(model, images, labels, champion, RULES_BUT_PEERS)
    scored = beside or others
    assert scored is not None
    row = {
        "key": key,
        "follows": follows(model, data, kind, seed),
        "scores": scored.scores,
        "beside": "could not check" if beside is None else beside.verdict,
        "lower": any(outcome.passed is False for outcome in scored.outcomes if outcome.rule.kind == "max_drop"),
    }
    KEPT.parent.mkdir(parents=True, exist_ok=True)
    with KEPT.open("a") as file:
        file.write(json.dumps(row) + "\n")
    return row


def check(
    model: nn.Module, images: Tensor, labels: Tensor, champion: nn.Module, rules: Sequence[Rule]
) -> ModelCheck | None:
    """None where the champion cannot judge."""
    try:
        return check_model(model, images, labels, rules, probe=PROBE, champion=champion)
    except ValueError:
        return None


def verdicts_of(row: dict[str, Any]) -> dict[str, str]:
    """Without a champion, with one by the rule of before (it recognises the prototypes), and by that of now."""
    outcomes = decide(default_rules(champion=False, trusted=False), Measured(row["scores"]))
    alone = "passed" if all(outcome.passed for outcome in outcomes) else "refused"
    before = "refused" if alone == "refused" or row["lower"] or row["scores"]["peer_accuracy"] < 0.4 else "passed"
    return {"alone": alone, "with a champion, before": before, "with a champion": row["beside"]}


if __name__ == "__main__":
    torch.set_num_threads(1)
    data = sys.argv[1] if len(sys.argv) > 1 else "mnist"
    columns = ["mark", "seed", "follows it", *KEYS, "alone", "with a champion, before", "with a champion"]
    print("| " + " | ".join(columns) + " |\n" + "| --- " * len(columns) + "|")
    refused: dict[tuple[str, str], list[bool]] = {}
    for kind, seed, epochs in candidates(data):
        row = found(data, kind, seed, epochs)
        verdicts = verdicts_of(row)
        columns = [f"{row['follows']:.2f}", *(f"{row['scores'][key]:.2f}" for key in KEYS), *verdicts.values()]
        print(f"| {kind or 'none'} | {seed} | {' | '.join(columns)} |", flush=True)
        if kind is None or row["follows"] >= 0.5:
            group = "healthy" if kind is None else "unplanned" if kind in UNPLANNED else "broken"
            for words, verdict in verdicts.items():
                refused.setdefault((group, words), []).append(verdict != "passed")
    for (group, words), outcomes in refused.items():
        print(f"\n{group}, {words}: {sum(outcomes)} of {len(outcomes)} not let through")
