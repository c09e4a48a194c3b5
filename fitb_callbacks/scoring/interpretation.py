"""What the scores of one probe say, in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fitb_callbacks.scoring.structure import shortcut_of

__all__ = ["Spot", "interpret"]

_SHORTCUT = 0.5  # suspicion from which one cue is called a shortcut
_SAME_PLACE = 0.5  # share of the images from which a place is named
_MARGIN = 0.1  # by which the lower bound of what the model knows has to clear chance
_FEWEST_IMAGES, _FEWEST_PER_CLASS = 20, 2
_MOST_NAMES = 5
_CUE = {
    "colour": "the mean colour",
    "shading": "the coarse shading",
    "rim": "the rim",
    "detail": "the finest detail",
    "pattern": "patterns, wherever they are",
    "sharpness": "how sharp the image is",
    "contrast": "how bright and how rich in contrast the image is",
    "faint": "what stands out little from the background",
    "place": "the same few places in each class",
    "shuffled": "what patches look like one by one, wherever they are",
    "spot": "one small spot",
    "untrusted": "something that trusted images lack",
}


@dataclass(frozen=True)
class Spot:
    """Where a model looks in many images.

    Attributes:
        place: In words, such as "at the lower right".
        area: Its share of the image, in (0, 1].
    """

    place: str
    area: float


def interpret(  # noqa: PLR0913 - facts of one probe, each named
    metrics: Mapping[str, float],
    intervals: Mapping[str, tuple[float, float]],
    *,
    num_classes: int,
    num_images: int,
    classes_without: Sequence[str] = (),
    spot: Spot | None = None,
    judge: str | None = None,
    recognised: float | None = None,
) -> dict[str, str]:
    """Say what the scores mean, to someone who sees them for the first time.

    "good" needs every class to have a prototype, enough images, no shortcut found, and a lower bound of what the model
    knows that clears chance by a margin. It does not say that there is no shortcut.

    Args:
        metrics: Score name, without prefix, to value.
        intervals: Score name to the ends of its 95% interval.
        num_classes: Number of classes, at least 2.
        num_images: Number of probe images.
        classes_without: Names of the probed classes that have no prototype.
        spot: Where most images have what the model relies on most.
        judge: What the judge is, in words; None if that is not known.
        recognised: Share of the filled images that the model takes for their label; None where nothing was filled.

    Returns:
        ``tone`` ("good", "unclear" or "bad"), ``headline`` and ``reason``.

    Example:
        >>> scores = {"coverage": 1.0, "knows": 0.9, "judge_ceiling": 1.0, "structure": 0.8,
        ...           "image_accuracy": 1.0, "spot_share": 0.8, "same_place": 0.93}
        >>> said = interpret(scores, {"knows": (0.85, 0.95)}, num_classes=10, num_images=40,
        ...                  spot=Spot("at the lower right", 0.04))
        >>> print(said["reason"])
        The model is right for a spot of 4% of the image, at the lower right, in 93% of the images.
    """
    score = {name: value for name, value in metrics.items() if math.isfinite(value)}
    found = _shortcut_found(score, intervals, num_classes=num_classes, spot=spot)
    if found is not None:
        return found
    if (coverage := score["coverage"]) < 0.5:
        return _said(
            "unclear",
            "The model does not know these images yet.",
            f"It predicted the label of only {coverage:.0%} of the probe images under at least one mask.",
        )
    if "accuracy_all" not in score:
        return _said(
            "unclear",
            "Nothing was filled in.",
            "No gradient passes from the model's answers back to the images, so only forward passes say what it relies "
            "on. They found no shortcut.",
        )
    if "knows" not in score:
        own = f"{score.get('accuracy_all', 0.0):.0%} of its own prototypes"
        if recognised is not None:
            own = f"{recognised:.0%} of what it fills in"
        return _said(
            "unclear",
            "Nobody but the model itself was asked.",
            f"It recognises {own}, which proves little: a model recognises its own gradient. Probe with a judge, best "
            "with reference=, a small set of images you trust.",
        )
    who = f"The judge ({judge})" if judge else "The judge"
    if "structure" not in score:
        return _said(
            "unclear",
            "The judge cannot tell these classes apart.",
            f"{who} is right on only {score['judge_ceiling']:.0%} of the images themselves, so there is no structure "
            "score. Take another judge, such as a trained model.",
        )
    knows, (low, _) = score["knows"], intervals["knows"]
    ranked = f"{who} ranks the label of what the model fills in above {(1 + knows) / 2:.0%} of the other classes"
    if intervals.get("image_accuracy", (1.0,))[0] <= 1 / num_classes:
        return _said(
            "unclear",
            "The model is hardly right more often than by chance.",
            f"It is right on {score['image_accuracy']:.0%} of the probe images, whatever it fills in.",
        )
    if low <= 0:
        tried = intervals.get("reference_accuracy", (0.0,))[0] >= 1 / num_classes + _MARGIN
        return _said(
            # Right on trusted images, it cannot be quite wrong, even if nobody recognises what it fills in
            "unclear" if tried else "bad",
            "What the model fills in does not look like the classes.",
            f"{ranked}; by chance it would be 50%. The model is not trained, has memorised, or goes by something else "
            "than what the classes look like.",
        )
    if missing := _missing(low, num_classes, num_images, len(classes_without)):
        named = f" Without a prototype: {_some(classes_without)}." if classes_without else ""
        return _said("unclear", f"{missing[0].upper()}{missing[1:]}.", f"{ranked}.{named}")
    return _said(
        "good",
        "What the model fills in looks like the classes, and no shortcut was found.",
        f"{ranked}. A judge that shares the training data shares its shortcuts, so look at the pictures too, and "
        "compare with other models of the same data.",
    )


def _shortcut_found(
    score: Mapping[str, float],
    intervals: Mapping[str, tuple[float, float]],
    *,
    num_classes: int,
    spot: Spot | None,
) -> dict[str, str] | None:
    suspicion, cue = shortcut_of(score, num_classes)
    if cue is None or suspicion < _SHORTCUT:
        return None
    at_least = {name: intervals.get(name, (value,))[0] for name, value in score.items() if name.startswith("cue_")}
    if "reference_accuracy" in intervals:
        at_least["reference_accuracy"] = intervals["reference_accuracy"][1]
    if shortcut_of({**score, **at_least}, num_classes)[0] == 0:
        return _said(
            "unclear",
            f"The model may go by {_CUE[cue]}.",
            "That is how it looks on these probe images, but they are too few to be sure.",
        )
    if cue == "spot":
        area = "a small spot" if spot is None else f"a spot of {spot.area:.0%} of the image"
        reason = f"The model is right for {area}, {_places(score, spot)}."
        if _may_be_the_thing({**score, **at_least}, num_classes):
            return _said(
                "unclear",
                "The model goes by one small spot, wherever it is.",
                f"{reason} It may be a mark, or the thing itself where a class is something small, such as a lesion. "
                "Give reference=, a small set of images you trust, and the next probe can tell.",
            )
        return _said("bad", "The model looks at one small spot.", reason)
    if cue == "untrusted":
        return _said(
            "bad",
            f"The model goes by {_CUE[cue]}.",
            f"It is right on {score['image_accuracy']:.0%} of the probe images and on only "
            f"{score['reference_accuracy']:.0%} of the trusted ones.",
        )
    return _said("bad", f"The model goes by {_CUE[cue]}.", _what_decides(cue, score[f"cue_{cue}"]))


def _may_be_the_thing(score: Mapping[str, float], num_classes: int) -> bool:
    """Whether nothing is sure but that a model goes by a spot that moves, and it was not tried on trusted images.

    Args:
        score: With the lower ends of the cues' intervals.
        num_classes: Number of classes.
    """
    at_one_place = max(score.get("same_place", 0.0), score.get("class_place", 0.0)) >= _SAME_PLACE
    others = {name: value for name, value in score.items() if name != "cue_spot"}
    return not (at_one_place or "reference_accuracy" in score or shortcut_of(others, num_classes)[0] > 0)


def _what_decides(cue: str, lead: float) -> str:
    if cue == "shuffled":
        return f"With the patches in random order, {lead:.0%} of the answers stay right, chance taken off."
    return (
        "Where this comes from one image and the rest from an image of another class, more answers follow it than "
        f"follow the rest, by {100 * lead:.0f} of 100."
    )


def _places(score: Mapping[str, float], spot: Spot | None) -> str:
    everywhere, in_class = score.get("same_place", 0.0), score.get("class_place", 0.0)
    if spot is not None and everywhere >= _SAME_PLACE:
        return f"{spot.place}, in {everywhere:.0%} of the images"
    if in_class >= _SAME_PLACE:
        return "for each class at a place of its own"
    return "which need not lie at the same place"


def _missing(low: float, num_classes: int, num_images: int, classes_without: int) -> str:
    """What a good word lacks; empty if nothing."""
    if classes_without:
        has = "has" if classes_without == 1 else "have"
        return f"{classes_without} of {num_classes} classes {has} no prototype"
    if num_images < max(_FEWEST_IMAGES, _FEWEST_PER_CLASS * num_classes):
        return f"{num_images} probe images are too few for a verdict"
    if low < _MARGIN:
        return "the judge is hardly better than chance on what the model fills in"
    return ""


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more


def _said(tone: str, headline: str, reason: str) -> dict[str, str]:
    return {"tone": tone, "headline": headline, "reason": reason}
