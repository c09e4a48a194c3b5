"""How much of an image an update covers, and how well it is known."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from fitb_callbacks import FillInBlanks
from fitb_callbacks.scoring.update_quality import effective_area, split_half_reliability


def test_area_counts_the_pixels_of_a_flat_spot_at_any_scale_and_is_one_in_pi_for_noise():
    spot = torch.zeros(2, 1, 10, 10)
    spot[:, :, :2, :5] = torch.tensor([1.0, 1e-30]).view(2, 1, 1, 1)
    spot[:, :, 5:] = -1
    assert effective_area(spot).tolist() == pytest.approx([0.1, 0.1])
    assert effective_area(torch.randn(1, 3, 200, 200)).item() == pytest.approx(1 / math.pi, abs=0.01)
    assert effective_area(-torch.ones(1, 1, 2, 2)).item() == 0


def test_reliability_predicts_the_correlation_of_two_full_probes():
    images, labels = torch.rand(6, 1, 10, 10), torch.arange(6) % 3
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(100, 64), nn.Tanh(), nn.Linear(64, 3))
    one, other = (
        FillInBlanks(num_masks=64, seed=seed, target="predicted", baseline="low", fill=None).probe(
            model, images, labels
        )
        for seed in (1, 2)
    )
    correlation = [
        np.corrcoef(a.flatten(), b.flatten())[0, 1]
        for a, b in zip(one.updates.numpy(), other.updates.numpy(), strict=True)
    ]
    assert np.mean(correlation) < 0.999
    assert one.metrics["reliability"] == pytest.approx(np.mean(correlation), abs=0.05)


def test_reliability_of_chance_flat_and_tiny_updates():
    first, second = torch.randn(200, 1, 20, 20), torch.randn(200, 1, 20, 20)
    assert split_half_reliability(first, second).mean().item() < 0.06
    assert split_half_reliability(first, torch.zeros_like(first)).isnan().all()
    torch.testing.assert_close(split_half_reliability(first * 1e-30, first), torch.ones(200))


@pytest.mark.parametrize("adjust", [False, True])
def test_standard_error_is_the_spread_of_the_mean_over_seeds(adjust):
    torch.manual_seed(2)  # a model that is not nearly linear: there partitions leave far less than independent masks
    images, labels = torch.rand(2, 1, 6, 6), torch.tensor([0, 1])
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.Tanh(), nn.Linear(16, 2))
    probes = [
        FillInBlanks(
            num_masks=32, mask_ratio=0.5, baseline="low", fill=None, seed=seed, target="predicted", adjust=adjust
        ).probe(model, images, labels)
        for seed in range(40)
    ]
    spread = torch.stack([probe.updates for probe in probes]).std(0).mean()
    claimed = torch.stack([probe.standard_error for probe in probes]).mean()
    assert 0.5 < (spread / claimed).item() < 1.3  # masks in partitions do a little better than independent ones
