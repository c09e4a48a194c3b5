"""How often the gate's 95% interval of a drop holds the true drop, and how often equal models are refused.

    python benchmarks/gate_statistics.py [images a class, 1 2 4 8 16 without it]

Two models are right or wrong on the same images, class by class, with known probabilities that are correlated between
the models and differ between classes. Each row is 400 pairs with ten classes; in the last row of each size, the
second has lost three classes. Three other intervals are there to compare with. "percentile" is the percentile
bootstrap that draws as many images of each class as there are. "score" is Tango's (1998), which is made for two rates
on the same images and nothing else: where it holds the truth too often as well, that is because so few images differ
between the models that no interval can do better. "pooled" is Student's t over all images, whatever their class.

For equal models, "step" is the lowest share of at least 93% that any interval of one width could hold: the number of
images by which two models differ is a whole one, so coverage moves in steps.
"""

from __future__ import annotations

import math
import sys
from functools import cache

import torch
from torch import Tensor

from fitb_callbacks.gate.bootstrap import interval, resamples, student_quantile
from fitb_callbacks.gate.rules import Rule
from fitb_callbacks.gate.verdict import Measured, decide

CLASSES, PAIRS, BOUND = 10, 400, 0.1
RULE = Rule("max_drop", "coverage", BOUND)
EQUAL = [(accuracy, 0.0, 0) for accuracy in (0.5, 0.7, 0.85, 0.9, 0.95, 0.99)]
LOWER = [(0.9, 0.1, 0), (0.9, 0.3, 0), (0.9, 0.5, 0), (0.9, 0.0, 3)]  # right, drop of each class, classes lost


def pair(
    accuracy: float, drop: float, lost: int, per_class: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, float]:
    """Labels, how much more often the first model is right on each image (-1, 0 or 1), and the true drop."""
    labels = torch.arange(CLASSES).repeat_interleave(per_class)
    spread = 0.2 * (torch.rand(CLASSES, generator=generator) - 0.5)
    first = (accuracy + spread).clamp(0.02, 0.98)[labels]
    second = (first - drop) * (labels >= lost)
    shared, own, same = (torch.rand(len(labels), generator=generator) for _ in range(3))
    right = shared < first, torch.where(same < 0.5, shared, own) < second
    return labels, right[0].double() - right[1].double(), float((first - second).mean())


def percentile(difference: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[float, float]:
    """The interval as it was in the first version."""
    rows = torch.empty(1000, len(labels), dtype=torch.long)
    for label in labels.unique():
        members = (labels == label).nonzero()[:, 0]
        rows[:, members] = members[torch.randint(len(members), (1000, len(members)), generator=generator)]
    low, high = torch.quantile(difference[rows].mean(dim=1), torch.tensor([0.025, 0.975]).double()).tolist()
    return low, high


@cache
def score(more: int, less: int, number: int) -> tuple[float, float]:
    """Tango's interval, from how many images only the first and only the second model is right on."""

    def statistic(drop: float) -> float:
        middle = (2 * number - more + less) * drop - more - less
        share = (math.sqrt(max(0.0, middle**2 + 8 * number * less * drop * (1 - drop))) - middle) / (4 * number)
        variance = number * (2 * share + drop * (1 - drop))
        return (more - less - number * drop) / math.sqrt(max(variance, 1e-12))

    def end(low: float, high: float, wanted: float) -> float:
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (middle, high) if statistic(middle) > wanted else (low, middle)
        return (low + high) / 2

    found = (more - less) / number
    return end(-1 + 1e-9, found, 1.96), end(found, 1 - 1e-9, -1.96)


def pooled(difference: Tensor) -> tuple[float, float]:
    """The gate's interval with the spread over all images in place of that within classes."""
    number, value = len(difference), float(difference.mean())
    half = student_quantile(number - 1) * math.hypot(float(difference.std()) / math.sqrt(number), 0.5 / number)
    return value - half, value + half


def step(errors: list[float]) -> float:
    """The lowest share, of at least 93%, of errors that do not exceed a cut."""
    away = torch.tensor(errors).abs()
    shares = [float((away <= cut + 1e-6).double().mean()) for cut in away.unique()]
    return min(share for share in shares if share >= 0.93)


def now(value: float, difference: Tensor, labels: Tensor, seed: int) -> tuple[float, float]:
    """The gate's."""
    drawn = difference[resamples(labels, seed=seed, number=1000)].mean(dim=1)
    return interval("coverage", value, drawn, labels)


if __name__ == "__main__":
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    columns = [
        "images a class",
        "right",
        "drop",
        *(f"held, {name}" for name in ("percentile", "score", "pooled", "now")),
    ]
    columns += ["refused, value > 0.1", "refused, score", "refused, pooled", "refused", "left open", "step"]
    print("| " + " | ".join(columns) + " |\n" + "| --- " * len(columns) + "|")
    for per_class in [int(word) for word in sys.argv[1:]] or (1, 2, 4, 8, 16):
        for accuracy, drop, lost in EQUAL + LOWER:
            counts, errors = torch.zeros(len(columns) - 4), []
            for seed in range(PAIRS):
                labels, difference, true = pair(accuracy, drop, lost, per_class, generator)
                value = float(difference.mean())
                reference = score(int((difference > 0).sum()), int((difference < 0).sum()), len(labels))
                ours = now(value, difference, labels, seed)
                (outcome,) = decide([RULE], Measured({}, {}, {"coverage": (value, *ours)}))
                together = pooled(difference)
                intervals = percentile(difference, labels, generator), reference, together, ours
                held = [low <= true <= high for low, high in intervals]
                refused = [value > BOUND + 1e-9, reference[0] > BOUND, together[0] > BOUND]
                refused += [outcome.passed is False, outcome.passed is None]
                counts += torch.tensor([*held, *refused]).float()
                errors.append((value - true) * len(labels))
            shares = " | ".join(f"{share:.1%}" for share in (counts / PAIRS).tolist())
            shares += f" | {step(errors):.1%}" if not drop and not lost else " | "
            print(f"| {per_class} | {accuracy} | {f'{lost} classes' if lost else drop} | {shares} |", flush=True)
