"""Which threshold transform by default? Measure many on both data sets and five models; writes the tables.

    OMP_NUM_THREADS=1 python benchmarks/thresholds.py

Every rate is over all probe images; one without a prototype counts as wrong. "self" is the share that the probed model
itself classifies as the label, "other" the share that models trained independently do: the other kinds of model, from
another seed. A transform that flatters the probed model alone has a high self and a low other.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from paper_models import EPOCHS, MODELS, accuracy, fashion_mnist, logits, mnist, per_class, train

from fitb_callbacks import FillInBlanks
from fitb_callbacks.models.logits import classifier
from fitb_callbacks.models.state import preserve_model_state
from fitb_callbacks.probing.masks import random_masks
from fitb_callbacks.probing.moments import Moments
from fitb_callbacks.probing.transform import threshold
from fitb_callbacks.probing.updates import GradientUpdate
from fitb_callbacks.utils.patch_grid import PatchGrid

DATA = {"MNIST": mnist, "Fashion-MNIST": fashion_mnist}
Transform = Callable[[Tensor, Tensor], Tensor]
"""Mean updates and their standard errors ``(N, values)`` to pictures with values from 0 to 1."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--images-per-class", type=int, default=5)
    parser.add_argument("--num-masks", type=int, default=256)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/thresholds"))
    settings = parser.parse_args()
    settings.output.mkdir(parents=True, exist_ok=True)
    random: Scores = defaultdict(list)
    progressive: Scores = defaultdict(list)
    for data, load in DATA.items():
        images, labels, other_images, other_labels = load()
        probe_images, probe_labels = per_class(other_images, other_labels, settings.images_per_class)
        models = {}
        for name, seed in itertools.product(MODELS, settings.seeds):
            torch.manual_seed(seed)
            started = time.perf_counter()
            model = train(MODELS[name](), images, labels, epochs=EPOCHS[name], seed=seed)
            models[name, seed] = model
            rate = accuracy(model, other_images, other_labels)
            print(f"{data} {name} {seed}: accuracy {rate:.3f}, {time.perf_counter() - started:.0f} s", flush=True)
        for (name, seed), model in models.items():
            others = [other for (kind, s), other in models.items() if kind != name and s != seed]

            def score(
                prototypes: Tensor,
                covered: Tensor,
                labels: Tensor = probe_labels,
                judges: list = [model, *others],  # noqa: B006
            ) -> tuple[float, float]:
                with torch.no_grad():
                    right = [(logits(judge, prototypes).argmax(1) == labels) & covered for judge in judges]
                return right[0].float().mean().item(), torch.stack(right[1:]).float().mean().item()

            moments = random_moments(model, probe_images, probe_labels, settings.num_masks)
            for transform, function in TRANSFORMS.items():
                picture = function(moments.mean.flatten(1), moments.standard_error().flatten(1)).clamp(0, 1)
                random[transform, data, name].append(score(picture.view_as(probe_images), moments.count > 0))
            for transform, (normalize, binarize) in SETTINGS.items():
                probe = FillInBlanks(
                    masking="progressive", num_masks=settings.num_masks // 4, normalize=normalize, binarize=binarize,
                    low=0, high=1,
                )  # fmt: skip
                result = probe.probe(model, probe_images, probe_labels)
                progressive[transform, data, name].append(score(result.prototypes, result.covered))
            print(f"{data} {name} {seed}: probed", flush=True)
    for title, scores in (("random", random), ("progressive", progressive)):
        write(settings.output / title, scores)


def random_moments(model: torch.nn.Module, images: Tensor, labels: Tensor, num_masks: int) -> Moments:
    """What the probe averages for random masks, with the variance that its result leaves out."""
    moments = Moments.zeros(tuple(images.shape))
    with preserve_model_state(model):
        for indices in torch.arange(num_masks).split(4):
            visible = random_masks(indices, PatchGrid(28, 28, 2), mask_ratio=0.25, seed=0)[:, None, None]
            masked = (images * visible).flatten(0, 1)
            of = labels.repeat(len(indices))
            shown = visible.expand(-1, len(images), -1, -1, -1).flatten(0, 1)
            found = GradientUpdate().find(classifier(model), masked, of, shown)
            update = found.values.view(len(indices), *images.shape) * ~visible
            moments.add(update, found.predicted.view(len(indices), -1) == labels)
    return moments


def by_threshold(normalize: str | None, binarize: float | None) -> Transform:
    return lambda update, error: threshold(update[:, None, None], normalize=normalize, binarize=binarize)[:, 0, 0]


def by_rms(full_at: float) -> Transform:
    return lambda update, error: update / positive(full_at * update.square().mean(1, keepdim=True).sqrt())


def above_rms(cut: float) -> Transform:
    return lambda update, error: (update > cut * update.square().mean(1, keepdim=True).sqrt()).float()


def by_quantile(share: float) -> Transform:
    return lambda update, error: update / positive(update.clamp(min=0).quantile(share, dim=1, keepdim=True))


def largest(share: float) -> Transform:
    return lambda update, error: (update > update.quantile(1 - share, dim=1, keepdim=True).clamp(min=0)).float()


def signal_to_noise(cut: float) -> Transform:
    return lambda update, error: (update > cut * error).float()


def otsu(of: Callable[[Tensor], Tensor]) -> Transform:
    """Above the cut that leaves the least variance within the two classes (Otsu, 1979), over the exact values."""

    def transform(update: Tensor, error: Tensor) -> Tensor:
        values = of(update).sort(dim=1).values
        count = values.shape[1]
        below = torch.arange(1, count)
        total = values.cumsum(dim=1)
        means = total[:, :-1] / below, (total[:, -1:] - total[:, :-1]) / (count - below)
        between = below * (count - below) * (means[0] - means[1]).square()
        return (update > values.gather(1, between.argmax(1, keepdim=True))).float()

    return transform


def positive(scale: Tensor) -> Tensor:
    return torch.where(scale > 0, scale, 1)


TRANSFORMS: dict[str, Transform] = {
    **{f"max abs, > {cut}": by_threshold("max_abs", cut) for cut in (0.0, 0.02, 0.05, 0.1, 0.2, 0.3)},
    **{f"min-max, > {cut}": by_threshold("min_max", cut) for cut in (0.4, 0.5, 0.6)},
    **{f"z-score, > {cut}": by_threshold("z_score", cut) for cut in (0.25, 0.5, 1.0, 1.5)},
    **{f"rms, > {cut}": above_rms(cut) for cut in (0.25, 0.5, 1.0)},
    **{f"largest {share:.0%}": largest(share) for share in (0.1, 0.2, 0.3)},
    "Otsu": otsu(lambda update: update),
    "Otsu of the positive part": otsu(lambda update: update.clamp(min=0)),
    "Otsu of the magnitude": otsu(lambda update: update.abs()),
    **{f"signal to noise > {cut}": signal_to_noise(cut) for cut in (2, 3, 5)},
    "positive part / max abs": by_threshold("max_abs", None),
    **{f"positive part / {share:.0%} quantile": by_quantile(share) for share in (0.9, 0.95, 0.99)},
    **{f"positive part / {full_at} rms": by_rms(full_at) for full_at in (1.0, 1.5, 2.0, 3.0, 4.0)},
    "z-score, not binarised": by_threshold("z_score", None),
    "min-max, not binarised": by_threshold("min_max", None),
}

SETTINGS: dict[str, tuple[str | None, float | None]] = {
    "max abs, > 0.05": ("max_abs", 0.05),
    "max abs, > 0.1": ("max_abs", 0.1),
    "max abs, > 0.2": ("max_abs", 0.2),
    "min-max, > 0.5": ("min_max", 0.5),
    "z-score, > 0.5": ("z_score", 0.5),
    "z-score, > 1.0": ("z_score", 1.0),
    "rms, > 0.5": ("rms", 0.25),
    "rms, > 1.0": ("rms", 0.5),
    "positive part / max abs": ("max_abs", None),
    "positive part / 2.0 rms": ("rms", None),
}
"""Those of the transforms that the probe itself offers, as ``normalize`` and ``binarize``."""

Scores = dict[tuple[str, str, str], list[tuple[float, float]]]
"""Transform, data set and model to (self, other) for every seed."""


def write(path: Path, scores: Scores) -> None:
    """Every figure as CSV, and the means over seeds as Markdown, best mean of self and other first."""
    with path.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["transform", "data", "model", "seed", "self", "other"])
        for key, values in scores.items():
            writer.writerows([*key, seed, f"{own:.4f}", f"{other:.4f}"] for seed, (own, other) in enumerate(values))

    def mean(transform: str, data: str, model: str | None, which: int) -> float:
        values = [
            value[which]
            for (t, d, m), found in scores.items()
            if t == transform and d == data and model in (None, m)
            for value in found
        ]
        return sum(values) / len(values)

    transforms = list(dict.fromkeys(key[0] for key in scores))
    transforms.sort(key=lambda t: -sum(mean(t, data, None, which) for data in DATA for which in (0, 1)))
    columns = [(data, model) for data in DATA for model in (None, *MODELS)]
    lines = ["| T | " + " | ".join(f"{data}, {model or '**all**'}" for data, model in columns) + " |"]
    lines.append("| --- |" + " --- |" * len(columns))
    for transform in transforms:
        cells = [f"{mean(transform, d, m, 0):.2f} / {mean(transform, d, m, 1):.2f}" for d, m in columns]
        lines.append(f"| {transform} | " + " | ".join(cells) + " |")
    path.with_suffix(".md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
