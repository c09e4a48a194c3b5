"""Masks over patches: mask ``i`` is a pure function of the seed and ``i``, on any device, in any chunk, on any rank."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from fitb_callbacks.utils.patch_grid import PatchGrid
from fitb_callbacks.utils.rng import hash_integers

__all__ = ["hidden_patches", "masks_per_round", "partition_masks", "random_masks", "step_of_patch"]

_GOLDEN = 0x9E3779B9


def hidden_patches(indices: Tensor, grid: PatchGrid, *, mask_ratio: float, seed: int) -> Tensor:
    """Which patches the random masks with the given indices hide (paper, section 4.1).

    Every mask hides the same number of patches: the share ``mask_ratio``, rounded, but at least one patch and never
    all of them. Each mask on its own is uniform over all masks of that size. Consecutive masks are drawn together as
    a random partition (with ``mask_ratio=0.25``, masks 0 to 3 hide every patch exactly once), which leaves less
    variance in an average than independent masks do.

    Args:
        indices: Which masks, integers >= 0, shape ``(K,)``. The masks are made on this tensor's device.
        grid: The patches of an image.
        mask_ratio: Share of the patches that is hidden, in (0, 1).
        seed: Integer in [0, 2**32).

    Returns:
        Boolean tensor of shape ``(K, num_patches)``; True is hidden.

    Example:
        >>> import torch
        >>> hidden = hidden_patches(torch.arange(4), PatchGrid(4, 4, 2), mask_ratio=0.25, seed=0)
        >>> hidden.shape, hidden.sum(0).tolist()  # the four masks hide every patch exactly once
        (torch.Size([4, 4]), [1, 1, 1, 1])
    """
    num_hidden = grid.num_hidden(mask_ratio)
    round_length = grid.num_patches // num_hidden
    rank = _ranks(indices // round_length, grid.num_patches, seed)
    first_hidden = (indices % round_length * num_hidden).unsqueeze(1)
    return (rank >= first_hidden) & (rank < first_hidden + num_hidden)


def random_masks(indices: Tensor, grid: PatchGrid, *, mask_ratio: float, seed: int) -> Tensor:
    """Visible pixels of random masks: `hidden_patches` over pixels, inverted.

    Returns:
        Boolean tensor of shape ``(K, height, width)``; True is visible, False is masked.

    Example:
        >>> import torch
        >>> visible = random_masks(torch.arange(4), PatchGrid(4, 4, 2), mask_ratio=0.25, seed=0)
        >>> visible.shape, (~visible).sum(0).unique().tolist()
        (torch.Size([4, 4, 4]), [1])
    """
    return grid.to_pixels(~hidden_patches(indices, grid, mask_ratio=mask_ratio, seed=seed))


def masks_per_round(grid: PatchGrid, mask_ratio: float) -> int:
    """Number of consecutive random masks that are drawn together; rounds are independent of each other.

    Example:
        >>> masks_per_round(PatchGrid(28, 28, 2), mask_ratio=0.25)
        4
    """
    return grid.num_patches // grid.num_hidden(mask_ratio)


def step_of_patch(indices: Tensor, grid: PatchGrid, *, num_steps: int, seed: int) -> Tensor:
    """Which mask of a random partition hides each patch (paper, section 4.2).

    The masks of a partition are disjoint and together hide the whole image. Each hides the share ``1 / num_steps`` of
    the patches; where that is not a whole number, the masks differ by one patch.

    Args:
        indices: Which partitions, integers >= 0, shape ``(K,)``. The result is made on this tensor's device.
        grid: The patches of an image.
        num_steps: Masks in a partition, from 1 to the number of patches.
        seed: Integer in [0, 2**32).

    Returns:
        Integers from 0 to ``num_steps - 1``, shape ``(K, num_patches)``.

    Example:
        >>> import torch
        >>> steps = step_of_patch(torch.arange(1), PatchGrid(3, 3, 1), num_steps=4, seed=0)
        >>> steps.flatten().bincount().tolist()
        [3, 2, 2, 2]
    """
    return _ranks(indices, grid.num_patches, seed) * num_steps // grid.num_patches


def partition_masks(indices: Tensor, grid: PatchGrid, *, num_steps: int, seed: int) -> Tensor:
    """Visible pixels of random partitions: `step_of_patch` over pixels, one mask a step.

    Returns:
        Boolean tensor of shape ``(K, num_steps, height, width)``; True is visible, False is masked.

    Example:
        >>> import torch
        >>> visible = partition_masks(torch.arange(1), PatchGrid(3, 3, 1), num_steps=4, seed=0)
        >>> (~visible).sum((0, 2, 3)).tolist(), (~visible).sum((0, 1)).unique().tolist()
        ([3, 2, 2, 2], [1])
    """
    steps = torch.arange(num_steps, device=indices.device)[:, None, None]
    return grid.to_pixels(step_of_patch(indices, grid, num_steps=num_steps, seed=seed)).unsqueeze(1) != steps


def _ranks(rounds: Tensor, num_patches: int, seed: int) -> Tensor:
    """A random permutation of the patches for each round, as the rank of every patch; shape (K, num_patches)."""
    of_round = hash_integers(hash_integers(seed) ^ rounds)
    keys = hash_integers(of_round.unsqueeze(1) ^ _hashed_patches(num_patches, rounds.device))
    order = keys.argsort(dim=1, stable=True)
    return torch.empty_like(order).scatter_(1, order, torch.arange(num_patches, device=order.device).expand_as(order))


@lru_cache(maxsize=16)
def _hashed_patches(num_patches: int, device: torch.device) -> Tensor:
    return hash_integers(torch.arange(num_patches, device=device) + _GOLDEN)
