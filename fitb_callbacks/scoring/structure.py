"""The headline: how much of what an independent judge recognises is not explained by a shortcut."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["shortcut", "shortcut_of", "structure"]

_RAMPS = {
    "spot": (0.40, 0.65),
    "colour": (0.18, 0.40),
    "shading": (0.42, 0.65),
    "rim": (0.12, 0.36),
    "detail": (0.25, 0.50),
    "pattern": (0.18, 0.36),
    "shuffled": (0.60, 0.90),
}
"""Cue to the share of the model's answers, above chance, from which it counts as a shortcut, and from which fully."""

_SPOT_SHARE, _SPOT_PLACE = (0.62, 0.72), (0.50, 0.70)
"""The same for how concentrated reliance is, and for how often it is at one place. A spot is a shortcut if reliance is
concentrated there and either it suffices for the answer, or it is at one place."""

_LEAST_ACCURACY = 0.4


def structure(knows: float, suspicion: float) -> float:
    """Combine what the model knows and what it relies on into the headline score.

    Args:
        knows: How the judge ranks the label on the filled images, above chance: 0 by chance, 1 if always first.
        suspicion: How much of the answers one cue explains, in [0, 1], see `shortcut`.

    Returns:
        Value in [0, 1].

    Example:
        >>> structure(0.8, 0.0), round(structure(0.8, 0.5), 2), structure(-0.1, 0.0)
        (0.8, 0.4, 0.0)
    """
    return max(0.0, knows) * (1 - suspicion)


def shortcut(
    cues: Mapping[str, float], accuracy: float, *, share: float = 0.0, place: float = 0.0
) -> tuple[float, str | None]:
    """How far a single cue explains the model's answers, and which one.

    Every cue's excess over chance is taken as a share of the excess on the whole images. Where it starts to count was
    chosen on one seed of the models in ``benchmarks/validity.py``; docs/scores.md has what another seed shows.

    Args:
        cues: Cue to its excess over chance, see `fitb_callbacks.probing.cues`.
        accuracy: The excess over chance on the whole images, up to 1; below 0.4 there is too little to
            explain.
        share: Share of the reliance within one spot of an image, in [0, 1].
        place: How often that spot is at the same place, in all images or in those of a class, in [0, 1].

    Returns:
        Suspicion in [0, 1], and the cue, None if it is 0.

    Example:
        >>> shortcut({"rim": 0.9, "shading": 0.1}, accuracy=0.95)
        (1.0, 'rim')
        >>> shortcut({"rim": 0.0, "shading": 0.2}, accuracy=0.95)
        (0.0, None)
        >>> shortcut({}, accuracy=0.95, share=0.9, place=0.8)
        (1.0, 'spot')
    """
    if accuracy < _LEAST_ACCURACY:
        return 0.0, None
    found = {name: _ramp(cues.get(name, 0.0) / accuracy, *ends) for name, ends in _RAMPS.items()}
    found["spot"] = min(_ramp(share, *_SPOT_SHARE), max(found["spot"], _ramp(place, *_SPOT_PLACE)))
    suspicion = max(found.values())
    # A tint is also a shading, and a shading reaches the rim: the wider cue gets the name
    found["rim"] *= 1 - found["shading"]
    found["shading"] *= 1 - found["colour"]
    name = max(found, key=lambda cue: found[cue])
    return (suspicion, name) if suspicion > 0 else (0.0, None)


def shortcut_of(metrics: Mapping[str, float], num_classes: int) -> tuple[float, str | None]:
    """The same from a probe's scores, by their names without prefix.

    Example:
        >>> shortcut_of({"image_accuracy": 1.0, "cue_rim": 0.9}, num_classes=10)
        (1.0, 'rim')
    """
    chance = 1 / num_classes
    return shortcut(
        {name.removeprefix("cue_"): value for name, value in metrics.items() if name.startswith("cue_")},
        (metrics.get("image_accuracy", 0.0) - chance) / (1 - chance),
        share=metrics.get("spot_share", 0.0),
        place=max(metrics.get("same_place", 0.0), metrics.get("class_place", 0.0)),
    )


def _ramp(value: float, start: float, end: float) -> float:
    return min(1.0, max(0.0, (value - start) / (end - start)))
