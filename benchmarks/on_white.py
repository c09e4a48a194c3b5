"""What keeping a fill within the value range does for small networks that learn things on plain backgrounds.

    apt install tuxpaint-stamps-default
    OMP_NUM_THREADS=1 python benchmarks/on_white.py          # some forty minutes, most of them for training

Cut-out photographs of five kinds of things on white or black, 64 pixels, grey or in colour. Networks of
`validity_worlds.py`, and one like MobileNet, learn them and fill in held-out ones, with and without it. The judges, a
CNN and a residual network, learned from other pictures, of twice as many things.
"""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
import validity_worlds as worlds
from PIL import Image
from torch import Tensor, nn

from fitb_callbacks import FillInBlanks
from fitb_callbacks.probing import ascent

COUNTS = {"train": 2000, "judges": 1000, "held out": 600}
THINGS = {"train": 12, "judges": 24, "held out": 12}  # of a class, at most
PER_CLASS, SEEDS, JUDGES_SEED = 12, 2, 100
EPOCHS = {"cnn": 20, "resnet": 20, "vit": 60, "mobile": 12}
RATES = {"cnn": 3e-3, "resnet": 3e-3, "vit": 1.5e-3, "mobile": 3e-3}
NEVER = 10**6
SPLIT = tuple[Tensor, Tensor]


def main() -> None:
    """Print a row a background, kind of image and network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=tuple(EPOCHS), default=tuple(EPOCHS))
    parser.add_argument("--backgrounds", nargs="+", choices=("white", "black"), default=("white", "black"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print("| images | network | it recognises its own fills, without / with | the judges do |")
    print("| --- | --- | --- | --- |")
    for background in asked.backgrounds:
        in_colour = pictures(background)
        for kind in ("grey", "colour"):
            splits = {name: (grey(x) if kind == "grey" else x, y) for name, (x, y) in in_colour.items()}
            judges = [trained(network, splits["judges"], JUDGES_SEED) for network in ("cnn", "resnet")]
            for network in asked.networks:
                shares = torch.stack([recognised(network, seed, splits, judges) for seed in range(SEEDS)]).mean(dim=0)
                own, others = (f"{without:.2f} / {with_it:.2f}" for without, with_it in shares.T.tolist())
                print(f"| {kind}, on {background} | {network} | {own} | {others} |", flush=True)


def recognised(network: str, seed: int, splits: dict[str, SPLIT], judges: list[nn.Module]) -> Tensor:
    """Shares of the fills that the network itself and the judges recognise, without and with it: ``(2, 2)``."""
    images, labels = splits["held out"]
    chosen = torch.cat([(labels == label).nonzero().flatten()[:PER_CLASS] for label in labels.unique()])
    model = trained(network, splits["train"], seed)
    rows = []
    for change in (patch.object(ascent, "_PATIENCE", NEVER), nullcontext()):
        with change:
            filled = FillInBlanks(num_masks=4).probe(model, images[chosen], labels[chosen]).filled
        own, *others = (accuracy(judge, filled, labels[chosen]) for judge in (model, *judges))
        rows.append([own, sum(others) / len(others)])
    return torch.tensor(rows)


def trained(network: str, split: SPLIT, seed: int) -> nn.Module:
    """A network that learned from images that are mirrored and moved at random."""
    images, labels = split
    torch.manual_seed(seed)
    make = mobile if network == "mobile" else worlds.NETWORKS[network]
    model = make(images.shape[1], images.shape[-1], int(labels.max()) + 1).train()
    optimizer = torch.optim.AdamW(model.parameters())
    steps = EPOCHS[network] * (len(images) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATES[network], total_steps=steps)
    for _ in range(EPOCHS[network]):
        for batch in torch.randperm(len(images)).split(64)[: len(images) // 64]:
            seen = torch.where(torch.rand(len(batch), 1, 1, 1) < 0.5, images[batch], images[batch].flip(3))
            seen = seen.roll(torch.randint(-4, 5, (2,)).tolist(), dims=(2, 3))
            optimizer.zero_grad()
            F.cross_entropy(model(seen), labels[batch]).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


class InvertedResidual(nn.Module):
    """A block of MobileNetV2: wider, one filter a channel, narrow again."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        wide = 4 * channels
        self.skips = stride == 1 and channels == out
        self.layers = nn.Sequential(
            nn.Conv2d(channels, wide, 1, bias=False),
            nn.BatchNorm2d(wide),
            nn.Hardswish(),
            nn.Conv2d(wide, wide, 3, stride, padding=1, groups=wide, bias=False),
            nn.BatchNorm2d(wide),
            nn.Hardswish(),
            nn.Conv2d(wide, out, 1, bias=False),
            nn.BatchNorm2d(out),
        )

    def forward(self, x: Tensor) -> Tensor:
        """The layers' output, and ``x`` on top where it has the same shape."""
        return x + self.layers(x) if self.skips else self.layers(x)


def mobile(channels: int, size: int, num_classes: int) -> nn.Module:
    """A small network like MobileNet, for images of 64 pixels."""
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.Hardswish(),
        InvertedResidual(16, 24, stride=2),
        InvertedResidual(24, 24, stride=1),
        InvertedResidual(24, 40, stride=2),
        InvertedResidual(40, 40, stride=1),
        InvertedResidual(40, 64, stride=2),
        nn.Conv2d(64, 128, 1),
        nn.Hardswish(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(128, num_classes),
    )


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of the images that a model is right on."""
    return (model(images).argmax(dim=1) == labels).float().mean().item()


def pictures(background: str) -> dict[str, SPLIT]:
    """Things at random places, 40 to 60 pixels long, by split: in [0, 1], shape (N, 3, 64, 64), and labels."""
    kinds = worlds.photographs()
    splits = {}
    for number, (name, count) in enumerate(COUNTS.items()):
        random = np.random.default_rng(500 + number)
        labels = torch.arange(count) % len(kinds)
        few = [kind[: THINGS[name]] for kind in kinds]
        things = [few[label][random.integers(len(few[label]))] for label in labels.tolist()]
        splits[name] = torch.stack([scene(thing, background, random) for thing in things]), labels
    return splits


def scene(thing: Image.Image, background: str, random: np.random.Generator, size: int = 64) -> Tensor:
    """A thing somewhere on a plain background."""
    scale = random.uniform(40, 60) / max(thing.size)
    thing = thing.resize([max(1, round(side * scale)) for side in thing.size])
    picture = Image.new("RGBA", (size, size), background)
    picture.alpha_composite(thing, tuple(int(random.integers(0, size - side + 1)) for side in thing.size))
    return torch.from_numpy(np.asarray(picture.convert("RGB")).copy()).permute(2, 0, 1).float() / 255


def grey(images: Tensor) -> Tensor:
    """Luminance, shape (N, 1, H, W)."""
    return (images * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(dim=1, keepdim=True)


if __name__ == "__main__":
    main()
