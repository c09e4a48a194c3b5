"""What a model relies on: where it looks, and which cue decides its answers."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from fitb_callbacks.models.answers import predicted
from fitb_callbacks.models.chunks import in_chunks
from fitb_callbacks.probing.cues import Cue, cue_profile
from fitb_callbacks.probing.inputs import Inputs
from fitb_callbacks.probing.reliance import (
    block_masks,
    class_patches,
    margins,
    reliance,
    reliance_summary,
    spot_around,
    top_patches,
)
from fitb_callbacks.scoring.intervals import wilson_interval
from fitb_callbacks.scoring.structure import shortcut_of

__all__ = ["ReliesOn", "relies_on"]


class ReliesOn(NamedTuple):
    """What a model relies on.

    Attributes:
        metrics: Score name to value, see `fitb_callbacks.scoring.catalogue.METRICS`.
        intervals: Score name to the ends of its 95% interval.
        maps: Each image's reliance on each patch, ``(N, rows, columns)``, on the CPU; None if they were left out.
        predictions: Class that the model predicts for each image, ``(N,)``, on the CPU.
    """

    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    maps: Tensor | None
    predictions: Tensor


def relies_on(
    inputs: Inputs,
    *,
    num_masks: int,
    seed: int,
    chunk_size: int | None = None,
    reference: tuple[Tensor, Tensor] | None = None,
) -> ReliesOn:
    """Find out what the model relies on, by forward passes alone: one a mask, and three dozen for the cues.

    Args:
        inputs: Images, labels and model.
        num_masks: How many masks the reliance maps are made of; 0 leaves them out.
        seed: Of these masks.
        chunk_size: As for `fitb_callbacks.models.chunks.in_chunks`.
        reference: Images and labels that are trusted, to try the model on.
    """
    labels, number = inputs.labels, len(inputs.labels)
    answers = predicted(in_chunks(inputs.classify, inputs.images, chunk_size), labels)
    accuracy = (answers == labels).float().mean().item()
    metrics, intervals = {"image_accuracy": accuracy}, {"image_accuracy": wilson_interval(accuracy, number)}
    if reference is not None:
        accuracy = _accuracy(inputs, *reference, chunk_size=chunk_size)
        metrics["reference_accuracy"] = accuracy
        intervals["reference_accuracy"] = wilson_interval(accuracy, len(reference[1]))
    maps, cues = _looked_at(inputs, num_masks=num_masks, seed=seed, chunk_size=chunk_size)
    if maps is not None:
        found = reliance_summary(maps, inputs.grid, labels.cpu())
        metrics |= {"spot_share": found.share, "same_place": found.same_place, "class_place": found.class_place}
        intervals["same_place"] = wilson_interval(found.same_place, number)
    for name, cue in cues.items():
        metrics[f"cue_{name}"] = cue.lead
        intervals[f"cue_{name}"] = (cue.low, cue.high)
    metrics["shortcut"], accused = shortcut_of(metrics, inputs.num_classes)
    if reference is not None and accused in cues:
        _, cues = _looked_at(_some_of(reference, inputs), num_masks=num_masks, seed=seed, chunk_size=chunk_size)
        metrics |= {f"reference_{name}": cue.lead for name, cue in cues.items()}
        metrics["shortcut"], _ = shortcut_of(metrics, inputs.num_classes)
    grids = None if maps is None else inputs.grid.to_grid(maps).to(torch.float32)
    return ReliesOn(metrics, intervals, grids, answers.cpu())


def _accuracy(inputs: Inputs, images: Tensor, labels: Tensor, *, chunk_size: int | None) -> float:
    answers = predicted(in_chunks(inputs.classify, images.to(inputs.images), chunk_size), labels.to(inputs.labels))
    return (answers.cpu() == labels).float().mean().item()


def _some_of(reference: tuple[Tensor, Tensor], inputs: Inputs) -> Inputs:
    """Trusted images in place of the probe's, at most as many of them, from all classes."""
    images, labels = reference
    rows = torch.linspace(0, len(labels) - 1, min(len(labels), len(inputs.labels))).round().long()
    return replace(inputs, images=images[rows].to(inputs.images), labels=labels[rows].to(inputs.labels))


def _looked_at(
    inputs: Inputs, *, num_masks: int, seed: int, chunk_size: int | None
) -> tuple[Tensor | None, dict[str, Cue]]:
    """The reliance maps, None without masks, and the cues; those of regions need the maps."""
    maps, regions = None, {}
    if num_masks:
        maps = _maps(inputs, num_masks=num_masks, seed=seed, chunk_size=chunk_size)
        patches = {
            "spot": spot_around(top_patches(maps), inputs.grid),
            "place": class_patches(maps, inputs.labels.cpu()),
        }
        regions = {name: inputs.grid.to_pixels(some).to(inputs.images.device) for name, some in patches.items()}
    return maps, cue_profile(inputs.classify, inputs.images, inputs.labels, regions=regions, chunk_size=chunk_size)


def _maps(inputs: Inputs, *, num_masks: int, seed: int, chunk_size: int | None) -> Tensor:
    hidden = block_masks(num_masks, inputs.grid, seed=seed)
    margin = margins(
        inputs.classify,
        inputs.images,
        inputs.labels,
        hidden,
        grid=inputs.grid,
        baseline=inputs.baseline,
        chunk_size=chunk_size,
    )
    return reliance(hidden, margin)
