"""Self-consistency, against scikit-learn."""

import math

import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score

from fitb_callbacks.metrics import METRICS, metrics_table
from fitb_callbacks.scores import self_consistency


def test_the_papers_three_numbers_over_covered_images():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 5, (200,), generator=generator)
    predictions = torch.where(torch.rand(200, generator=generator) < 0.6, labels, labels.flip(0))
    covered = torch.rand(200, generator=generator) < 0.8
    ours = self_consistency(predictions, labels, covered, num_classes=5)
    true, predicted = labels[covered].numpy(), predictions[covered].numpy()
    assert ours["accuracy"] == pytest.approx(accuracy_score(true, predicted))
    assert ours["f1_macro"] == pytest.approx(f1_score(true, predicted, average="macro"))
    assert ours["f1_weighted"] == pytest.approx(f1_score(true, predicted, average="weighted"))
    assert ours["coverage"] == pytest.approx(covered.float().mean().item())


def test_a_class_without_a_covered_image_is_missing_not_zero():
    labels, predictions = torch.tensor([0, 0, 1, 2]), torch.tensor([0, 0, 1, -1])
    covered = torch.tensor([True, True, True, False])
    ours = self_consistency(predictions, labels, covered, num_classes=4)
    assert ours["f1_macro"] == 1.0
    # Not even if another class's prototype is taken for it.
    ours = self_consistency(torch.tensor([0, 2, 1, -1]), labels, covered, num_classes=4)
    assert ours["f1_macro"] == pytest.approx((2 / 3 + 1) / 2)


def test_nothing_covered_is_undefined():
    ours = self_consistency(torch.tensor([-1]), torch.tensor([0]), torch.tensor([False]), num_classes=2)
    assert ours["coverage"] == 0.0
    assert all(math.isnan(ours[key]) for key in ("accuracy", "f1_macro", "f1_weighted"))


def test_every_score_is_documented():
    assert set(self_consistency(torch.tensor([0]), torch.tensor([0]), torch.tensor([True]), num_classes=2)) <= set(
        METRICS
    )
    assert all(f"`mine/{key}`" in metrics_table("mine") for key in METRICS)
