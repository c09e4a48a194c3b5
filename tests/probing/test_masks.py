"""Masks: their share, their distribution, and that they depend on seed and index alone."""

import pytest
import torch

from fitb_callbacks.probing.masks import random_masks
from fitb_callbacks.utils.patch_grid import PatchGrid


def masks(indices, side=28, patch=2, ratio=0.25, seed=0, height=None):
    return random_masks(indices, PatchGrid(height or side, side, patch), mask_ratio=ratio, seed=seed)


def test_a_mask_depends_on_its_index_alone():
    together = masks(torch.arange(100))
    alone = torch.cat([masks(torch.tensor([index])) for index in range(100)])
    backwards = masks(torch.arange(99, -1, -1)).flip(0)
    assert torch.equal(together, alone)
    assert torch.equal(together, backwards)


def test_seeds_give_other_masks():
    assert not torch.equal(masks(torch.arange(4), seed=0), masks(torch.arange(4), seed=1))
    assert not torch.equal(masks(torch.arange(4)), masks(torch.arange(4, 8)))


@pytest.mark.parametrize("ratio", [0.01, 0.1, 0.25, 0.3, 0.5, 0.75, 0.99])
def test_every_mask_hides_the_same_share(ratio):
    hidden = (~masks(torch.arange(64), patch=1, ratio=ratio)).flatten(1).sum(1)
    assert (hidden == max(1, min(783, round(ratio * 784)))).all()


@pytest.mark.parametrize(("height", "side", "patch"), [(28, 28, 3), (7, 5, 2), (1, 9, 1), (33, 20, 8)])
def test_masks_are_made_of_whole_patches_cut_at_the_edges(height, side, patch):
    for visible in masks(torch.arange(20), side=side, height=height, patch=patch):
        assert visible.shape == (height, side)
        for top in range(0, height, patch):
            for left in range(0, side, patch):
                assert len(visible[top : top + patch, left : left + patch].unique()) == 1


def test_every_patch_is_hidden_equally_often_and_patches_are_independent_of_their_place():
    hidden = (~masks(torch.arange(4000), side=6, patch=1)).flatten(1).double()
    assert torch.allclose(hidden.mean(0), torch.tensor(0.25, dtype=torch.float64))  # four masks are a partition
    # Uniform masks of 9 out of 36 patches hide a given pair with probability 9/36 * 8/35.
    pairs = hidden.T @ hidden / len(hidden)
    expected = 9 / 36 * 8 / 35
    deviation = (pairs - expected)[~torch.eye(36, dtype=torch.bool)].abs().max()
    assert deviation < 6 * (expected * (1 - expected) / len(hidden)) ** 0.5


def test_independent_rounds_are_uncorrelated():
    hidden = (~masks(torch.arange(0, 8000, 4), side=6, patch=1)).flatten(1).double()  # one mask a round
    following = (hidden[:-1] * hidden[1:]).mean(0)
    assert (following - 0.0625).abs().max() < 6 * (0.0625 * 0.9375 / 2000) ** 0.5
