"""The headline: the model is right, an independent judge recognises what it fills in, and no shortcut explains it."""

from __future__ import annotations

import math
from collections.abc import Mapping

__all__ = ["above_chance", "shortcut", "shortcut_of", "structure", "structure_of"]

_OF_KNOWS = 0.25
"""The weight of what the model knows; the rest is accuracy's."""

_LEAD_OF_BYWAYS, _LEAD, _LEAD_OF_CONTENT, _SHUFFLED = (0.00, 0.15), (0.05, 0.25), (0.20, 0.40), (0.60, 0.90)
_LEAD_OF_COLOUR, _LEAD_OF_QUALITY = (0.00, 0.10), (-0.15, 0.00)
"""By how many more answers must follow a cue than the rest of the image for it to count as a shortcut, and to count
fully. Healthy models hardly follow the rim, the finest detail and the mean colour, so less is asked of these, and least
of how sharp and how bright an image is, which takes nothing from it that a model of shapes would miss. A spot, a place
or the coarse shading holds a part of the object itself, and shuffled patches have no rest that could win: more is asked
of these."""

_SPOT_SHARE, _SPOT_PLACE = (0.45, 0.60), (0.50, 0.70)
"""The same for how concentrated reliance is, and for how often it is at one place: a spot is a shortcut, too, if
reliance is concentrated there and at one place."""

_LEAST_ACCURACY = 0.4
"""Above chance. Below it, there is too little to say where a model looks, or that it goes by colour or blur."""

_NAMED = 0.5
"""Suspicion from which the first cue in order gets the name."""


_HARDER, _MISSING = 0.15, (0.00, 0.40)
"""How much of its excess over chance a model may lose on trusted images, since these may be harder and forty images are
few; and which share of it must be missing besides to count as a shortcut, and to count fully."""


def structure(knows: float, accuracy: float, suspicion: float) -> float:
    """Combine what the model knows, whether it is right, and what it relies on into the headline score.

    A weighted geometric mean of the first two, which is 0 where either is at chance: a judge that has learned the same
    wrong labels agrees with a model that is never right. Accuracy is counted and weighs three quarters; what the model
    knows is a judge's opinion of some forty pictures.

    Args:
        knows: How the judge ranks the label on the filled images, above chance: 0 by chance, 1 if always first.
        accuracy: The model's excess over chance, up to 1, see `above_chance`: on the probe images, or on trusted ones
            if it is less there.
        suspicion: How much of the answers one cue explains, in [0, 1], see `shortcut`.

    Returns:
        Value in [0, 1].

    Example:
        >>> round(structure(0.8, 0.8, 0.0), 2), round(structure(0.8, 0.8, 0.5), 2), structure(-0.1, 0.8, 0.0)
        (0.8, 0.4, 0.0)
    """
    mean = math.pow(max(0.0, knows), _OF_KNOWS) * math.pow(max(0.0, accuracy), 1 - _OF_KNOWS)
    return mean * (1 - suspicion)


def structure_of(metrics: Mapping[str, float], num_classes: int, *, knows: float) -> float:
    """The same from a probe's scores, by their names without prefix.

    Example:
        >>> structure_of({"image_accuracy": 1.0, "cue_rim": 0.15, "shortcut": 0.5}, num_classes=10, knows=1.0)
        0.5
    """
    accuracy = min(metrics.get("image_accuracy", 1.0), metrics.get("reference_accuracy", 1.0))
    return structure(knows, above_chance(accuracy, 1 / num_classes), metrics.get("shortcut", 0.0))


def above_chance(accuracy: float, chance: float) -> float:
    """Accuracy as an excess over chance: 0 for guessing, 1 for always right, negative below.

    Example:
        >>> above_chance(0.75, 0.5)
        0.5
    """
    return (accuracy - chance) / (1 - chance) if chance < 1 else 0.0


def shortcut(
    cues: Mapping[str, float],
    accuracy: float,
    *,
    share: float = 0.0,
    place: float = 0.0,
    reference_accuracy: float | None = None,
) -> tuple[float, str | None]:
    """How far a single cue explains the model's answers, and which one.

    A model that sees what is in the image follows the rest of it, which is nearly everything; docs/scores.md has what
    models with and without shortcuts show. More than one cue may lead, since a tint is also a shading, and a shading
    reaches the rim; the cue that is named is the first of them in this order: spot, colour, shading, sharpness,
    contrast, pattern, detail, spot (by its place), rim, place, faint, shuffled, and last what trusted images lack,
    whatever that is.

    Args:
        cues: Cue to its lead over the rest of the image, see `fitb_callbacks.probing.cues`.
        accuracy: The excess over chance on the whole images, up to 1. Below 0.4, where a model looks is not counted.
        share: Share of the reliance within one spot of an image, in [0, 1].
        place: How often that spot is at the same place, in all images or in those of a class, in [0, 1].
        reference_accuracy: The excess over chance on trusted images; None without these.

    Returns:
        Suspicion in [0, 1], and the cue, None if it is 0.

    Example:
        >>> shortcut({"rim": 0.9, "shading": -0.1}, accuracy=0.95)
        (1.0, 'rim')
        >>> shortcut({"rim": -0.8, "shading": 0.1}, accuracy=0.95)
        (0.0, None)
        >>> shortcut({}, accuracy=0.95, share=0.9, place=0.8)
        (1.0, 'spot')
        >>> shortcut({}, accuracy=0.95, reference_accuracy=0.2)
        (1.0, 'untrusted')
    """
    missing = 0.0 if reference_accuracy is None or accuracy <= 0 else 1 - (reference_accuracy + _HARDER) / accuracy
    at_one_place = min(_ramp(share, *_SPOT_SHARE), _ramp(place, *_SPOT_PLACE)) if accuracy >= _LEAST_ACCURACY else 0.0

    def of_cue(name: str, start: float, end: float, *, least_accuracy: float = -1.0) -> tuple[str, float]:
        return name, _ramp(cues.get(name, -1.0), start, end) if accuracy >= least_accuracy else 0.0

    found = [
        of_cue("spot", *_LEAD_OF_CONTENT),
        of_cue("colour", *_LEAD_OF_COLOUR, least_accuracy=_LEAST_ACCURACY),
        of_cue("shading", *_LEAD_OF_CONTENT),
        of_cue("sharpness", *_LEAD_OF_QUALITY, least_accuracy=_LEAST_ACCURACY),
        of_cue("contrast", *_LEAD_OF_QUALITY, least_accuracy=_LEAST_ACCURACY),
        of_cue("pattern", *_LEAD),
        of_cue("detail", *_LEAD_OF_BYWAYS),
        ("spot", at_one_place),
        of_cue("rim", *_LEAD_OF_BYWAYS),
        of_cue("place", *_LEAD_OF_CONTENT),
        of_cue("faint", *_LEAD),
        of_cue("shuffled", *_SHUFFLED),
        ("untrusted", _ramp(missing, *_MISSING) if accuracy >= _LEAST_ACCURACY else 0.0),
    ]
    suspicion = max(strength for _, strength in found)
    if suspicion == 0:
        return 0.0, None
    return suspicion, next(name for name, strength in found if strength >= min(_NAMED, suspicion))


def shortcut_of(metrics: Mapping[str, float], num_classes: int) -> tuple[float, str | None]:
    """The same from a probe's scores, by their names without prefix.

    As far as a cue leads on trusted images, too (``reference_spot`` and so on), it belongs to the class: a small spot
    may be a lesion, and no mark. What counts is by how much more it leads on the probe images.

    Example:
        >>> shortcut_of({"image_accuracy": 1.0, "cue_rim": 0.9}, num_classes=10)
        (1.0, 'rim')
        >>> scores = {"image_accuracy": 1.0, "cue_spot": 0.7, "reference_accuracy": 1.0}
        >>> shortcut_of(scores, num_classes=10), shortcut_of({**scores, "reference_spot": 0.6}, num_classes=10)
        ((1.0, 'spot'), (0.0, None))
    """
    chance, trusted = 1 / num_classes, metrics.get("reference_accuracy")
    names = [name.removeprefix("cue_") for name in metrics if name.startswith("cue_")]
    cues = {name: metrics[f"cue_{name}"] - max(0.0, metrics.get(f"reference_{name}", 0.0)) for name in names}
    return shortcut(
        cues,
        above_chance(metrics.get("image_accuracy", 0.0), chance),
        share=metrics.get("spot_share", 0.0),
        place=max(metrics.get("same_place", 0.0), metrics.get("class_place", 0.0)),
        reference_accuracy=None if trusted is None else above_chance(trusted, chance),
    )


def _ramp(value: float, start: float, end: float) -> float:
    return min(1.0, max(0.0, (value - start) / (end - start)))
