"""Square patches over an image: the grid that masks hide and scores refer to."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["PatchGrid", "default_patch_size"]

_PATCHES_PER_SIDE = 14


@dataclass(frozen=True)
class PatchGrid:
    """The patches of an image, numbered row by row from the top left.

    Patches at the right and bottom edges are cut off where the patch size does not divide the image.

    Attributes:
        height: Image height in pixels.
        width: Image width in pixels.
        patch_size: Side of a patch in pixels.

    Example:
        >>> grid = PatchGrid(height=3, width=4, patch_size=2)
        >>> grid.rows, grid.columns, grid.num_patches
        (2, 2, 4)
    """

    height: int
    width: int
    patch_size: int

    @classmethod
    def for_images(cls, images: Tensor, patch_size: int | None = None) -> PatchGrid:
        """The grid for images ``(..., H, W)``; without a patch size, that of `default_patch_size`."""
        height, width = images.shape[-2:]
        return cls(height, width, patch_size or default_patch_size(height, width))

    @property
    def rows(self) -> int:
        """Number of rows of patches."""
        return -(-self.height // self.patch_size)

    @property
    def columns(self) -> int:
        """Number of columns of patches."""
        return -(-self.width // self.patch_size)

    @property
    def num_patches(self) -> int:
        """Number of patches."""
        return self.rows * self.columns

    def num_hidden(self, mask_ratio: float) -> int:
        """How many patches a mask hides: the given share, rounded, but at least one and never all.

        Example:
            >>> PatchGrid(28, 28, 2).num_hidden(0.25), PatchGrid(4, 4, 2).num_hidden(0.01)
            (49, 1)
        """
        return min(max(round(mask_ratio * self.num_patches), 1), max(self.num_patches - 1, 1))

    def patch_of_pixel(self, device: torch.device | None = None) -> Tensor:
        """Number of the patch that each pixel lies in, shape ``(height, width)``. Do not write to it: it is cached.

        Example:
            >>> PatchGrid(2, 3, 2).patch_of_pixel().tolist()
            [[0, 0, 1], [0, 0, 1]]
        """
        return _patch_of_pixel(self, device)

    def to_pixels(self, values: Tensor) -> Tensor:
        """Give every pixel its patch's value: ``(..., num_patches)`` to ``(..., height, width)``.

        Example:
            >>> import torch
            >>> PatchGrid(2, 3, 2).to_pixels(torch.tensor([5, 7])).tolist()
            [[5, 5, 7], [5, 5, 7]]
        """
        return values[..., self.patch_of_pixel(values.device)]

    def to_grid(self, values: Tensor) -> Tensor:
        """Lay values out as the patches lie: ``(..., num_patches)`` to ``(..., rows, columns)``."""
        laid_out: Tensor = values.unflatten(-1, (self.rows, self.columns))
        return laid_out

    def patch_means(self, images: Tensor) -> Tensor:
        """Mean over each patch of images ``(N, C, H, W)``, shape ``(N, C, num_patches)``.

        Example:
            >>> import torch
            >>> PatchGrid(2, 3, 2).patch_means(torch.tensor([[[[0.0, 2.0, 5.0], [4.0, 6.0, 7.0]]]])).tolist()
            [[[3.0, 6.0]]]
        """
        return F.avg_pool2d(images, self.patch_size, ceil_mode=True, count_include_pad=False).flatten(2)


def default_patch_size(height: int, width: int) -> int:
    """Patch side in pixels that cuts the shorter side into about 14 patches, as 2 does for the paper's 28 pixels.

    Example:
        >>> default_patch_size(28, 28), default_patch_size(224, 224), default_patch_size(8, 8)
        (2, 16, 1)
    """
    return max(1, round(min(height, width) / _PATCHES_PER_SIDE))


@lru_cache(maxsize=16)
def _patch_of_pixel(grid: PatchGrid, device: torch.device | None) -> Tensor:
    rows = torch.arange(grid.height, device=device) // grid.patch_size
    columns = torch.arange(grid.width, device=device) // grid.patch_size
    return rows.unsqueeze(1) * grid.columns + columns
