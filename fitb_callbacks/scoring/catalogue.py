"""Every score, described once: what is logged, charted, bounded by rules and documented follows from this table."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

__all__ = [
    "DECIDING",
    "GROUPS",
    "KEY_METRICS",
    "METRICS",
    "RESAMPLED",
    "Group",
    "Metric",
    "ScoresName",
    "class_key",
    "group_of",
    "metrics_table",
]

ScoresName = Literal["key", "all"]
"""Which scores loggers get: the few that a person should read, or every one, also for each class."""

Group = Literal[
    "What a judge sees",
    "What the model relies on",
    "What the model itself sees",
    "Breadth and reliability",
    "Change since the last probe",
    "Cost",
]
GROUPS: tuple[Group, ...] = get_args(Group)
"""Headings under which scores are shown, in reading order."""


@dataclass(frozen=True)
class Metric:
    """What a score means, and where it is shown.

    Attributes:
        meaning: What is measured.
        better: Which values are better.
        bounds: The smallest and largest possible value, as text.
        chance: What a model that learned nothing gets.
        when_low: How to read a low value (or a high one, where lower is better).
        source: Where the definition comes from.
        group: Heading under which it is shown.
        default: Whether loggers get it unasked.
        scope: "model" if it describes a model, so that a rule may bound it; "training" if it compares with an earlier
            probe or describes the run.
        needs_judge: Whether it exists only with a judge.
        resampled: Whether it is made of values of single images, so that a bootstrap over images gives its interval.
        per_class: Whether it is known for each class, too.
        undefined: What monitors see where the value is not defined (NaN); None: nothing.
    """

    meaning: str
    better: Literal["higher", "lower", "neither"]
    bounds: str
    chance: str
    when_low: str
    source: str
    group: Group
    default: bool = False
    scope: Literal["model", "training"] = "model"
    needs_judge: bool = False
    resampled: bool = False
    per_class: bool = False
    undefined: float | None = 0.0


def _cue(what: str, *, when_low: str = "A high value: this cue decides") -> Metric:
    return Metric(
        meaning=f"How many more answers follow {what} than the rest, where that is another class's",
        better="neither",
        bounds="-1 to 1",
        chance="0",
        when_low=when_low,
        source="this package, docs/scores.md",
        group="What the model relies on",
    )


def _on_trusted(cue: str) -> Metric:
    return Metric(
        meaning=f"cue_{cue} on the judge's trusted images, asked where a cue counts as a shortcut on the probe images",
        better="neither",
        bounds="-1 to 1",
        chance="0",
        when_low="A high value: there, too, this cue decides, so it belongs to the class and counts that much less",
        source="this package, docs/scores.md",
        group="What the model relies on",
    )


_CUES = (
    "spot",
    "place",
    "pattern",
    "faint",
    "sharpness",
    "contrast",
    "shading",
    "colour",
    "detail",
    "rim",
    "centre",
    "shuffled",
)

METRICS: dict[str, Metric] = {
    "structure": Metric(
        meaning="The headline: the model is right, a judge recognises what it fills in, and no shortcut explains it: "
        "knows^¼ * (accuracy above chance)^¾ * (1 - shortcut), with that on trusted images if it is lower there",
        better="higher",
        bounds="0 to 1",
        chance="0",
        when_low="The model is often wrong, has memorised, or follows a shortcut: see image_accuracy, knows and "
        "shortcut. With a judge "
        "that shares the training data a high value does not exclude a shortcut. Undefined where the judge cannot tell "
        "the classes apart (judge_ceiling)",
        source="this package, docs/scores.md",
        needs_judge=True,
        group="What a judge sees",
        default=True,
        resampled=True,
    ),
    "knows": Metric(
        meaning="What the model knows: how high a judge ranks the label on the images that the model filled in (on its "
        "prototypes, with fill=None). 1 if always first; the share of the other classes ranked lower, less that ranked "
        "higher",
        better="higher",
        bounds="-1 to 1",
        chance="0",
        when_low="What the model fills in does not look like the class to anyone else. It says nothing of what the "
        "model goes by: a model that follows a mark may know the classes too",
        source="this package, docs/scores.md",
        needs_judge=True,
        group="What a judge sees",
        default=True,
        resampled=True,
    ),
    "judge_accuracy": Metric(
        meaning="Share of all probe images whose prototype the judge classifies as their label, an uncovered one "
        "counting as wrong",
        better="higher",
        bounds="0 to 1",
        chance="null_accuracy",
        when_low="What the model fills in does not look like the class to anyone else. Compare judge_ceiling: a judge "
        "that cannot classify the images themselves says nothing",
        source="this package, docs/scores.md",
        needs_judge=True,
        group="What a judge sees",
        resampled=True,
        per_class=True,
    ),
    "judge_ceiling": Metric(
        meaning="Share of the probe images themselves, unmasked, that the judge classifies as their label",
        better="higher",
        bounds="0 to 1",
        chance="1 / classes",
        when_low="The judge cannot tell these classes apart: take another (a trusted second model), and do not read "
        "judge_accuracy and structure",
        source="this package, docs/scores.md",
        needs_judge=True,
        group="What a judge sees",
    ),
    "null_accuracy": Metric(
        meaning="The judge's accuracy on structureless updates, the better of patch-permuted and equal-norm noise",
        better="neither",
        bounds="0 to 1",
        chance="1 / classes",
        when_low="It is the chance level of judge_accuracy; a high value means that one class dominates the probe "
        "images",
        source="this package, docs/scores.md",
        needs_judge=True,
        group="What a judge sees",
    ),
    "judge_excess": Metric(
        meaning="Judge accuracy above the null: (judge - null) / (1 - null)",
        better="higher",
        bounds="-1 / (classes - 1) or so, to 1",
        chance="0",
        when_low="As for judge_accuracy",
        source="this package, docs/scores.md",
        needs_judge=True,
        group="What a judge sees",
        resampled=True,
    ),
    "judge_f1_macro": Metric(
        meaning="Macro F1 of the same judgement",
        better="higher",
        bounds="0 to 1",
        chance="at most 1 / classes",
        when_low="Some classes are never recognised by the judge",
        source="this package, docs/scores.md",
        needs_judge=True,
        group="What a judge sees",
        resampled=True,
    ),
    "shortcut": Metric(
        meaning="How far one cue explains the answers: by how many more they follow it than all the rest of the image, "
        "beyond what healthy models do. With trusted images also: how much less often the model is right on these",
        better="lower",
        bounds="0 to 1",
        chance="0",
        when_low="A high value: one cue decides, whatever else is in the image. Whether that is a fault depends on the "
        "task",
        source="this package, docs/scores.md",
        group="What the model relies on",
        default=True,
    ),
    "spot_share": Metric(
        meaning="Share of what the model relies on within 3 x 3 patches around the patch that matters most",
        better="neither",
        bounds="0 to 1",
        chance="0.05 with 14 x 14 patches",
        when_low="A high value: the model looks at a small spot, which may be the object or a mark",
        source="this package, docs/scores.md",
        group="What the model relies on",
    ),
    "same_place": Metric(
        meaning="Largest share of the images whose most important patch lies within the same 3 x 3 patches",
        better="neither",
        bounds="0 to 1",
        chance="0.05 with 14 x 14 patches",
        when_low="A high value, and a high spot_share: the model looks at the same spot in all images",
        source="this package, docs/scores.md",
        group="What the model relies on",
    ),
    "class_place": Metric(
        meaning="How often the most important patches of two images of a class lie within one step of each other",
        better="neither",
        bounds="0 to 1",
        chance="0.05 with 14 x 14 patches",
        when_low="A high value, and a high spot_share: the model looks at one spot, for each class at its own",
        source="this package, docs/scores.md",
        group="What the model relies on",
    ),
    "cue_spot": _cue("the 3 x 3 patches that matter most in an image"),
    "cue_place": _cue("the few patches that matter most in the other images of its class"),
    "cue_pattern": _cue("the amplitude spectrum (which patterns there are, but not where)"),
    "cue_faint": _cue("what stands out little from the background (a ghost, a tint, a faint texture)"),
    "cue_sharpness": _cue("how blurred it is (how little there is of each spatial frequency, in any direction)"),
    "cue_contrast": _cue("its brightness and contrast (its lowest and its highest value)"),
    "cue_shading": _cue("the coarse shading (4 x 4 cells)"),
    "cue_colour": _cue("the mean colour"),
    "cue_detail": _cue("the finest detail (what half the resolution loses)"),
    "cue_rim": _cue("the rim"),
    "cue_centre": _cue("the centre", when_low="A low value: what is around the object decides"),
    "cue_shuffled": Metric(
        meaning="Answers that stay right when the patches of an image are shuffled, less those that would by chance",
        better="neither",
        bounds="-1 to 1",
        chance="0",
        when_low="A high value: what is in the patches decides, and not where they are",
        source="this package, docs/scores.md",
        group="What the model relies on",
    ),
    **{f"reference_{cue}": _on_trusted(cue) for cue in _CUES},
    "image_accuracy": Metric(
        meaning="The model's accuracy on the probe images themselves, unmasked",
        better="higher",
        bounds="0 to 1",
        chance="1 / classes",
        when_low="The model is wrong on these images: the other scores have little to go by",
        source="this package",
        group="What the model itself sees",
        default=True,
    ),
    "reference_accuracy": Metric(
        meaning="The model's accuracy on at most 100 of the judge's trusted images, where it has some (reference=)",
        better="higher",
        bounds="0 to 1",
        chance="1 / classes",
        when_low="Clearly below image_accuracy: the model goes by something that the trusted images lack, or these are "
        "of another kind",
        source="this package, docs/scores.md",
        group="What the model itself sees",
        default=True,
    ),
    "accuracy": Metric(
        meaning="Share of the covered images' prototypes that the model itself classifies as their label "
        "(self-consistency)",
        better="higher",
        bounds="0 to 1",
        chance="none: a model recognises its own gradient, so an untrained one can score 1 on the few images it covers",
        when_low="The filled-in structure is not what the model reads as the class: early training, or a threshold "
        "that does not suit the data",
        source="paper, section 4.3 and table 1",
        group="What the model itself sees",
        default=True,
        resampled=True,
        per_class=True,
    ),
    "f1_macro": Metric(
        meaning="F1 of the same classification, averaged over the classes that have a covered image",
        better="higher",
        bounds="0 to 1",
        chance="none, as for accuracy",
        when_low="Some classes have no recognisable prototype, although others do",
        source="paper, section 4.3 and table 1",
        group="What the model itself sees",
        default=True,
        resampled=True,
    ),
    "f1_weighted": Metric(
        meaning="F1 of the same classification, averaged over classes by their number of covered images",
        better="higher",
        bounds="0 to 1",
        chance="none, as for accuracy",
        when_low="As for accuracy",
        source="paper, section 4.3 and table 1",
        group="What the model itself sees",
        default=True,
        resampled=True,
    ),
    "coverage": Metric(
        meaning="Share of the probe images for which the model predicted the label under at least one mask; only "
        "these have a prototype",
        better="higher",
        bounds="0 to 1",
        chance="1 / classes (a model that predicts one class for everything)",
        when_low="The model is wrong on many probe images: the other scores speak of the rest only",
        source="paper, section 4.1 (the selection of masks)",
        group="What the model itself sees",
        default=True,
        resampled=True,
        per_class=True,
    ),
    "accuracy_all": Metric(
        meaning="Self-consistency over all probe images, an uncovered one counting as wrong",
        better="higher",
        bounds="0 to 1",
        chance="1 / classes",
        when_low="The model is wrong on many probe images, or does not recognise its prototypes. A high value is no "
        "proof: a planted mark can give 1",
        source="this package, after the paper, section 4.3",
        group="What the model itself sees",
        resampled=True,
    ),
    "f1_macro_all": Metric(
        meaning="Macro F1 over all probe images, an uncovered one counting as wrong",
        better="higher",
        bounds="0 to 1",
        chance="at most 1 / classes",
        when_low="As for accuracy_all; some classes have no recognisable prototype",
        source="this package, after the paper, section 4.3",
        group="What the model itself sees",
        resampled=True,
    ),
    "f1_weighted_all": Metric(
        meaning="Weighted F1 over all probe images, an uncovered one counting as wrong",
        better="higher",
        bounds="0 to 1",
        chance="at most 1 / classes",
        when_low="As for accuracy_all",
        source="this package, after the paper, section 4.3",
        group="What the model itself sees",
        resampled=True,
    ),
    "area": Metric(
        meaning="Effective area of the update: participation ratio of its positive part, the mean over covered images",
        better="higher",
        bounds="0 to 1",
        chance="0.32 (1 / pi) for noise",
        when_low="The model looks at a small spot: a planted mark, or a small object",
        source="this package, docs/scores.md",
        group="Breadth and reliability",
        resampled=True,
    ),
    "reliability": Metric(
        meaning="Split-half reliability of the mean update: correlation of the means of two halves of the masks, "
        "stepped up to all masks, the mean over images",
        better="higher",
        bounds="0 to 1",
        chance="0",
        when_low="The prototypes would look different with other masks: take more of them",
        source="Spearman and Brown, 1910",
        group="Breadth and reliability",
        resampled=True,
    ),
    "nonfinite": Metric(
        meaning="Share of the masked images whose update held NaN or infinity, and was left out",
        better="lower",
        bounds="0 to 1",
        chance="0",
        when_low="A high value: the model diverges, or its precision does not hold its gradients",
        source="this package",
        group="Breadth and reliability",
    ),
    "carryover_accuracy": Metric(
        meaning="Share of the last probe's prototypes, over all its images, that the model as it is now classifies as "
        "their label",
        better="higher",
        bounds="0 to 1",
        chance="1 / classes",
        when_low="What counts as the class is still changing from epoch to epoch",
        source="this package",
        group="Change since the last probe",
        scope="training",
    ),
    "drift": Metric(
        meaning="1 - cosine between the class-mean updates of this probe and of the last, the mean over classes",
        better="lower",
        bounds="0 to 2",
        chance="1 for unrelated updates",
        when_low="A high value: the learned structure is still moving, or moves again",
        source="this package",
        undefined=2.0,
        group="Change since the last probe",
        scope="training",
    ),
    "seconds": Metric(
        meaning="Wall-clock time of the probe",
        better="lower",
        bounds="0 and up",
        chance="none",
        when_low="A high value: take fewer masks or probe images",
        source="this package",
        undefined=None,
        group="Cost",
        scope="training",
    ),
    "overhead": Metric(
        meaning="That time as a share of the epoch's own, see ``max_overhead``",
        better="lower",
        bounds="0 and up",
        chance="none",
        when_low="A high value: the epochs are too short for a probe each; a low one costs nothing",
        source="this package",
        undefined=None,
        group="Cost",
        scope="training",
    ),
}
"""Score name, without the prefix, to what it means; in reading order."""

DECIDING = ("structure", "knows", "shortcut", "coverage")
"""The scores that a summary shows, of which the first three that exist are drawn."""

KEY_METRICS = tuple(name for name, metric in METRICS.items() if metric.default)
"""The scores that loggers get unasked. Dashboards sort by name, in which order these tell a story: the paper's numbers,
whether the model is right, what it knows, what it relies on, and the headline that follows from the two."""

RESAMPLED = tuple(name for name, metric in METRICS.items() if metric.resampled)
"""The scores that a bootstrap over images gives intervals of."""


def group_of(group: Group) -> tuple[str, ...]:
    """Names of the scores under a heading.

    Example:
        >>> group_of("Cost")
        ('seconds', 'overhead')
    """
    return tuple(name for name, metric in METRICS.items() if metric.group == group)


_LONGEST_NAME = 80


def class_key(prefix: str, score: str, class_name: str) -> str:
    """The key of one class's score, in letters that every logger takes.

    Example:
        >>> class_key("fitb", "coverage", "T-shirt/top")
        'fitb_by_class/coverage T-shirt_top'
    """
    name = re.sub(r"[^\w\-. ]+", "_", class_name)
    if len(name) > _LONGEST_NAME or not name.strip("_ "):  # MLflow takes keys of 250 characters; keep names apart
        name = f"{name[:_LONGEST_NAME]}_{zlib.crc32(class_name.encode(errors='replace')):08x}"
    return f"{prefix}_by_class/{score} {name}"


def metrics_table(names: Iterable[str] = tuple(METRICS), prefix: str = "fitb") -> str:
    """Write scores as a Markdown table.

    Args:
        names: Which scores; all by default.
        prefix: What the keys begin with in the loggers.

    Example:
        >>> print(metrics_table().splitlines()[0])
        | key | what it is | range | when it is off |
    """
    rows = [
        f"| `{prefix}/{name}` | {METRICS[name].meaning}{_origin(METRICS[name])} | {_range(METRICS[name])} "
        f"| {METRICS[name].when_low} |"
        for name in names
    ]
    return "\n".join(["| key | what it is | range | when it is off |", "| --- | --- | --- | --- |", *rows])


def _range(metric: Metric) -> str:
    """Three facts in a cell: with a column for each, none has room for a sentence."""
    direction = "" if metric.better == "neither" else f"; {metric.better} is better"
    return f"{metric.bounds}{direction}. Chance level: {metric.chance}"


def _origin(metric: Metric) -> str:
    ours = metric.source == "this package" or metric.source.startswith("this package, docs")
    return "" if ours else f". Source: {metric.source}"
