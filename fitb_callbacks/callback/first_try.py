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
from fitb_callbacks.utils.distributed import all_reduce_max

__all__ = ["checked", "tried"]

_IMAGES = (2, 8)
_MORE_MASKS = (4, 16, 64)
_LONG_ENOUGH = 0.03
"""Seconds from which a speed can be told, and beyond which no more is tried."""

_SHAPING = 1.3
"""What a step of the fill takes, as a share of a masked image's gradient: its updates are shaped like images, too."""

_LEAST_DIFFERENCE = 0.05

_LEAST_BESIDE = 11
"""What an image takes at least beside its masks and its fill, as a multiple of a masked image's gradient: 33 forward
passes."""


def checked(
    probes: Sequence[FillInBlanks], model: nn.Module, images: Tensor, logits_fn: LogitsFn | None
) -> tuple[int, Speeds]:
    """Find a few updates of two images, the same number on every process.

    Args:
        probes: Those of the run.
        model: Left as it was found.
        images: Shape ``(N, C, H, W)``, at least one.
        logits_fn: As for the probe.

    Returns:
        The number of classes, and what the parts of all probes take at least.

    Raises:
        TypeError: If the model cannot be probed; the error says what was found.
        ValueError: If a setting does not fit the images.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
        >>> num_classes, speeds = checked([FillInBlanks()], model, torch.rand(4, 1, 8, 8), None)
        >>> num_classes, speeds.trying >= 0
        (3, True)
    """
    few, num_classes = images[: _IMAGES[0]], 0

    def seconds(masks: int) -> float:
        nonlocal num_classes
        started = time.perf_counter()
        for probe in probes:
            num_classes = dataclasses.replace(probe, num_masks=masks).check(model, few, logits_fn=logits_fn)
        return time.perf_counter() - started

    more = _MORE_MASKS[0 if images.device.type == "cpu" else -1]  # to an accelerator a few are as much work as one
    seconds(1)  # a model's first pass is slower
    masked_image = _difference(seconds(1 + more), seconds(1)) / (more * len(few))
    image = _LEAST_BESIDE * masked_image
    trying = 3 * len(few) * image + (2 + 1 + more) * len(few) * masked_image
    return num_classes, Speeds(masked_image, image, _steps_of_the_fill(probes) * masked_image, trying)


def tried(
    probes: Sequence[FillInBlanks],
    model: nn.Module,
    images: Tensor,
    logits_fn: LogitsFn | None,
    *,
    world_size: int = 1,
) -> Speeds:
    """Probe a few images with a few masks: two, or eight with up to 64 masks where that takes no time.

    Args:
        probes: Those of the run.
        model: Left as it was found.
        images: Shape ``(N, C, H, W)``, at least one.
        logits_fn: As for the probe.
        world_size: Number of processes, each of which must call this; the slowest one decides.

    Returns:
        What the parts of all probes take.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
        >>> tried([FillInBlanks()], model, torch.rand(4, 1, 8, 8), None).image > 0
        True
    """

    def seconds(images: Tensor, masks: int, *, whole: bool) -> float:
        """Of the masks alone, or with all that comes beside them."""
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
            (small.probe if whole else small.check)(model, images, logits_fn=logits_fn)
        return all_reduce_max([time.perf_counter() - started], world_size)[0]

    few = images[: _IMAGES[0]]
    beside = seconds(few, 1, whole=True)
    if beside < 10 * _LONG_ENOUGH:  # a model's first pass is slower, which matters here
        for number in _IMAGES:
            few = images[:number]
            beside = seconds(few, 1, whole=True)
            if beside > _LONG_ENOUGH:
                break
    of_one = seconds(few, 1, whole=False)
    for more in _MORE_MASKS:
        of_masks = _difference(seconds(few, 1 + more, whole=False), of_one)
        if of_masks > _LONG_ENOUGH:
            break
    masked_image = of_masks / (more * len(few))
    return Speeds(masked_image, beside / len(few), _SHAPING * _steps_of_the_fill(probes) * masked_image)


def _difference(longer: float, shorter: float) -> float:
    """How much longer something took, and a little at least: next to other work, what is longer may end sooner."""
    return max(longer - shorter, _LEAST_DIFFERENCE * longer)


def _steps_of_the_fill(probes: Sequence[FillInBlanks]) -> float:
    """Gradients by which an image is filled in, as a multiple of what one masked image takes in all probes."""
    steps = [
        FILL_GRADIENTS / _gradients(probe) for probe in probes if probe.fill is not None and probe.update != "none"
    ]
    return sum(steps) / len(probes)


def _gradients(probe: FillInBlanks) -> int:
    """Gradients that a probe takes for one masked image."""
    return {"ascent": probe.ascent_steps, "bfgs": 2 * probe.bfgs_steps}.get(probe.update, 1)
