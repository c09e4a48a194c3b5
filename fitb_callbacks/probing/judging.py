"""What a judge makes of a probe's prototypes, and the headline score that follows from it."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from fitb_callbacks.probing.result import FillInBlanksResult
from fitb_callbacks.probing.transform import prototype
from fitb_callbacks.scoring.classification import rates
from fitb_callbacks.scoring.intervals import wilson_interval
from fitb_callbacks.scoring.judges.base import Judge
from fitb_callbacks.scoring.nulls import equal_norm_noise, permuted_patches

__all__ = ["judged", "structure"]

_NULL_DRAWS = 4
_BROAD = 1 / (2 * math.pi)


def judged(result: FillInBlanksResult, judge: Judge) -> FillInBlanksResult:
    """The result with a judge's answers and scores, over all probe images: one without a prototype counts as wrong.

    The nulls say what the judge's accuracy would be without structure, whatever the classes' shares among the probe
    images: the same updates with their patches permuted, and noise of equal norm, thresholded like the updates. The
    one that the judge gets right more often counts.

    Args:
        result: What a probe found.
        judge: Who classifies in the model's place.

    Returns:
        A new result with `judged`, and ``judge_accuracy``, ``judge_f1_macro``, ``judge_ceiling``, ``null_accuracy``,
        ``judge_excess`` and ``structure`` among its metrics; see `fitb_callbacks.scoring.catalogue.METRICS`.

    Example:
        >>> import torch
        >>> from fitb_callbacks import FillInBlanks
        >>> from fitb_callbacks.scoring.judges.centroid import CentroidJudge
        >>> images, labels = torch.rand(30, 1, 4, 4), torch.arange(30) % 3
        >>> judge = CentroidJudge()
        >>> judge.update(images, labels)
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
        >>> result = judged(FillInBlanks(num_masks=8).probe(model, images, labels), judge)
        >>> 0 <= result.metrics["structure"] <= 1
        True
    """
    labels, covered, num_classes = result.labels, result.covered, int(result.settings["num_classes"])
    answers = judge.classify(result.prototypes).where(covered, -1)
    scores = rates(answers, labels, num_classes=num_classes)

    def null_accuracy(updates: Tensor) -> float:
        return float(((judge.classify(_prototypes(updates, result)) == labels) & covered).float().mean())

    seed, patch_size = int(result.settings["seed"]), int(result.settings["patch_size"])
    draws = range(seed, seed + _NULL_DRAWS)
    null = max(
        sum(null_accuracy(permuted_patches(result.updates, patch_size=patch_size, seed=draw)) for draw in draws),
        sum(null_accuracy(equal_norm_noise(result.updates, seed=draw)) for draw in draws),
    ) / len(draws)
    accuracy, area, number = scores["accuracy"], result.metrics["area"], len(labels)
    ceiling = float((judge.classify(result.images) == labels).float().mean())
    metrics = {
        "judge_accuracy": accuracy,
        "judge_f1_macro": scores["f1_macro"],
        "judge_ceiling": ceiling,
        "null_accuracy": null,
        "judge_excess": _excess(accuracy, null),
        "structure": structure(accuracy, null, area),
    }
    low, high = interval = wilson_interval(accuracy, number)
    intervals = {
        "judge_accuracy": interval,
        "judge_ceiling": wilson_interval(ceiling, number),
        "null_accuracy": wilson_interval(null, number),
        "judge_excess": (_excess(low, null), _excess(high, null)),
        "structure": (structure(low, null, area), structure(high, null, area)),
    }
    return replace(
        result,
        judged=answers,
        metrics={**result.metrics, **metrics},
        intervals={**result.intervals, **intervals},
    )


def structure(judge_accuracy: float, null_accuracy: float, area: float) -> float:
    """The headline score: does the filled-in structure show the class, broadly?

    The judge's excess over the null, ``(judge - null) / (1 - null)`` and at least 0, reduced where the update is
    narrower than half of what noise would spread over (noise: 1 / pi), as that of a planted mark is. The formula was
    chosen on other models than those it was validated on; docs/scores.md has the table.

    Args:
        judge_accuracy: Over all probe images, in [0, 1].
        null_accuracy: The same for structureless updates, in [0, 1].
        area: Mean effective area of the updates, in [0, 1]; NaN if no image is covered.

    Returns:
        Value in [0, 1]; 0 if no image is covered.

    Example:
        >>> round(structure(0.9, 0.1, area=0.2), 3), round(structure(0.9, 0.1, area=0.04), 3)
        (0.889, 0.223)
    """
    breadth = 0.0 if math.isnan(area) else min(1.0, area / _BROAD)
    return max(0.0, _excess(judge_accuracy, null_accuracy)) * breadth


def _excess(accuracy: float, null: float) -> float:
    return (accuracy - null) / (1 - null) if null < 1 else 0.0


def _prototypes(updates: Tensor, result: FillInBlanksResult) -> Tensor:
    """Other updates made into prototypes as the result's own were."""
    low, high, baseline = (
        torch.tensor(result.settings[name], dtype=updates.dtype).view(-1, 1, 1) for name in ("low", "high", "baseline")
    )
    normalize, binarize = result.settings["normalize"], result.settings["binarize"]
    return prototype(updates, low=low, high=high, baseline=baseline, normalize=normalize, binarize=binarize)
