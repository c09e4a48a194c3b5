"""Masks over patches: mask ``i`` is a pure function of the seed and ``i``, on any device, in any chunk, on any rank."""

from __future__ import annotations

from functools import lru_cache
from typing import TypeVar

import torch
from torch import Tensor

__all__ = ["default_patch_size", "masks_per_round", "partition_masks", "patch_of_pixel", "random_masks"]

_PATCHES_PER_SIDE = 14
_UINT32 = 0xFFFFFFFF
_Integers = TypeVar("_Integers", Tensor, int)


def random_masks(
    indices: Tensor,
    *,
    height: int,
    width: int,
    patch_size: int,
    mask_ratio: float,
    seed: int,
) -> Tensor:
    """Visible pixels of the random masks with the given indices (paper, section 4.1).

    Every mask hides the same number of patches: the share ``mask_ratio``, rounded, but at least one patch and never
    all of them. Each mask on its own is uniform over all masks of that size. Consecutive masks are drawn together as
    a random partition (with ``mask_ratio=0.25``, masks 0 to 3 hide every patch exactly once), which leaves less
    variance in an average than independent masks do. Patches at the right and lower edge are cut off where the patch
    size does not divide the image.

    Args:
        indices: Which masks, integers >= 0, shape ``(K,)``. The masks are made on this tensor's device.
        height: Image height in pixels.
        width: Image width in pixels.
        patch_size: Side of a patch in pixels.
        mask_ratio: Share of the patches that is hidden, in (0, 1).
        seed: Integer in [0, 2**32).

    Returns:
        Boolean tensor of shape ``(K, height, width)``; True is visible, False is masked.

    Example:
        >>> import torch
        >>> visible = random_masks(torch.arange(4), height=4, width=4, patch_size=2, mask_ratio=0.25, seed=0)
        >>> visible.shape
        torch.Size([4, 4, 4])
        >>> (~visible).sum(0).unique().tolist()  # the four masks hide every pixel exactly once
        [1]
    """
    pixel_patch = _patch_of_pixel(height, width, patch_size, indices.device)
    num_patches = int(-(-height // patch_size) * -(-width // patch_size))
    num_hidden = _num_hidden(num_patches, mask_ratio)
    round_length = num_patches // num_hidden
    rank = _ranks(indices // round_length, num_patches, seed)
    first_hidden = (indices % round_length * num_hidden).unsqueeze(1)
    hidden = (rank >= first_hidden) & (rank < first_hidden + num_hidden)
    return ~hidden[:, pixel_patch]


def masks_per_round(*, height: int, width: int, patch_size: int, mask_ratio: float) -> int:
    """Number of consecutive random masks that are drawn together; rounds are independent of each other.

    Example:
        >>> masks_per_round(height=28, width=28, patch_size=2, mask_ratio=0.25)
        4
    """
    num_patches = -(-height // patch_size) * -(-width // patch_size)
    return num_patches // _num_hidden(num_patches, mask_ratio)


def partition_masks(
    indices: Tensor,
    *,
    height: int,
    width: int,
    patch_size: int,
    num_steps: int,
    seed: int,
) -> Tensor:
    """Visible pixels of random partitions: disjoint masks that together hide the whole image (paper, section 4.2).

    Every mask of a partition hides the share ``1 / num_steps`` of the patches; where that is not a whole number, the
    masks differ by one patch.

    Args:
        indices: Which partitions, integers >= 0, shape ``(K,)``. The masks are made on this tensor's device.
        height: Image height in pixels.
        width: Image width in pixels.
        patch_size: Side of a patch in pixels.
        num_steps: Masks in a partition, from 1 to the number of patches.
        seed: Integer in [0, 2**32).

    Returns:
        Boolean tensor of shape ``(K, num_steps, height, width)``; True is visible, False is masked.

    Example:
        >>> import torch
        >>> visible = partition_masks(torch.arange(1), height=3, width=3, patch_size=1, num_steps=4, seed=0)
        >>> (~visible).sum((0, 2, 3)).tolist(), (~visible).sum((0, 1)).unique().tolist()
        ([3, 2, 2, 2], [1])
    """
    pixel_patch = _patch_of_pixel(height, width, patch_size, indices.device)
    num_patches = int(-(-height // patch_size) * -(-width // patch_size))
    step_of_patch = _ranks(indices, num_patches, seed) * num_steps // num_patches
    steps = torch.arange(num_steps, device=indices.device)[:, None, None]
    return step_of_patch[:, pixel_patch].unsqueeze(1) != steps


def patch_of_pixel(height: int, width: int, patch_size: int, device: torch.device | None = None) -> Tensor:
    """Index of the patch that each pixel lies in, row by row.

    Args:
        height: Image height in pixels.
        width: Image width in pixels.
        patch_size: Side of a patch in pixels.
        device: Where the result is made.

    Returns:
        Integer tensor of shape ``(height, width)``, values from 0 to the number of patches - 1.

    Example:
        >>> patch_of_pixel(2, 3, 2).tolist()
        [[0, 0, 1], [0, 0, 1]]
    """
    return _patch_of_pixel(height, width, patch_size, device).clone()


@lru_cache(maxsize=16)
def _patch_of_pixel(height: int, width: int, patch_size: int, device: torch.device | None) -> Tensor:
    rows = torch.arange(height, device=device) // patch_size
    columns = torch.arange(width, device=device) // patch_size
    return rows.unsqueeze(1) * -(-width // patch_size) + columns


def default_patch_size(height: int, width: int) -> int:
    """Patch side in pixels that cuts the shorter side into about 14 patches, as 2 does for the paper's 28 pixels.

    Example:
        >>> default_patch_size(28, 28), default_patch_size(224, 224), default_patch_size(8, 8)
        (2, 16, 1)
    """
    return max(1, round(min(height, width) / _PATCHES_PER_SIDE))


def _num_hidden(num_patches: int, mask_ratio: float) -> int:
    return min(max(round(mask_ratio * num_patches), 1), max(num_patches - 1, 1))


def _ranks(rounds: Tensor, num_patches: int, seed: int) -> Tensor:
    """A random permutation of the patches for each round, as the rank of every patch; shape (K, num_patches)."""
    keys = _hash(_hash(_hash(seed) ^ rounds).unsqueeze(1) ^ _hashed_patches(num_patches, rounds.device))
    return keys.argsort(dim=1, stable=True).argsort(dim=1)


@lru_cache(maxsize=16)
def _hashed_patches(num_patches: int, device: torch.device) -> Tensor:
    return _hash(torch.arange(num_patches, device=device) + 0x9E3779B9)


def _hash(values: _Integers) -> _Integers:
    """Mix integers to 32 well-spread bits.

    A counter-based hash rather than a Generator: a Generator's stream differs between CPU and GPU and has to be drawn
    in order, while this gives any mask directly, everywhere the same. Shift-multiply steps with multipliers below
    2**31 keep every product inside int64.
    """
    values = values & _UINT32
    values = ((values ^ (values >> 16)) * 0x21F0AAAD) & _UINT32
    values = ((values ^ (values >> 15)) * 0x735A2D97) & _UINT32
    return values ^ (values >> 15)
