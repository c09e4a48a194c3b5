"""What the scores of one probe say, in words."""

from __future__ import annotations

import math
from collections.abc import Mapping

__all__ = ["verdict"]

_SMALL_AREA = 1 / (4 * math.pi)  # where it halves the headline score


def verdict(
    metrics: Mapping[str, float],
    intervals: Mapping[str, tuple[float, float]],
    *,
    num_classes: int,
    judge: str | None = None,
) -> dict[str, str]:
    """A headline and what it rests on, for someone who sees these scores for the first time.

    There is no threshold for all data (docs/scores.md), so a good verdict only says what was measured.

    Args:
        metrics: Score name, without prefix, to value.
        intervals: Score name to the ends of its 95% interval.
        num_classes: Number of classes, at least 2.
        judge: What the judge is, in words; None if that is not known.

    Returns:
        ``tone`` ("good", "unclear" or "bad"), ``headline`` and ``reason``.

    Example:
        >>> scores = {"coverage": 1.0, "judge_accuracy": 0.9, "judge_ceiling": 1.0, "null_accuracy": 0.1, "area": 0.03}
        >>> verdict(scores, {"judge_accuracy": (0.8, 0.95)}, num_classes=10)["headline"]
        'The model looks at a small spot.'
    """
    score = {name: value for name, value in metrics.items() if math.isfinite(value)}
    chance = 1 / num_classes
    if (coverage := score["coverage"]) < 0.5:
        return _said(
            "unclear",
            "The model does not know these images yet.",
            f"It predicted the label of only {coverage:.0%} of the probe images under at least one mask, and only "
            "these have a prototype.",
        )
    if "judge_accuracy" not in score:
        return _said(
            "unclear",
            f"The model recognises {score['accuracy_all']:.0%} of its own prototypes, which proves little.",
            "A model recognises its own gradient. Nobody else was asked: probe with a judge, best with reference=, a "
            "small set of images that you trust.",
        )
    accuracy, ceiling, null = score["judge_accuracy"], score["judge_ceiling"], score["null_accuracy"]
    found = (
        f"The judge{f' ({judge})' if judge else ''} sees the right class in {accuracy:.0%} of the prototypes; in noise "
        f"it would in {null:.0%}, in the images themselves it does in {ceiling:.0%}."
    )
    if (ceiling - chance) / (1 - chance) < 0.25:
        return _said(
            "unclear",
            "The judge cannot tell these classes apart.",
            f"{found} Take another judge, and do not read structure.",
        )
    if intervals["judge_accuracy"][0] <= null:
        return _said(
            "bad",
            "What the model fills in does not look like the classes.",
            f"{found} It is not trained, has memorised, or goes by something else than what the classes look like.",
        )
    if score.get("area", 0.0) < _SMALL_AREA:
        return _said(
            "bad",
            "The model looks at a small spot.",
            f"{found} But the updates cover {score.get('area', 0.0):.0%} of the image (noise: 32%): the objects are "
            "small, or the model follows a planted mark. Look at the pictures.",
        )
    return _said(
        "good",
        "The filled-in structure looks like the classes.",
        f"{found} A judge that shares the training data shares its shortcuts, so look at the pictures too, and compare "
        "with other models of the same data.",
    )


def _said(tone: str, headline: str, reason: str) -> dict[str, str]:
    return {"tone": tone, "headline": headline, "reason": reason}
