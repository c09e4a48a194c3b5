"""Every logged score, documented once: the README's table and the callback's docstring are made from this."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["METRICS", "Metric", "metrics_table"]


@dataclass(frozen=True)
class Metric:
    """What a score means.

    Attributes:
        meaning: What is measured.
        better: "higher", "lower" or "neither".
        bounds: The smallest and largest possible value, as text.
        chance: What a model that learned nothing gets.
        when_low: How to read a low value (or a high one, where lower is better).
        source: Where the definition comes from.
    """

    meaning: str
    better: str
    bounds: str
    chance: str
    when_low: str
    source: str


METRICS: dict[str, Metric] = {
    "accuracy": Metric(
        meaning="Share of the covered images' prototypes that the model itself classifies as their label "
        "(self-consistency)",
        better="higher",
        bounds="0 to 1",
        chance="none: a model recognises its own gradient, so an untrained one can score 1 on the few images it covers",
        when_low="The filled-in structure is not what the model reads as the class: early training, or a threshold "
        "that does not suit the data",
        source="paper, section 4.3 and table 1",
    ),
    "f1_macro": Metric(
        meaning="F1 of the same classification, averaged over the classes that have a covered image",
        better="higher",
        bounds="0 to 1",
        chance="none, as for accuracy",
        when_low="Some classes have no recognisable prototype, although others do",
        source="paper, section 4.3 and table 1",
    ),
    "f1_weighted": Metric(
        meaning="F1 of the same classification, averaged over classes by their number of covered images",
        better="higher",
        bounds="0 to 1",
        chance="none, as for accuracy",
        when_low="As for accuracy",
        source="paper, section 4.3 and table 1",
    ),
    "coverage": Metric(
        meaning="Share of the probe images for which the model predicted the label under at least one mask; only "
        "these have a prototype",
        better="higher",
        bounds="0 to 1",
        chance="1 / classes (a model that predicts one class for everything)",
        when_low="The model is wrong on many probe images: the other scores speak of the rest only",
        source="paper, section 4.1 (the selection of masks)",
    ),
    "nonfinite": Metric(
        meaning="Share of the masked images whose update held NaN or infinity, and was left out",
        better="lower",
        bounds="0 to 1",
        chance="0",
        when_low="A high value: the model diverges, or its precision does not hold its gradients",
        source="this package",
    ),
    "seconds": Metric(
        meaning="Wall-clock time of the probe",
        better="lower",
        bounds="0 and up",
        chance="none",
        when_low="A high value: take fewer masks or probe images",
        source="this package",
    ),
}
"""Score name, without the prefix, to what it means."""


def metrics_table(prefix: str = "fitb") -> str:
    """The scores as a Markdown table.

    Args:
        prefix: What the keys begin with in the loggers.

    Example:
        >>> print(metrics_table().splitlines()[0])
        | key | what it is | better | range | chance level | when it is off | source |
    """
    rows = [
        f"| `{prefix}/{key}` | {m.meaning} | {m.better} | {m.bounds} | {m.chance} | {m.when_low} | {m.source} |"
        for key, m in METRICS.items()
    ]
    header = "| key | what it is | better | range | chance level | when it is off | source |"
    return "\n".join([header, "| --- | --- | --- | --- | --- | --- | --- |", *rows])
