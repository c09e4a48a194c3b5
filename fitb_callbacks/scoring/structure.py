"""The headline: how much of what an independent judge recognises is not explained by a shortcut."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["shortcut", "structure"]

_RAMPS = {"shading": (0.40, 0.70), "colour": (0.15, 0.40), "rim": (0.15, 0.45), "shuffled": (0.60, 0.90)}
"""Cue to the share of the model's answers, above chance, from which it counts as a shortcut, and from which fully."""

_LEAST_ACCURACY = 0.25
_DETAIL = (0.45, 0.80)
_CENTRE = 0.15  # as a share of the model's own: below, fine detail decides without what is in the middle


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


def shortcut(cues: Mapping[str, float], accuracy: float) -> tuple[float, str | None]:
    """How far a single cue explains the model's answers, and which one.

    Every cue's excess over chance is taken as a share of the excess on the whole images. Where it starts to count was
    chosen on one seed of the models in ``benchmarks/validity.py``; docs/scores.md has the table.

    Args:
        cues: Cue to its excess over chance, see `fitb_callbacks.probing.cues`.
        accuracy: The excess over chance on the whole images, up to 1; below 0.25 there is too little to
            explain.

    Returns:
        Suspicion in [0, 1], and the cue, None if it is 0.

    Example:
        >>> shortcut({"rim": 0.9, "shading": 0.1, "detail": 0.0, "centre": 0.0}, accuracy=0.95)
        (1.0, 'rim')
        >>> shortcut({"rim": 0.0, "shading": 0.2, "detail": 0.5, "centre": 0.4}, accuracy=0.95)
        (0.0, None)
    """
    if accuracy < _LEAST_ACCURACY:
        return 0.0, None
    shares = {name: max(0.0, excess) / accuracy for name, excess in cues.items()}
    found = {name: _ramp(shares.get(name, 0.0), *ends) for name, ends in _RAMPS.items()}
    if shares.get("centre", 1.0) < _CENTRE:
        found["detail"] = _ramp(shares.get("detail", 0.0), *_DETAIL)
    name = max(found, key=lambda cue: found[cue])
    return (found[name], name) if found[name] > 0 else (0.0, None)


def _ramp(value: float, start: float, end: float) -> float:
    return min(1.0, max(0.0, (value - start) / (end - start)))
