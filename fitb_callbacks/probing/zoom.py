"""Look at images from a little nearer or farther away, and bring what was found there back."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Zoom"]


class Zoom(NamedTuple):
    """A linear map of images: enlarged or shrunk about their middle, at the same number of pixels.

    By two products with matrices, which are the same bit for bit on every run. A GPU's bilinear sampling adds up its
    gradients in any order.

    Attributes:
        down: What each row takes from the rows, shape ``(H, H)``.
        across: What each column takes from the columns, shape ``(W, W)``.

    Example:
        >>> ramp = torch.arange(5.0).expand(1, 1, 5, 5)
        >>> Zoom.by(torch.tensor(2.0), ramp).see(ramp)[0, 0, 0].tolist()
        [1.0, 1.5, 2.0, 2.5, 3.0]
    """

    down: Tensor
    across: Tensor

    @classmethod
    def by(cls, factor: Tensor, like: Tensor) -> Zoom:
        """How images are seen that are larger by a factor; around smaller ones lies their mirror image.

        Args:
            factor: A positive number without axes, on the images' device. 1 leaves images as they are.
            like: Images of the same size, type and device, shape ``(B, C, H, W)``.
        """
        height, width = like.shape[-2:]
        return cls(_samples(height, factor, like), _samples(width, factor, like))

    def see(self, images: Tensor) -> Tensor:
        """Images ``(B, C, H, W)``, zoomed, in full precision under autocast, too."""
        with torch.autocast(images.device.type, enabled=False):
            return self.down @ images @ self.across.T

    def back(self, gradients: Tensor) -> Tensor:
        """Gradients for zoomed images ``(B, C, H, W)`` as those for the images themselves, likewise."""
        with torch.autocast(gradients.device.type, enabled=False):
            return self.down.T @ gradients @ self.across


def _samples(side: int, factor: Tensor, like: Tensor) -> Tensor:
    """Linear interpolation at the places of ``side`` pixels, after zooming: shape ``(side, side)``."""
    pixels, last = torch.arange(side, device=like.device, dtype=like.dtype), side - 1
    places = ((pixels - last / 2) / factor + last / 2).abs()  # beyond an end lies the mirror image
    places = (last - (last - places).abs()).clamp(min=0)
    return (1 - (places[:, None] - pixels).abs()).clamp(min=0)
