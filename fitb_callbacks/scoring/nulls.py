"""Structureless updates: what a judge scores on them is chance level."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["equal_norm_noise", "permuted_patches"]


def permuted_patches(updates: Tensor, *, patch_size: int, seed: int) -> Tensor:
    """The same updates with their patches shuffled: the same ink, no structure.

    Each image has a permutation of its own, the same in all channels. Patches that are cut off at the right or lower
    edge stay where they are.

    Args:
        updates: Shape ``(N, C, H, W)``.
        patch_size: Side of a patch in pixels, at most the images' shorter side.
        seed: Of the permutations; the same on every device.

    Returns:
        Tensor of the updates' shape and device.

    Example:
        >>> import torch
        >>> update = torch.arange(16.0).view(1, 1, 4, 4)
        >>> null = permuted_patches(update, patch_size=2, seed=0)
        >>> null.sum().item() == update.sum().item(), torch.equal(null, update)
        (True, False)
    """
    height, width = (side // patch_size * patch_size for side in updates.shape[-2:])
    patches = F.unfold(updates[..., :height, :width], patch_size, stride=patch_size)
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(len(patches), 1, patches.shape[2], generator=generator).argsort(dim=2).to(updates.device)
    shuffled = patches.gather(2, order.expand_as(patches))
    null = updates.clone()
    null[..., :height, :width] = F.fold(shuffled, (height, width), patch_size, stride=patch_size)
    return null


def equal_norm_noise(updates: Tensor, *, seed: int) -> Tensor:
    """Gaussian noise of each update's own Euclidean norm.

    Args:
        updates: Shape ``(N, C, H, W)``.
        seed: Of the noise; the same on every device.

    Returns:
        Tensor of the updates' shape and device.

    Example:
        >>> import torch
        >>> update = torch.tensor([3.0, 4.0]).view(1, 1, 1, 2)
        >>> round(equal_norm_noise(update, seed=0).norm().item(), 4)
        5.0
    """
    noise = torch.randn(updates.shape, generator=torch.Generator().manual_seed(seed)).to(updates)
    norms = updates.flatten(1).norm(dim=1)
    return F.normalize(noise.flatten(1)).mul(norms.unsqueeze(1)).view_as(updates)
