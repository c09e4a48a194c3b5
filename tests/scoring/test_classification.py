"""Rates of right answers, and the headline made of them with a judge."""

import math
from dataclasses import replace

import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score
from torch import nn

from fitb_callbacks import FillInBlanks, FillInBlanksResult
from fitb_callbacks.probing.judging import judged
from fitb_callbacks.scoring.catalogue import METRICS
from fitb_callbacks.scoring.classification import rates, self_consistency
from fitb_callbacks.scoring.judges.centroid import CentroidJudge
from fitb_callbacks.scoring.nulls import permuted_patches


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
    assert result.metrics["knows"] == 1
    assert result.metrics["structure"] == pytest.approx(1 - result.metrics["shortcut"])


def test_the_same_ink_without_structure_has_none(probed):
    result, judge = probed
    shuffled = permuted_patches(result.updates, patch_size=1, seed=5)
    prototypes = (shuffled > 0.05 * shuffled.flatten(1).amax(1).view(-1, 1, 1, 1)).float()
    broken = judged(replace(result, updates=shuffled, prototypes=prototypes, filled=prototypes), judge)
    assert broken.metrics["knows"] < 0.6


def test_a_judge_that_cannot_tell_the_classes_apart_gives_no_structure(probed):
    result, _ = probed
    blind = CentroidJudge()
    blind.update(torch.rand(300, 1, 9, 9, generator=torch.Generator().manual_seed(1)), torch.arange(300) % 3)
    found = judged(result, blind)
    assert math.isnan(found.metrics["structure"])
    without_cues = {name: value for name, value in found.metrics.items() if not name.startswith("cue_")}
    said = replace(found, metrics=without_cues).interpretation()
    assert said["headline"] == "The judge cannot tell these classes apart."


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
