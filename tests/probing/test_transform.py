"""The threshold transform, against the same written with NumPy."""

import numpy as np
import pytest
import torch

from fitb_callbacks.probing.transform import prototype, threshold

UPDATE = torch.randn(3, 2, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def by_numpy(update, normalize, binarize):
    rows = []
    for row in update.numpy():
        if normalize == "max_abs":
            row = row / np.abs(row).max()
        elif normalize == "rms":
            row = row / (2 * np.sqrt((row**2).mean()))
        elif normalize == "min_max":
            row = (row - row.min()) / (row.max() - row.min())
        elif normalize == "z_score":
            row = (row - row.mean()) / row.std()
        rows.append(row if binarize is None else (row > binarize).astype(float))
    return torch.tensor(np.array(rows))


@pytest.mark.parametrize("normalize", ["rms", "max_abs", "min_max", "z_score", None])
@pytest.mark.parametrize("binarize", [None, 0.05, 0.5])
def test_stages(normalize, binarize):
    ours = threshold(UPDATE, normalize=normalize, binarize=binarize)
    assert torch.allclose(ours, by_numpy(UPDATE, normalize, binarize))


@pytest.mark.parametrize("normalize", ["rms", "max_abs", "min_max", "z_score", None])
def test_a_flat_update_gives_zeros(normalize):
    assert (threshold(torch.zeros(2, 1, 3, 3), normalize=normalize, binarize=None) == 0).all()


def test_the_scale_of_an_update_does_not_matter():
    for normalize in ("rms", "max_abs", "min_max", "z_score"):
        a = threshold(UPDATE, normalize=normalize, binarize=None)
        assert torch.allclose(a, threshold(UPDATE * 1e-9, normalize=normalize, binarize=None))


def test_visible_pixels_do_not_count_for_the_root_mean_square():
    masked = torch.arange(UPDATE[0].numel()).view(UPDATE[0].shape) % 4 == 0
    step = threshold(UPDATE * masked)
    assert (step[:, ~masked] == 0).all()
    alone = threshold(UPDATE[:, masked][:, None, None])
    assert torch.allclose(step[:, masked], alone.flatten(1))


def test_prototypes_keep_to_each_channels_values():
    low, high = torch.tensor([-2.0, 0.0]).view(2, 1, 1), torch.tensor([3.0, 1.0]).view(2, 1, 1)
    binary = prototype(UPDATE.float(), low=low, high=high, baseline=low, binarize=0.05)
    for channel in range(2):
        assert set(binary[:, channel].unique().tolist()) == {low[channel].item(), high[channel].item()}
    grey = torch.tensor([0.5, 0.5]).view(2, 1, 1)
    shades = prototype(UPDATE.float(), low=low, high=high, baseline=grey, binarize=None)
    assert (shades >= low).all()
    assert (shades <= high).all()
    assert torch.equal(
        prototype(torch.zeros(1, 2, 3, 3), low=low, high=high, baseline=grey, binarize=None)[0], grey.expand(2, 3, 3)
    )
