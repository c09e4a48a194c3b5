"""Rates, nulls, shape, intervals, comparisons over training, and the headline made of them."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score
from torch import nn

from fitb_callbacks import FillInBlanks, FillInBlanksResult
from fitb_callbacks.plotting.confusion import confusion_picture
from fitb_callbacks.probing.judging import judged, structure
from fitb_callbacks.scoring.catalogue import METRICS
from fitb_callbacks.scoring.classification import answer_counts, rates, self_consistency
from fitb_callbacks.scoring.drift import class_means, drift
from fitb_callbacks.scoring.intervals import wilson_interval
from fitb_callbacks.scoring.judges.centroid import CentroidJudge
from fitb_callbacks.scoring.nulls import equal_norm_noise, permuted_patches
from fitb_callbacks.scoring.update_quality import effective_area, split_half_reliability


@pytest.mark.parametrize("seed", range(5))
def test_rates_are_those_of_scikit_learn_with_no_answer_as_a_wrong_one(seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (30,), generator=generator)
    predictions = torch.randint(-1, 5, (30,), generator=generator)
    found = rates(predictions, labels, num_classes=5)
    present = sorted(set(labels.tolist()))
    assert found["accuracy"] == pytest.approx(accuracy_score(labels, predictions))
    for average in ("macro", "weighted"):
        expected = f1_score(labels, predictions, labels=present, average=average, zero_division=0)
        assert found[f"f1_{average}"] == pytest.approx(expected)


def test_uncovered_images_count_as_wrong_beside_the_papers_rates():
    labels, predictions = torch.tensor([0, 0, 1, 1]), torch.tensor([0, -1, -1, -1])
    scores = self_consistency(predictions, labels, predictions >= 0, num_classes=2)
    assert scores["accuracy"] == scores["f1_macro"] == scores["f1_weighted"] == 1
    assert scores["accuracy_all"] == scores["coverage"] == 0.25
    assert scores["f1_macro_all"] == pytest.approx((2 / 3 + 0) / 2)


def test_without_a_covered_image_the_papers_rates_are_undefined_and_the_others_zero():
    labels = torch.tensor([0, 1])
    scores = self_consistency(torch.tensor([-1, -1]), labels, torch.zeros(2, dtype=torch.bool), num_classes=2)
    assert all(math.isnan(scores[name]) for name in ("accuracy", "f1_macro", "f1_weighted"))
    assert all(scores[name] == 0 for name in ("accuracy_all", "f1_macro_all", "f1_weighted_all", "coverage"))


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
        FillInBlanks(num_masks=64, seed=seed, target="predicted").probe(model, images, labels) for seed in (1, 2)
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
        FillInBlanks(num_masks=32, mask_ratio=0.5, seed=seed, target="predicted", adjust=adjust).probe(
            model, images, labels
        )
        for seed in range(40)
    ]
    spread = torch.stack([probe.updates for probe in probes]).std(0).mean()
    claimed = torch.stack([probe.standard_error for probe in probes]).mean()
    assert 0.5 < (spread / claimed).item() < 1.3  # masks in partitions do a little better than independent ones


def test_interval_covers_the_true_rate_about_as_often_as_it_says():
    generator = np.random.default_rng(0)
    for true, number in ((0.5, 20), (0.9, 40), (0.98, 100)):
        drawn = generator.binomial(number, true, 2000) / number
        covered = [low <= true <= high for low, high in (wilson_interval(rate, number) for rate in drawn)]
        assert 0.91 < np.mean(covered) < 0.99
    assert all(math.isnan(end) for end in wilson_interval(0.5, 0))


def test_drift_is_zero_for_the_same_updates_at_any_scale_and_names_nothing_where_nothing_is_shared():
    updates, labels = torch.randn(6, 1, 4, 4), torch.tensor([0, 0, 1, 1, 2, 2])
    covered = torch.tensor([True, True, True, False, False, False])
    means = class_means(updates, labels, covered, num_classes=3)
    scaled = class_means(updates * 1e-20, labels, covered, num_classes=3)
    assert drift(means, scaled) == pytest.approx(0, abs=1e-6)
    assert drift(means, -means) == pytest.approx(2)
    assert math.isnan(drift(means, torch.zeros_like(means)))
    assert not means[2].any()


@pytest.fixture
def probed():
    """A linear model whose weights are its classes' pictures, and a judge that knows these."""
    torch.manual_seed(0)
    pictures = torch.zeros(3, 1, 9, 9)
    for label in range(3):
        pictures[label, :, 3 * label : 3 * label + 3] = 1
    images = 0.1 * torch.rand(30, 1, 9, 9) + pictures.repeat(10, 1, 1, 1)
    labels = torch.arange(30) % 3
    model = nn.Sequential(nn.Flatten(), nn.Linear(81, 3, bias=False))
    model[1].weight.data = 0.05 * pictures.flatten(1)  # small, so that the softmax does not saturate
    judge = CentroidJudge()
    judge.update(images, labels)
    return FillInBlanks(num_masks=16).probe(model, images, labels, judge=judge), judge


def test_a_model_of_its_classes_pictures_has_structure(probed):
    result, _ = probed
    assert result.metrics["judge_accuracy"] == 1
    assert result.metrics["null_accuracy"] < 0.6
    assert result.metrics["structure"] == pytest.approx(1)


def test_the_same_ink_without_structure_has_none(probed):
    result, judge = probed
    shuffled = permuted_patches(result.updates, patch_size=1, seed=5)
    prototypes = (shuffled > 0.05 * shuffled.flatten(1).amax(1).view(-1, 1, 1, 1)).float()
    broken = judged(replace(result, updates=shuffled, prototypes=prototypes), judge)
    assert broken.metrics["structure"] < 0.3


def test_a_spot_that_the_judge_knows_has_little_structure():
    assert structure(1, 0.1, area=0.01) < 0.1
    assert structure(0.1, 0.3, area=0.3) == 0
    assert structure(0.0, 0.0, area=math.nan) == 0
    assert structure(1.0, 1.0, area=0.3) == 0  # a judge that is always right tells nothing


def test_every_score_is_documented_and_within_its_interval(probed):
    result, _ = probed
    assert set(result.metrics) <= set(METRICS)
    assert {"accuracy", "accuracy_all", "coverage", "judge_accuracy", "null_accuracy", "structure"} <= set(
        result.intervals
    )
    for name, (low, high) in result.intervals.items():
        assert low <= result.metrics[name] <= high, name


def test_results_with_a_judge_survive_saving(probed, tmp_path):
    result, _ = probed
    result.save(tmp_path / "probe.npz")
    again = FillInBlanksResult.load(tmp_path / "probe.npz")
    for name in ("judged", "standard_error", "reliability", "updates"):
        torch.testing.assert_close(getattr(again, name), getattr(result, name), equal_nan=True)
    assert again.metrics == result.metrics
    assert again.intervals == result.intervals
    assert again.per_class == result.per_class


def test_tables_by_class_add_up(probed):
    result, _ = probed
    wrong = replace(result, predictions=result.predictions.clone(), judged=result.judged.clone())
    wrong.predictions[:3] = torch.tensor([1, 1, -1])
    wrong.judged[0] = 2
    assert wrong.per_class["accuracy"] == pytest.approx([0.9, 1.0, 0.9])
    assert wrong.per_class["judge_accuracy"] == pytest.approx([0.9, 1.0, 1.0])
    assert wrong.confusion.tolist() == [[9, 1, 0], [0, 10, 0], [0, 0, 9]]


def test_the_confusion_picture_is_green_on_the_diagonal_and_red_beside_it(probed):
    result, _ = probed
    counts = answer_counts(result.labels, result.labels, [0, 1, 2])
    shifted = answer_counts(result.labels, (result.labels + 1) % 3, [0, 1, 2])
    right = confusion_picture({"model": counts, "judge": counts}, ["a", "b", "c"])
    wrong = confusion_picture({"model": shifted}, ["a", "b", "c"])

    def green_and_red(picture):
        red, green, blue = (picture[..., channel].astype(int) for channel in range(3))
        return ((green > red + 50) & (green > blue)).sum(), ((red > green + 100) & (red > blue)).sum()

    assert green_and_red(right)[0] > 1000
    assert green_and_red(right)[1] == 0
    assert green_and_red(wrong)[0] == 0
    assert green_and_red(wrong)[1] > 1000
    assert right.shape[1] > 1.5 * wrong.shape[1]  # two panels with a judge, one without
