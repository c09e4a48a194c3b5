"""Two probes of one training run compared."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor, nn

from fitb_callbacks.models.answers import predicted
from fitb_callbacks.models.logits import LogitsFn
from fitb_callbacks.models.volumes import takes_folded
from fitb_callbacks.probing.result import FillInBlanksResult
from fitb_callbacks.scoring.drift import class_means, drift
from fitb_callbacks.scoring.intervals import wilson_interval
from fitb_callbacks.scoring.judges.module import ModuleJudge

__all__ = ["carryover_accuracy", "compared", "scores_of", "without_large_tensors"]

_LONGEST_SIDE = 32
_MOST_BYTES = 2**19


def compared(
    model: nn.Module,
    result: FillInBlanksResult,
    last: Mapping[str, Tensor] | None,
    logits_fn: LogitsFn | None = None,
) -> tuple[FillInBlanksResult, dict[str, Tensor]]:
    """The result with what has changed since the last probe of the same run and images.

    Args:
        model: The model that was probed, with its present weights; left as it was found.
        result: What was found.
        last: The second value that this returned for the last probe; None for the first, whose scores are NaN.
        logits_fn: As for the probe.

    Returns:
        The result with ``carryover_accuracy`` and ``drift``, and tensors to compare the next one with.

    Example:
        >>> import torch
        >>> from fitb_callbacks import FillInBlanks
        >>> model, images = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3)), torch.rand(6, 1, 4, 4)
        >>> result = FillInBlanks(num_masks=8, target="predicted").probe(model, images)
        >>> first, last = compared(model, result, None)
        >>> second, _ = compared(model, result, last)
        >>> first.metrics["drift"], round(second.metrics["drift"], 3) + 0.0
        (nan, 0.0)
    """
    labels, covered = result.labels, result.covered
    if result.depth is not None:
        logits_fn = takes_folded(logits_fn, result.depth)
    means = _small(class_means(result.updates, labels, covered, num_classes=int(result.settings["num_classes"])))
    means = means[labels.unique()]  # the probe images, and so their classes, are the same ones in each probe
    changes = {"carryover_accuracy": math.nan, "drift": math.nan}
    if last is not None and last["class_means"].shape == means.shape:
        changes["drift"] = drift(last["class_means"], means)
    if last is not None and "prototypes" in last:
        changes["carryover_accuracy"] = carryover_accuracy(
            model, last["prototypes"], last["labels"], last["covered"], logits_fn
        )
    interval = wilson_interval(changes["carryover_accuracy"], len(labels))
    present = {"prototypes": result.prototypes, "labels": labels, "covered": covered, "class_means": means}
    return replace(
        result,
        metrics={**result.metrics, **changes},
        intervals={**result.intervals, "carryover_accuracy": interval},
    ), present


def without_large_tensors(last: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `compared` returned for the next probe, for a checkpoint: no prototypes of over half a MB.

    Example:
        >>> import torch
        >>> list(without_large_tensors({"labels": torch.zeros(3), "prototypes": torch.zeros(64, 3, 224, 224)}))
        ['labels']
    """
    return {name: tensor for name, tensor in last.items() if name != "prototypes" or tensor.nbytes <= _MOST_BYTES}


def _small(means: Tensor) -> Tensor:
    """Class means at 32 pixels a side or fewer: enough to tell how far they have turned, and small in a checkpoint."""
    height, width = (min(side, _LONGEST_SIDE) for side in means.shape[-2:])
    return means if means.shape[-2:] == (height, width) else F.adaptive_avg_pool2d(means, (height, width))


def scores_of(results: Sequence[FillInBlanksResult], *, seconds: float, overhead: float = math.nan) -> dict[str, float]:
    """All scores of one epoch's probes: those of the first by name, those of others as ``masking/name``.

    Args:
        results: One a masking.
        seconds: How long all of them took.
        overhead: What share of the epoch's own time that is, where there is an epoch.
    """
    scores = {**results[0].metrics, "seconds": seconds, "overhead": overhead}
    for result in results[1:]:
        scores |= {f"{result.settings['masking']}/{name}": value for name, value in result.metrics.items()}
    return scores


def carryover_accuracy(
    model: nn.Module, prototypes: Tensor, labels: Tensor, covered: Tensor, logits_fn: LogitsFn | None = None
) -> float:
    """Share of an earlier probe's prototypes that the model as it is now classifies as their label.

    A model always recognises its own gradient; a gradient of other weights it recognises if both have learned the
    same thing. An image without a prototype counts as wrong.

    Args:
        model: The model with its present weights; left as it was found.
        prototypes: Of the earlier probe, shape ``(N, C, H, W)``.
        labels: Label each was filled for, integers, shape ``(N,)``.
        covered: Whether there is a prototype, boolean, shape ``(N,)``.
        logits_fn: As for the probe.

    Returns:
        Value in [0, 1].

    Example:
        >>> import torch
        >>> carryover_accuracy(torch.nn.Flatten(), torch.eye(2).view(2, 1, 1, 2), torch.arange(2), torch.ones(2) > 0)
        1.0
    """
    labels = labels.cpu()
    right = predicted(ModuleJudge(model, logits_fn).logits(prototypes), labels) == labels
    return float((right & covered.cpu()).float().mean())
