"""How far two probes of a training are apart."""

import math

import pytest
import torch

from fitb_callbacks.scoring.drift import class_means, drift


def test_drift_is_zero_for_the_same_updates_at_any_scale_and_names_nothing_where_nothing_is_shared():
    updates, labels = torch.randn(6, 1, 4, 4), torch.tensor([0, 0, 1, 1, 2, 2])
    covered = torch.tensor([True, True, True, False, False, False])
    means = class_means(updates, labels, covered, num_classes=3)
    scaled = class_means(updates * 1e-20, labels, covered, num_classes=3)
    assert drift(means, scaled) == pytest.approx(0, abs=1e-6)
    assert drift(means, -means) == pytest.approx(2)
    assert math.isnan(drift(means, torch.zeros_like(means)))
    assert not means[2].any()
