"""What a model relies on: where it looks, and which cue decides its answers."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fitb_callbacks.models.answers import predicted
from fitb_callbacks.models.chunks import in_chunks
from fitb_callbacks.probing.averaging import Average
from fitb_callbacks.probing.cues import cue_profile
from fitb_callbacks.probing.inputs import Inputs
from fitb_callbacks.probing.reliance import reliance, reliance_summary
from fitb_callbacks.scoring.intervals import wilson_interval
from fitb_callbacks.scoring.structure import shortcut

__all__ = ["ReliesOn", "relies_on"]


class ReliesOn(NamedTuple):
    """What a model relies on.

    Attributes:
        metrics: Score name to value, see `fitb_callbacks.scoring.catalogue.METRICS`.
        intervals: Score name to the ends of its 95% interval.
        maps: Each image's reliance on each patch, ``(N, rows, columns)``, on the CPU; None with progressive masks.
    """

    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    maps: Tensor | None


def relies_on(inputs: Inputs, averaged: Average, *, chunk_size: int | None = None) -> ReliesOn:
    """Find out what the model relies on, by eight forward passes over the images and the masks of the probe.

    Args:
        inputs: Images, labels and model.
        averaged: What the masks gave. Patches are told apart by random masks only.
        chunk_size: As for `fitb_callbacks.models.chunks.in_chunks`.
    """
    labels, number = inputs.labels, len(inputs.labels)
    answers = predicted(in_chunks(inputs.classify, inputs.images, chunk_size), labels)
    accuracy = (answers == labels).float().mean().item()
    cues = cue_profile(inputs.classify, inputs.images, labels, chunk_size=chunk_size)
    chance = 1 / inputs.num_classes
    suspicion, _ = shortcut({name: cue.excess for name, cue in cues.items()}, (accuracy - chance) / (1 - chance))
    metrics = {"image_accuracy": accuracy, "shortcut": suspicion}
    intervals = {"image_accuracy": wilson_interval(accuracy, number)}
    for name, cue in cues.items():
        metrics[f"cue_{name}"] = cue.excess
        intervals[f"cue_{name}"] = (cue.above_chance(cue.low), cue.above_chance(cue.high))
    if averaged.steps is not None:
        return ReliesOn(metrics, intervals, None)
    maps = reliance(averaged.hidden, averaged.answers.log_p, averaged.num_updates)
    found = reliance_summary(maps, inputs.grid)
    metrics |= {"spot_share": found.share, "same_place": found.same_place}
    intervals["same_place"] = wilson_interval(found.same_place, int((maps.sum(dim=1) > 0).sum()))
    return ReliesOn(metrics, intervals, inputs.grid.to_grid(maps).to(torch.float32))
