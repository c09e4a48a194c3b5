"""What has the statistics of an update, and none of its structure."""

import pytest
import torch
from torch import nn

from fitb_callbacks.scoring.nulls import equal_norm_noise, permuted_patches


@pytest.mark.parametrize("patch_size", [1, 2, 3])
def test_permuted_patches_are_the_same_patches_in_other_places(patch_size):
    updates = torch.randn(3, 2, 8, 6)
    null = permuted_patches(updates, patch_size=patch_size, seed=1)
    assert torch.equal(null.flatten(1).sort().values, updates.flatten(1).sort().values)
    assert not torch.equal(null, updates)
    whole = (slice(0, 8 // patch_size * patch_size), slice(0, 6 // patch_size * patch_size))
    unfolded = [
        nn.functional.unfold(each[(..., *whole)], patch_size, stride=patch_size).transpose(1, 2)
        for each in (updates, null)
    ]
    for before, after in zip(*unfolded, strict=True):
        assert sorted(before.tolist()) == sorted(after.tolist())
    assert torch.equal(null, permuted_patches(updates, patch_size=patch_size, seed=1))
    assert not torch.equal(null, permuted_patches(updates, patch_size=patch_size, seed=2))


def test_noise_has_each_updates_norm():
    updates = torch.randn(4, 1, 5, 5) * torch.tensor([1e-6, 1, 0, 1e3]).view(4, 1, 1, 1)
    noise = equal_norm_noise(updates, seed=0)
    torch.testing.assert_close(noise.flatten(1).norm(dim=1), updates.flatten(1).norm(dim=1))
