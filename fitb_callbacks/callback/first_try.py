"""The first look at a model: whether it can be probed at all, and how fast."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

from torch import Tensor, nn

from fitb_callbacks.callback.time_budget import Speeds
from fitb_callbacks.models.chunks import usual_chunk_size
from fitb_callbacks.models.logits import LogitsFn
from fitb_callbacks.probing.fill import FILL_GRADIENTS
from fitb_callbacks.probing.probe import FillInBlanks
from fitb_callbacks.probing.result import FillInBlanksResult

__all__ = ["tried"]

_IMAGES = (2, 8)
_MORE_MASKS = (4, 16, 64)
_LONG_ENOUGH = 0.03
"""Seconds from which a speed can be told, and beyond which no more is tried."""

_SHAPING = 1.3
"""What a step of the fill takes, as a share of a masked image's gradient: its updates are shaped like images, too."""


def tried(
    probes: Sequence[FillInBlanks], model: nn.Module, images: Tensor, logits_fn: LogitsFn | None
) -> tuple[FillInBlanksResult, Speeds]:
    """Probe a few images with a few masks: two, or eight with up to 64 masks where that takes no time.

    Args:
        probes: Those of the run.
        model: Left as it was found.
        images: Shape ``(N, C, H, W)``, at least one.
        logits_fn: As for the probe.

    Returns:
        What the last of the probes found of two images, and what the parts of all of them take.

    Raises:
        TypeError: If the model cannot be probed; the error says what was found.
        ValueError: If a setting does not fit the images.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
        >>> result, speeds = tried([FillInBlanks()], model, torch.rand(4, 1, 8, 8), None)
        >>> len(result.images), speeds.image > 0
        (2, True)
    """

    def probed(images: Tensor, masks: int) -> tuple[FillInBlanksResult, float]:
        started = time.perf_counter()
        for probe in probes:
            small = dataclasses.replace(
                probe,
                num_masks=masks,
                target="predicted",
                fill=None,
                gentler=False,
                chunk_size=usual_chunk_size(images),
            )
            result = small.probe(model, images, logits_fn=logits_fn)
        return result, time.perf_counter() - started

    few = images[: _IMAGES[0]]
    result, beside = probed(few, 1)
    if beside < 10 * _LONG_ENOUGH:  # a model's first pass is slower, which matters here
        for number in _IMAGES:
            few = images[:number]
            _, beside = probed(few, 1)
            if beside > _LONG_ENOUGH:
                break
    for more in _MORE_MASKS:
        of_masks = max(probed(few, 1 + more)[1] - beside, 0.0)
        if of_masks > _LONG_ENOUGH:
            break
    masked_image = of_masks / (more * len(few))
    steps = [
        FILL_GRADIENTS / _gradients(probe) for probe in probes if probe.fill is not None and probe.update != "none"
    ]
    return result, Speeds(masked_image, beside / len(few), _SHAPING * masked_image * sum(steps) / len(probes))


def _gradients(probe: FillInBlanks) -> int:
    """Gradients that a probe takes for one masked image."""
    return {"ascent": probe.ascent_steps, "bfgs": 2 * probe.bfgs_steps}.get(probe.update, 1)
