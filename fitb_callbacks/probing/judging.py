"""What a judge makes of a probe's pictures, and the headline score that follows from it."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from fitb_callbacks.probing.result import FillInBlanksResult
from fitb_callbacks.probing.transform import prototype
from fitb_callbacks.scoring.classification import rates
from fitb_callbacks.scoring.intervals import difference_interval, wilson_interval
from fitb_callbacks.scoring.judges.base import Judge, label_ranks
from fitb_callbacks.scoring.nulls import equal_norm_noise, permuted_patches
from fitb_callbacks.scoring.structure import above_chance, structure_of

__all__ = ["judged"]

_NULL_DRAWS = 4
_LEAST_CEILING = 0.1  # above chance, lower bound: a judge below that cannot tell the classes apart


def judged(result: FillInBlanksResult, judge: Judge) -> FillInBlanksResult:
    """Add a judge's answers and scores, over all probe images: one without a prototype counts as wrong.

    What the model knows is judged by rank on the filled images, or on the prototypes where nothing was filled. There is
    no ``structure`` (NaN) if the judge cannot tell the classes apart on the probe images themselves.

    The nulls say what the judge's accuracy on prototypes would be without structure, whatever the classes' shares among
    the probe images: the same updates with their patches permuted, and noise of equal norm, thresholded like the
    updates. The one that the judge gets right more often counts.

    Args:
        result: What a probe found.
        judge: Who classifies in the model's place.

    Returns:
        A new result with `judged` and `judge_ranks`, and ``judge_accuracy``, ``judge_f1_macro``, ``judge_ceiling``,
        ``null_accuracy``, ``judge_excess``, ``knows`` and ``structure`` among its metrics; see
        `fitb_callbacks.scoring.catalogue.METRICS`.

    Example:
        >>> import torch
        >>> from fitb_callbacks import FillInBlanks, RidgeJudge
        >>> images, labels = torch.rand(30, 1, 8, 8), torch.arange(30) % 3
        >>> judge = RidgeJudge()
        >>> judge.update(images, labels)
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
        >>> result = judged(FillInBlanks(num_masks=8).probe(model, images, labels), judge)
        >>> -1 <= result.metrics["knows"] <= 1
        True
    """
    labels, covered, num_classes = result.labels, result.covered, int(result.settings["num_classes"])
    answers = judge.classify(result.prototypes).where(covered, -1)
    scores = rates(answers, labels, num_classes=num_classes)
    null, number = _null_accuracy(result, judge), len(labels)
    ceiling = float((judge.classify(result.images) == labels).float().mean())
    ranks = _ranks(result, judge)
    ranked = 2 * ranks - 1
    knows, (low, high) = ranked.double().mean().item(), difference_interval(ranked)
    tells_apart = above_chance(wilson_interval(ceiling, number)[0], 1 / num_classes) >= _LEAST_CEILING
    headline = [
        structure_of(known, num_classes, knows=value) if tells_apart else math.nan
        for known, value in zip((result.metrics, *_ends(result)), (knows, low, high), strict=True)
    ]
    accuracy = scores["accuracy"]
    metrics = {
        "structure": headline[0],
        "knows": knows,
        "judge_accuracy": accuracy,
        "judge_f1_macro": scores["f1_macro"],
        "judge_ceiling": ceiling,
        "null_accuracy": null,
        "judge_excess": above_chance(accuracy, null),
    }
    interval = wilson_interval(accuracy, number)
    intervals = {
        "structure": (headline[1], headline[2]),
        "knows": (low, high),
        "judge_accuracy": interval,
        "judge_ceiling": wilson_interval(ceiling, number),
        "null_accuracy": wilson_interval(null, number),
        "judge_excess": (above_chance(interval[0], null), above_chance(interval[1], null)),
    }
    return replace(
        result,
        judged=answers,
        judge_ranks=ranks,
        metrics={**result.metrics, **metrics},
        intervals={**result.intervals, **intervals},
    )


def _ends(result: FillInBlanksResult) -> tuple[dict[str, float], dict[str, float]]:
    """The scores with the accuracies at the lower and at the upper ends of their intervals."""
    names = result.intervals.keys() & {"image_accuracy", "reference_accuracy"}
    low, high = ({name: result.intervals[name][end] for name in names} for end in (0, 1))
    return {**result.metrics, **low}, {**result.metrics, **high}


def _ranks(result: FillInBlanksResult, judge: Judge) -> Tensor:
    if result.filled is not None:
        return label_ranks(judge.scores(result.filled), result.labels)
    return label_ranks(judge.scores(result.prototypes), result.labels).where(result.covered, 0.5)


def _null_accuracy(result: FillInBlanksResult, judge: Judge) -> float:
    def accuracy(updates: Tensor) -> float:
        return float(((judge.classify(_prototypes(updates, result)) == result.labels) & result.covered).float().mean())

    seed, patch_size = int(result.settings["seed"]), int(result.settings["patch_size"])
    draws = range(seed, seed + _NULL_DRAWS)
    return max(
        sum(accuracy(permuted_patches(result.updates, patch_size=patch_size, seed=draw)) for draw in draws),
        sum(accuracy(equal_norm_noise(result.updates, seed=draw)) for draw in draws),
    ) / len(draws)


def _prototypes(updates: Tensor, result: FillInBlanksResult) -> Tensor:
    """Other updates made into prototypes as the result's own were."""
    low, high, baseline = (
        torch.tensor(result.settings[name], dtype=updates.dtype).view(-1, 1, 1) for name in ("low", "high", "baseline")
    )
    normalize, binarize = result.settings["normalize"], result.settings["binarize"]
    return prototype(updates, low=low, high=high, baseline=baseline, normalize=normalize, binarize=binarize)
