"""Trusted images try the model, too: one that goes by what they lack is found out, whatever it goes by."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fitb_callbacks import FillInBlanks, RidgeJudge

PROBE = FillInBlanks(num_masks=16, chunk_size=256)


@pytest.fixture(scope="module")
def splits(digits):
    """Images and labels to train on, to probe and to trust."""
    return [
        tuple(tensor[some] for tensor in digits.tensors) for some in (slice(800), slice(800, 840), slice(900, 1400))
    ]


@pytest.fixture(scope="module")
def judge(splits):
    return RidgeJudge.from_reference(splits[2], image_shape=(1, 8, 8), num_classes=10)


def coded(images, labels):
    """The class in the signs of four faint pixels, scattered so that no spot, place, rim or shading holds them all."""
    bits = torch.stack([(labels >> bit & 1).float() for bit in range(4)], dim=1)
    images = images.clone()
    for (row, column), bit in zip(((1, 1), (2, 6), (5, 2), (6, 5)), bits.T, strict=True):
        images[:, 0, row, column] = 0.45 + 0.3 * bit
    return images


def learned(images, labels):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return model.eval()


def test_a_model_that_goes_by_what_trusted_images_lack_is_red(splits, judge):
    (images, labels), (probed, answers), _ = splits
    noise = torch.where(
        torch.rand(len(labels), generator=torch.Generator().manual_seed(0)) < 0.7, labels.flip(0), labels
    )
    model = learned(coded(images, noise), noise)  # only the code goes with these labels
    found = PROBE.probe(model, coded(probed, answers), answers, judge=judge)
    with torch.no_grad():
        expected = (model(judge.reference[0]).argmax(dim=1) == judge.reference[1]).float().mean().item()
    assert found.metrics["reference_accuracy"] == pytest.approx(expected)
    assert found.metrics["image_accuracy"] > 0.9
    assert found.metrics["reference_accuracy"] < 0.4
    assert found.metrics["structure"] < 0.1
    assert found.interpretation()["tone"] == "bad"


def test_a_healthy_model_is_as_right_on_trusted_images(splits, judge):
    found = PROBE.probe(learned(*splits[0]), *splits[1], judge=judge)
    assert found.metrics["reference_accuracy"] > 0.8
    assert found.metrics["shortcut"] == 0
    assert "reference_spot" not in found.metrics  # nothing to ask about
    low, high = found.intervals["reference_accuracy"]
    assert low < found.metrics["reference_accuracy"] < high
    assert found.intervals["structure"][0] < found.metrics["structure"] <= found.intervals["structure"][1]


def test_without_trusted_images_there_is_no_such_score(splits):
    judge = RidgeJudge()
    judge.update(*splits[0])
    found = PROBE.probe(learned(*splits[0]), *splits[1], judge=judge)
    assert "reference_accuracy" not in found.metrics


def test_the_headline_falls_with_accuracy_even_if_a_judge_agrees(splits, judge):
    model, (images, labels) = learned(*splits[0]), splits[1]
    right = PROBE.probe(model, images, labels, judge=judge).metrics
    half = torch.where(torch.arange(40) % 2 == 0, labels, (labels + 1) % 10)
    wrong = PROBE.probe(model, images, half, judge=judge).metrics
    assert wrong["image_accuracy"] < 0.6 * right["image_accuracy"]
    assert wrong["structure"] < right["structure"]
