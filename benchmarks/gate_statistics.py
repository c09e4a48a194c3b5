"""How often the gate's 95% interval of a drop holds the true drop, and how often equal models are refused.

    python benchmarks/gate_statistics.py

Two models are right or wrong on the same images, class by class, with known probabilities that are correlated between
the models and differ between classes. Each row is 400 pairs with ten classes. "percentile" is the percentile bootstrap
that draws as many images of each class as there are.
"""

import torch

from fitb_callbacks.gate.bootstrap import interval, resamples
from fitb_callbacks.gate.rules import Rule
from fitb_callbacks.gate.verdict import Measured, decide

CLASSES, PAIRS, BOUND = 10, 400, 0.1
RULE = Rule("max_drop", "coverage", BOUND)


def pair(accuracy, drop, per_class, generator):
    """Whether each of two models is right on each image, and the labels."""
    labels = torch.arange(CLASSES).repeat_interleave(per_class)
    spread = 0.2 * (torch.rand(CLASSES, generator=generator) - 0.5)
    first = (accuracy + spread).clamp(0.02, 0.98)[labels]
    shared, own, same = (torch.rand(len(labels), generator=generator) for _ in range(3))
    second = first - drop
    right = shared < first, torch.where(same < 0.5, shared, own) < second
    return labels, *(each.double() for each in right), float((first - second).mean())


def percentile(difference, labels, generator):
    """The interval as it was before."""
    rows = torch.empty(1000, len(labels), dtype=torch.long)
    for label in labels.unique():
        members = (labels == label).nonzero()[:, 0]
        rows[:, members] = members[torch.randint(len(members), (1000, len(members)), generator=generator)]
    return torch.quantile(difference[rows].mean(dim=1), torch.tensor([0.025, 0.975]).double()).tolist()


if __name__ == "__main__":
    generator = torch.Generator().manual_seed(0)
    print("| images a class | right | drop | held, percentile | held | refused, value > 0.1 | refused | left open |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for per_class in (1, 2, 4, 10):
        for accuracy, drop in ((0.95, 0.0), (0.85, 0.0), (0.7, 0.0), (0.9, 0.1), (0.9, 0.5)):
            counts = dict.fromkeys(("before", "held", "by value", "refused", "open"), 0)
            for seed in range(PAIRS):
                labels, first, second, true = pair(accuracy, drop, per_class, generator)
                difference = first - second
                value = float(difference.mean())
                low, high = percentile(difference, labels, generator)
                counts["before"] += low <= true <= high
                drawn = difference[resamples(labels, seed=seed, number=1000)].mean(dim=1)
                low, high = interval("coverage", value, drawn, labels)
                counts["held"] += low <= true <= high
                (outcome,) = decide([RULE], Measured({}, {}, {"coverage": (value, low, high)}))
                counts["by value"] += value > BOUND + 1e-9
                counts["refused"] += outcome.passed is False
                counts["open"] += outcome.passed is None
            shares = " | ".join(f"{count / PAIRS:.3f}" for count in counts.values())
            print(f"| {per_class} | {accuracy} | {drop} | {shares} |", flush=True)
