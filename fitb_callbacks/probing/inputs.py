"""Check what a probe was given, and bring it into one form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from fitb_callbacks.models.logits import Classify
from fitb_callbacks.utils.messages import describe
from fitb_callbacks.utils.patch_grid import PatchGrid

__all__ = [
    "Inputs",
    "channel_values",
    "check_class_names",
    "check_images",
    "check_labels",
    "device_of",
    "inconspicuous_colour",
]

_PIXELS = 2**20
_BACKGROUND_SHARE = 0.25


@dataclass(frozen=True)
class Inputs:
    """What a probe works on: checked, with defaults resolved, on the model's device.

    Attributes:
        classify: Images ``(B, C, H, W)`` to logits ``(B, num_classes)``.
        images: The probe images, shape ``(N, C, H, W)``, floating point.
        labels: The label each image is filled for, integers, shape ``(N,)``.
        grid: The images' patches.
        low: Lowest value of a prototype in each channel, shape ``(C, 1, 1)``.
        high: Highest value of a prototype in each channel, shape ``(C, 1, 1)``.
        baseline: Value of a masked pixel in each channel, shape ``(C, 1, 1)``.
        num_classes: Number of classes.
        independent: Whether each label is true or false by itself, see `fitb_callbacks.models.answers.independent`.
    """

    classify: Classify
    images: Tensor
    labels: Tensor
    grid: PatchGrid
    low: Tensor
    high: Tensor
    baseline: Tensor
    num_classes: int
    independent: bool = False

    def rows(self, indices: Tensor) -> Inputs:
        """The same for some of the images, by index."""
        return replace(self, images=self.images[indices], labels=self.labels[indices])


def device_of(model: nn.Module, default: torch.device) -> torch.device:
    """The device of a model's parameters and buffers, or the default if it has none."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return default


def check_images(images: object) -> Tensor:
    """Images as floating point; raises unless they are a tensor of finite real numbers, shape ``(N, C, H, W)``."""
    if not isinstance(images, Tensor):
        raise TypeError(f"images must be a tensor of shape (N, C, H, W); got {describe(images)}")
    if images.ndim != 4 or 0 in images.shape:
        raise ValueError(f"images must have the shape (N, C, H, W), none of them 0; got {tuple(images.shape)}")
    if images.is_complex():
        raise TypeError(f"images must be real numbers; got {describe(images)}")
    images = images if images.is_floating_point() else images.float()
    if not images.isfinite().all():
        raise ValueError("images must be finite; got NaN or infinite values")
    return images


def check_labels(labels: object, images: Tensor, num_classes: int) -> Tensor:
    """A copy of the labels as int64 on the images' device; raises unless each image has one of the classes."""
    if labels is None:
        raise ValueError('labels must be given unless target="predicted"; got None')
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.is_complex():
        raise TypeError(f"labels must be an integer tensor of shape ({len(images)},); got {describe(labels)}")
    if labels.shape != (len(images),):
        raise ValueError(f"labels must have the shape ({len(images)},), one an image; got {tuple(labels.shape)}")
    labels = labels.detach().to(images.device, torch.long, copy=True)
    outside = (labels < 0) | (labels >= num_classes)
    if outside.any():
        found = sorted(set(labels[outside].tolist()))
        raise ValueError(
            f"labels must be from 0 to {num_classes - 1}, as the model has {num_classes} classes; got {found[:10]}"
        )
    return labels


def check_class_names(class_names: Sequence[str] | None, num_classes: int) -> None:
    """Raise ValueError unless there is a name for every class, or none at all."""
    if class_names is not None and len(class_names) != num_classes:
        raise ValueError(f"class_names must hold {num_classes} names, one a class; got {len(class_names)}")


def channel_values(name: str, value: float | Sequence[float] | None, images: Tensor, default: Tensor) -> Tensor:
    """A setting of one number, or of one a channel, as a tensor ``(C, 1, 1)``; the default ``(C, 1, 1)`` for None."""
    channels = images.shape[1]
    if value is None:
        return default.view(channels, 1, 1)
    values = torch.as_tensor(value, dtype=images.dtype, device=images.device).flatten()
    if len(values) not in (1, channels):
        raise ValueError(f"{name} must be one number, or one for each of the {channels} channels; got {len(values)}")
    return values.expand(channels).view(channels, 1, 1)


def inconspicuous_colour(images: Tensor, low: Tensor) -> Tensor:
    """A colour that hides without standing out: each channel's median, or ``low`` where that is the background.

    That is where a quarter of the pixels hold the channel's lowest value, as in digits on black. A million pixels are
    looked at.

    Args:
        images: Shape ``(N, C, H, W)``.
        low: What stands for the lowest value, shape ``(C, 1, 1)``.

    Returns:
        Shape ``(C, 1, 1)``.

    Example:
        >>> digit, photograph = torch.tensor([0.0, 0.0, 0.7, 0.9]), torch.tensor([0.1, 0.4, 0.5, 0.6, 0.7])
        >>> [inconspicuous_colour(row.view(1, 1, 1, -1), row.min().view(1, 1, 1)).item() for row in (digit, photograph)]
        [0.0, 0.5]
    """
    pixels = images.transpose(0, 1).flatten(1)
    pixels = pixels[:, :: -(-pixels.shape[1] // _PIXELS)]
    lowest = (pixels == pixels.amin(dim=1, keepdim=True)).float().mean(dim=1)
    median = pixels.cpu().median(dim=1).values.to(pixels)  # a GPU has no deterministic one
    return torch.where(lowest >= _BACKGROUND_SHARE, low.flatten().to(pixels), median).view_as(low)
