"""Confidence intervals of scores, and of differences between two models' scores: a studentised bootstrap over images.

Images are drawn within their class, as they were chosen, and one fewer than there are (Rao and Wu, 1988): drawing as
many as there are would make the variance too small by a factor of (n - 1) / n, which is a half with two images a class.
The spread is multiplied by a quantile of Student's t. Scores that count images get a floor of half an image: ten right
answers in ten do not prove that there is no wrong one. `benchmarks/gate_statistics.py` measures how often the intervals
hold the truth.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from fitb_callbacks.probing.result import FillInBlanksResult
from fitb_callbacks.scoring.structure import structure_of
from fitb_callbacks.scoring.update_quality import effective_area

__all__ = [
    "check_comparable",
    "differences",
    "interval",
    "rate_rises",
    "resampled_scores",
    "resamples",
    "settings_difference",
    "student_quantile",
]

_NUMBER = 2000
_PROBABILITY = 0.975  # two-sided 95%
_FLOOR = 0.5  # in images
_CONTINUOUS = ("area", "reliability")  # means over images of something that is not counted


def differences(
    champion: FillInBlanksResult, candidate: FillInBlanksResult, *, seed: int = 0
) -> dict[str, tuple[float, float, float]]:
    """How much lower each score of the candidate is than the champion's, with a 95% interval.

    Both are probed on the same images, so each resample takes the same images of both: what makes an image hard for
    both cancels out. The nulls of the judge's scores are kept as they are.

    Args:
        champion: What the probe found of one model.
        candidate: What it found of the other, on the same images with the same settings.
        seed: Of the resamples.

    Returns:
        Score to the drop, its lower and its upper end. The ends are NaN if the score is undefined in some resample, or
        if there are too few images for an interval.

    Raises:
        ValueError: If images, labels or settings differ; the error shows how.

    Example:
        >>> import torch
        >>> from fitb_callbacks import FillInBlanks
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
        >>> result = FillInBlanks(num_masks=8).probe(model, torch.rand(9, 1, 4, 4), torch.arange(9) % 3)
        >>> drop, low, high = differences(result, result)["coverage"]
        >>> drop, round(low, 2), round(high, 2)
        (0.0, -0.14, 0.14)
    """
    check_comparable(champion, candidate)
    rows = resamples(champion.labels, seed=seed)
    before, after = resampled_scores(champion, rows), resampled_scores(candidate, rows)
    drops = {}
    for key in before:
        if key in after:
            drop = champion.metrics[key] - candidate.metrics[key]
            drops[key] = (drop, *interval(key, drop, before[key].double() - after[key].double(), champion.labels))
    return drops


def rate_rises(champion: FillInBlanksResult, candidate: FillInBlanksResult) -> dict[str, tuple[float, float, float]]:
    """How much higher each score of the candidate is than the champion's, with a 95% interval where both have one.

    From the interval of each rate (Newcombe, 1998, method 10). That both are of the same images is not used, which
    makes the intervals wider than they need be.
    """
    rises = {}
    for key in candidate.metrics.keys() & champion.metrics.keys():
        after, before = candidate.metrics[key], champion.metrics[key]
        rise, unknown = after - before, (math.nan, math.nan)
        after_low, after_high = candidate.intervals.get(key, unknown)
        before_low, before_high = champion.intervals.get(key, unknown)
        low = rise - math.hypot(after - after_low, before_high - before)
        rises[key] = (rise, low, rise + math.hypot(after_high - after, before - before_low))
    return rises


def interval(key: str, value: float, resampled: Tensor, labels: Tensor) -> tuple[float, float]:
    """The 95% interval of a score, or of the difference of two models' scores.

    Args:
        key: The score.
        value: Its value.
        resampled: Its values in the resamples, shape ``(R,)``.
        labels: Of the images, shape ``(N,)``.

    Returns:
        Both ends; NaN if a resampled value is, or if no class has two images.
    """
    freedom = len(labels) - max(1, len(_strata(labels)))
    if freedom < 1:
        return math.nan, math.nan
    floor = 0.0 if key in _CONTINUOUS else _FLOOR / len(labels)
    half = student_quantile(freedom) * math.hypot(float(resampled.double().std()), floor)
    return value - half, value + half


def student_quantile(freedom: int) -> float:
    """The 97.5% quantile of Student's t, by Hill's expansion: within 0.2% from three degrees of freedom on.

    Example:
        >>> [round(student_quantile(freedom), 2) for freedom in (1, 2, 10, 1000)]
        [12.71, 4.3, 2.23, 1.96]
    """
    if freedom == 1:
        return math.tan(math.pi * (_PROBABILITY - 0.5))
    if freedom == 2:
        share = 2 * _PROBABILITY - 1
        return float(share * math.sqrt(2 / (1 - share**2)))
    z = 1.959963984540054
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / float(freedom**power) for power, term in enumerate(terms, start=1))


def check_comparable(first: FillInBlanksResult, second: FillInBlanksResult) -> None:
    """Raise ValueError unless two results share images, labels and settings; the error shows what differs."""
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
    """Row numbers of bootstrap resamples within classes, one image fewer of each than there are.

    Classes with a single image are drawn from together.

    Args:
        labels: Shape ``(N,)``.
        seed: Of the draws.
        number: How many resamples.

    Returns:
        Integers in [0, N), shape ``(number, n)``.

    Example:
        >>> labels = torch.tensor([0, 0, 0, 1, 1, 2, 3])
        >>> labels[resamples(labels, seed=0, number=2)][:, :3].tolist()
        [[0, 0, 1], [0, 0, 1]]
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = [
        members[torch.randint(len(members), (number, max(1, len(members) - 1)), generator=generator)]
        for members in _strata(labels)
    ]
    return torch.cat(drawn, dim=1)


def _strata(labels: Tensor) -> list[Tensor]:
    """Row numbers of each class; those of classes with a single image together."""
    groups = [(labels == label).nonzero()[:, 0] for label in labels.unique()]
    single = [members for members in groups if len(members) == 1]
    return [members for members in groups if len(members) > 1] + ([torch.cat(single)] if single else [])


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
        }
    if result.judge_ranks is not None:
        knows = (2 * result.judge_ranks.double() - 1)[rows].mean(dim=1)
        unknown = math.isnan(result.metrics["structure"])
        headline = knows.new_full(knows.shape, math.nan) if unknown else _structure(result, rows, knows)
        scores |= {"knows": knows, "structure": headline}
    return scores


def _structure(result: FillInBlanksResult, rows: Tensor, knows: Tensor) -> Tensor:
    """The headline of each row. What is not of single probe images, the accuracy on trusted ones, stays as it is."""
    known, num_classes = dict(result.metrics), int(result.settings["num_classes"])
    right = [known.get("image_accuracy", 1.0)] * len(knows)
    if result.image_predictions is not None:
        right = (result.image_predictions == result.labels)[rows].double().mean(dim=1).tolist()
    values = [
        structure_of({**known, "image_accuracy": accuracy}, num_classes, knows=value)
        for accuracy, value in zip(right, knows.tolist(), strict=True)
    ]
    return torch.tensor(values, dtype=torch.float64)


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
