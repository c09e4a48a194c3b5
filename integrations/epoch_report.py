"""Compose what loggers get for one epoch: scores, pictures and records."""

from __future__ import annotations

import math
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lightning.pytorch.loggers import Logger

from fitb_callbacks.integrations.loggers import log_picture, log_record, log_scores
from fitb_callbacks.integrations.record import Record, make_record, strip_before_training
from fitb_callbacks.plotting.tiles import Picture, main_tile
from fitb_callbacks.plotting.timeline import Timeline
from fitb_callbacks.probing.result import FillInBlanksResult
from fitb_callbacks.scoring.catalogue import DECIDING, KEY_METRICS, ScoresName, class_key
from fitb_callbacks.scoring.classification import answer_counts

if TYPE_CHECKING:
    from fitb_callbacks.plotting.layout import Heading

__all__ = ["Logged", "compose", "compose_untrained", "give", "give_records"]

_MOST_CLASSES = 20


@dataclass(frozen=True)
class Logged:
    """What every logger gets for one epoch.

    Attributes:
        step: The step of the epoch's metrics.
        scores: Key, with prefix, to value; undefined ones are left out.
        pictures: Name, with prefix, to picture.
        records: For `fitb report`, one a probe.
    """

    step: int
    scores: dict[str, float]
    pictures: dict[str, Picture]
    records: list[Record]


def compose(  # noqa: PLR0913 - all that is said of one epoch
    results: Sequence[FillInBlanksResult],
    metrics: Mapping[str, float],
    timelines: MutableMapping[str, Timeline],
    *,
    epoch: int,
    step: int,
    prefix: str,
    judge: str | None,
    draw: bool = True,
    scores: ScoresName = "key",
) -> Logged:
    """Make what the loggers get.

    Args:
        results: One a masking; the first one's keys are ``prefix/name``, those of others ``prefix/masking/name``.
        metrics: Of `fitb_callbacks.callback.comparison.scores_of`.
        timelines: Masking to the earlier probes, to which these are added.
        epoch: The epoch that was probed.
        step: The step at which the epoch's metrics are logged.
        prefix: What the keys begin with.
        judge: The judge in words.
        draw: Whether to make pictures and records, which need Pillow.
        scores: "key" for the few of `KEY_METRICS`, "all" for every one, also for each class. Records, and so the
            report, always hold all.
    """
    drawn = results if draw else []
    pictures = _pictures(drawn, timelines, epoch=epoch, prefix=prefix, judge=judge) if draw else {}
    everything = scores == "all"
    # MLflow's overview keeps this order
    ordered = [*(name for name in DECIDING if name in metrics), *(name for name in metrics if name not in DECIDING)]
    chosen = [name for name in ordered if everything or name.rpartition("/")[2] in KEY_METRICS]
    logged = {f"{prefix}/{name}": metrics[name] for name in chosen}
    if everything:
        logged |= _of_classes(results[0], prefix)
    times = {name: metrics[name] for name in ("seconds", "overhead")}
    records = [
        make_record(result, {**result.metrics, **times}, epoch=epoch, step=step, prefix=prefix, judge=judge)
        for result in drawn
    ]
    for record in records:
        timeline = timelines[record["settings"]["masking"]]
        if timeline.probed == 1 and timeline.before:
            record["before"] = strip_before_training(timeline.before, record["classes"])
    return Logged(
        step=step,
        scores={key: value for key, value in logged.items() if not math.isnan(value)},
        pictures={f"{prefix}/{name}": picture for name, picture in pictures.items()},
        records=records,
    )


def compose_untrained(
    results: Sequence[FillInBlanksResult], timelines: MutableMapping[str, Timeline], *, prefix: str
) -> Logged:
    """The pictures of a network before its training, for step 0: no scores, and no record of their own.

    Args:
        results: One a masking.
        timelines: Masking to timeline, which begin with these.
        prefix: What the keys begin with.
    """
    from fitb_callbacks.plotting.at_a_glance import glance_picture
    from fitb_callbacks.plotting.layout import Heading
    from fitb_callbacks.plotting.prototypes import prototype_grid

    pictures = {}
    for result in results:
        masking = result.settings["masking"]
        within, title = ("", prefix) if result is results[0] else (f"{masking}/", f"{prefix}, {masking}")
        shown = f"{len(result.labels)} probe images of {len(result.classes)} classes"
        heading = Heading(
            f"{title}, before training, {shown}", "Not trained yet: later pictures compare with this one."
        )
        cells = result.cells()
        timelines[masking] = Timeline.beginning([cell.name for cell in cells], [main_tile(cell) for cell in cells])
        pictures[f"{prefix}/{within}at_a_glance"] = glance_picture(cells, {}, {}, heading)
        pictures[f"{prefix}/{within}prototypes"] = prototype_grid(cells, heading)
        if result is results[0]:
            pictures[f"{prefix}/confusion"] = _confusion(result, heading)
    return Logged(step=0, scores={}, pictures=pictures, records=[])


def give(logger: Logger, logged: Logged) -> bool:
    """Log everything but the records to one logger.

    Returns:
        Whether the logger took the pictures.
    """
    separator = logger.group_separator
    if logged.scores:
        log_scores(logger, {key.replace("/", separator): value for key, value in logged.scores.items()}, logged.step)
    # One picture after the other: a logger takes all or none
    return all(log_picture(logger, name, picture, logged.step) for name, picture in logged.pictures.items())


def give_records(logger: Logger, records: Sequence[Record], validation: tuple[str, float] | None) -> None:
    """Log the records to one logger, with the accuracy that the training logged in the same validation."""
    for record in records:
        log_record(logger, {**record, "validation": validation})


def _pictures(
    results: Sequence[FillInBlanksResult],
    timelines: MutableMapping[str, Timeline],
    *,
    epoch: int,
    prefix: str,
    judge: str | None,
) -> dict[str, Picture]:
    """All pictures of an epoch, by name without prefix."""
    from fitb_callbacks.plotting.at_a_glance import glance_picture
    from fitb_callbacks.plotting.prototypes import prototype_grid
    from fitb_callbacks.plotting.timeline import timeline_picture

    pictures = {}
    for result in results:
        masking = result.settings["masking"]
        within, title = ("", prefix) if result is results[0] else (f"{masking}/", f"{prefix}, {masking}")
        cells, heading = result.cells(), result.heading(f"{title}, epoch {epoch}", judge=judge)
        tiles = [main_tile(cell) for cell in cells]
        timeline = timelines.get(masking, Timeline()).with_probe(tiles, epoch, result.metrics)
        timelines[masking] = timeline
        curves = {
            name: [
                (at, scores.get(name, math.nan)) for at, scores in zip(timeline.epochs, timeline.scores, strict=True)
            ]
            for name in DECIDING
            if name in result.metrics
        }
        pictures[f"{within}at_a_glance"] = glance_picture(cells, curves, result.intervals, heading)
        pictures[f"{within}prototypes"] = prototype_grid(cells, heading)
        pictures[f"{within}timeline"] = timeline_picture(timeline, [cell.name for cell in cells], heading)
        if result is results[0]:
            pictures["confusion"] = _confusion(result, heading)
    return pictures


def _confusion(result: FillInBlanksResult, heading: Heading) -> Picture:
    from fitb_callbacks.plotting.confusion import confusion_picture

    made = "" if result.filled is None else " (by one gradient, not the fills)"
    counts = {
        f"The {who} takes the prototypes{made} for": answer_counts(result.labels, answers, result.classes)
        for who, answers in result.answers.items()
    }
    return confusion_picture(counts, [result.class_name(label) for label in result.classes], heading)


def _of_classes(result: FillInBlanksResult, prefix: str) -> dict[str, float]:
    """Scores of the first 20 classes, by key."""
    return {
        class_key(prefix, score, result.class_name(label)): values[label]
        for score, values in result.per_class.items()
        for label in result.classes[:_MOST_CLASSES]
    }
