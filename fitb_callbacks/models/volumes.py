"""Volumes, such as scans and videos, as images whose slices are channels.

Everything in a probe works on images ``(N, C, H, W)``. A volume ``(N, C, D, H, W)`` becomes an image with ``C * D``
channels, so a mask hides columns: the same patch in every slice.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fitb_callbacks.models.logits import LogitsFn, find_logits

__all__ = ["central_slices", "channels_at", "folded", "layouts", "takes_folded", "unfolded"]

_CHANNELS = (1, 3, 4)


def folded(images: Tensor) -> Tensor:
    """Volumes ``(N, C, D, H, W)`` as images ``(N, C * D, H, W)``; images stay as they are.

    Example:
        >>> folded(torch.zeros(2, 1, 5, 8, 8)).shape, folded(torch.zeros(2, 3, 8, 8)).shape
        (torch.Size([2, 5, 8, 8]), torch.Size([2, 3, 8, 8]))
    """
    return images.flatten(1, 2) if images.ndim == 5 else images


def unfolded(images: Tensor, depth: int) -> Tensor:
    """The volumes ``(..., C, D, H, W)`` of folded ones ``(..., C * D, H, W)``."""
    volumes: Tensor = images.unflatten(-3, (-1, depth))
    return volumes


def takes_folded(logits_fn: LogitsFn | None, depth: int) -> LogitsFn:
    """Let what computes the logits of volumes take folded ones.

    Args:
        logits_fn: As for the probe; None for the model's own ``forward``.
        depth: Slices of a volume.
    """

    def compute(model: nn.Module, images: Tensor) -> Tensor:
        volumes = unfolded(images, depth)
        return find_logits(model(volumes), batch_size=len(images)) if logits_fn is None else logits_fn(model, volumes)

    return compute


def layouts(images: Tensor) -> list[Tensor]:
    """Images or volumes as they are, with their last dimension as the channels, and with the third: frames of a video.

    Example:
        >>> [tuple(each.shape) for each in layouts(torch.zeros(2, 7, 3, 8, 8))]
        [(2, 7, 3, 8, 8), (2, 8, 7, 3, 8), (2, 3, 7, 8, 8)]
    """
    return [images, images.movedim(-1, 1), *([images.movedim(2, 1)] if images.ndim == 5 else [])]


def channels_at(images: Tensor) -> int:
    """Which dimension holds the channels: 1, unless it holds none of 1, 3 or 4 and another one does.

    Example:
        >>> [channels_at(torch.zeros(shape)) for shape in ((2, 3, 8, 8), (2, 8, 8, 3), (2, 7, 3, 8, 8), (2, 5, 8, 8))]
        [1, 3, 2, 1]
    """
    if images.shape[1] in _CHANNELS:
        return 1
    if images.shape[-1] in _CHANNELS:
        return images.ndim - 1
    return 2 if images.ndim == 5 and images.shape[2] in _CHANNELS else 1


def central_slices(volume: Tensor) -> Tensor:
    """The slices through a volume's centre, one across each axis, side by side at the size of the first.

    Args:
        volume: Shape ``(..., D, H, W)``.

    Returns:
        Shape ``(..., H, 3 * W)``: the slice at half the depth, then those at half the height and half the width,
        with the depth downwards.

    Example:
        >>> central_slices(torch.zeros(1, 5, 8, 6)).shape
        torch.Size([1, 8, 18])
    """
    depth, height, width = volume.shape[-3:]
    slices = (volume.select(-3, depth // 2), volume.select(-2, height // 2), volume.select(-1, width // 2))
    flat = [part.reshape(1, -1, *part.shape[-2:]).float() for part in slices]
    sized = [F.interpolate(part, (height, width), mode="nearest") for part in flat]
    return torch.cat(sized, dim=-1).view(*volume.shape[:-3], height, 3 * width).to(volume.dtype)
