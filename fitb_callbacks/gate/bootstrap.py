"""How sure a score, and the difference of two models' scores, is: bootstrap over the probe images, in pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from fitb_callbacks.probing.judging import structure
from fitb_callbacks.probing.result import FillInBlanksResult
from fitb_callbacks.scoring.update_quality import effective_area

__all__ = [
    "check_comparable",
    "differences",
    "interval",
    "resampled_scores",
    "resamples",
    "settings_difference",
]

_LEVEL = 0.95
_NUMBER = 2000


def differences(
    champion: FillInBlanksResult, candidate: FillInBlanksResult, *, seed: int = 0
) -> dict[str, tuple[float, float, float]]:
    """How much lower each score of the candidate is than the champion's, with a 95% interval.

    Both are probed on the same images, so each resample takes the same images of both: what makes an image hard for
    both cancels out. Images are drawn within their class, as they were chosen. The intervals are percentiles of 2,000
    resamples. The nulls of the judge's scores are kept as they are.

    Args:
        champion: What the probe found of one model.
        candidate: What it found of the other, on the same images with the same settings.
        seed: Of the resamples.

    Returns:
        Score to the drop, its lower and its upper end. An end is NaN if the score is undefined in some resample.

    Raises:
        ValueError: If images, labels or settings differ; the error shows how.

    Example:
        >>> import torch
        >>> from fitb_callbacks import FillInBlanks
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
        >>> result = FillInBlanks(num_masks=8).probe(model, torch.rand(9, 1, 4, 4), torch.arange(9) % 3)
        >>> differences(result, result)["coverage"]
        (0.0, 0.0, 0.0)
    """
    check_comparable(champion, candidate)
    rows = resamples(champion.labels, seed=seed)
    before, after = resampled_scores(champion, rows), resampled_scores(candidate, rows)
    return {
        key: (champion.metrics[key] - candidate.metrics[key], *interval(before[key].double() - after[key].double()))
        for key in before
        if key in after
    }


def interval(values: Tensor) -> tuple[float, float]:
    """The 95% percentile interval of resampled values ``(R,)``; NaN if any of them is."""
    low, high = torch.quantile(values.double(), torch.tensor([(1 - _LEVEL) / 2, (1 + _LEVEL) / 2]).double()).tolist()
    return low, high


def check_comparable(first: FillInBlanksResult, second: FillInBlanksResult) -> None:
    """Raise ValueError unless two results are of the same images, labels and settings; the error shows what differs."""
    if different := settings_difference(first.settings, second.settings):
        raise ValueError(f"scores of different settings cannot be compared: {different}")
    for name in ("images", "labels"):
        if not torch.equal(getattr(first, name), getattr(second, name)):
            raise ValueError(f"scores of different {name} cannot be compared")


def settings_difference(first: Mapping[str, object], second: Mapping[str, object]) -> str:
    """What differs between two probes' settings, empty if nothing does. How images are batched does not count.

    Example:
        >>> settings_difference({"seed": 0, "num_masks": 64}, {"seed": 0, "num_masks": 32})
        'num_masks is 64 and 32'
    """
    names = [name for name in {**first, **second} if name != "chunk_size"]
    return ", ".join(
        f"{name} is {first.get(name)!r} and {second.get(name)!r}"
        for name in names
        if first.get(name) != second.get(name)
    )


def resamples(labels: Tensor, *, seed: int, number: int = _NUMBER) -> Tensor:
    """Row numbers of bootstrap resamples that keep each class's number of images.

    Args:
        labels: Shape ``(N,)``.
        seed: Of the draws.
        number: How many resamples.

    Returns:
        Integers in [0, N), shape ``(number, N)``.

    Example:
        >>> labels = torch.tensor([0, 0, 1])
        >>> labels[resamples(labels, seed=0, number=2)].sort(dim=1).values.tolist()
        [[0, 0, 1], [0, 0, 1]]
    """
    generator = torch.Generator().manual_seed(seed)
    rows = torch.empty(number, len(labels), dtype=torch.long)
    for label in labels.unique():
        members = (labels == label).nonzero()[:, 0]
        rows[:, members] = members[torch.randint(len(members), (number, len(members)), generator=generator)]
    return rows


def resampled_scores(result: FillInBlanksResult, rows: Tensor) -> dict[str, Tensor]:
    """The result's scores on other selections of its images.

    Args:
        result: What a probe found.
        rows: Row numbers of the images, shape ``(R, n)``.

    Returns:
        Score (those of `fitb_callbacks.scoring.catalogue.RESAMPLED` that the result has) to its values, shape ``(R,)``.
    """
    labels, num_classes = result.labels[rows], int(result.settings["num_classes"])
    covered = result.covered[rows]
    predictions = result.predictions.where(result.covered, -1)[rows]
    right = predictions == labels
    area = effective_area(result.updates)[rows].masked_fill(~covered, math.nan)
    macro, weighted = _f1(predictions, labels.where(covered, -1), num_classes)
    macro_all, weighted_all = _f1(predictions, labels, num_classes)
    scores = {
        "accuracy": right.sum(dim=1) / covered.sum(dim=1),  # 0 / 0 is NaN, as it should be
        "f1_macro": macro,
        "f1_weighted": weighted,
        "coverage": covered.double().mean(dim=1),
        "accuracy_all": right.double().mean(dim=1),
        "f1_macro_all": macro_all,
        "f1_weighted_all": weighted_all,
        "area": area.nanmean(dim=1),
        "reliability": result.reliability[rows].nanmean(dim=1),
    }
    if result.judged is not None:
        answers, null = result.judged[rows], result.metrics["null_accuracy"]
        judged = (answers == labels).double().mean(dim=1)
        scores |= {
            "judge_accuracy": judged,
            "judge_f1_macro": _f1(answers, labels, num_classes)[0],
            "judge_excess": (judged - null) / (1 - null) if null < 1 else torch.zeros_like(judged),
            "structure": torch.tensor(
                [structure(a, null, b) for a, b in zip(judged.tolist(), scores["area"].tolist(), strict=True)]
            ),
        }
    return scores


def _f1(answers: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Macro and weighted F1 of each row; an answer of -1 is wrong, a label of -1 does not count.

    From counts: torchmetrics would hold a number for every resample, image and class.
    """

    def count(classes: Tensor, which: Tensor) -> Tensor:
        counts = torch.zeros(len(classes), num_classes, dtype=torch.float64)
        return counts.scatter_add_(1, classes.clamp(min=0), which.to(counts))

    counts = labels >= 0
    number = count(labels, counts)
    answered = count(answers, counts & (answers >= 0))
    f1 = 2 * count(labels, counts & (answers == labels)) / (number + answered).clamp(min=1)
    macro = f1.masked_fill(number == 0, math.nan).nanmean(dim=1)
    return macro, (f1 * number).sum(dim=1) / number.sum(dim=1)
