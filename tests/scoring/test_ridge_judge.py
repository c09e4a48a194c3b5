"""The ridge judge: what it can tell apart, and that it streams, merges and resumes in bounded memory."""

import io

import numpy as np
import pytest
import torch
from torch import nn

from fitb_callbacks import CentroidJudge, RidgeJudge
from fitb_callbacks.scoring.judges import judge_from_state
from fitb_callbacks.scoring.judges.base import label_ranks
from fitb_callbacks.scoring.judges.ridge import random_features


def shapes(number, seed, side=40):
    """A bright ring, cross or checked square on a dark colour, anywhere: class means show none of them."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(number) % 3
    images = 0.4 * torch.rand(number, 3, 1, 1, generator=generator).expand(-1, -1, side, side).clone()
    rows, columns = torch.meshgrid(torch.arange(12) - 5.5, torch.arange(12) - 5.5, indexing="ij")
    radius = (rows.square() + columns.square()).sqrt()
    stencils = [
        (radius - 4.5).abs() < 1.2,
        (rows.abs() < 1.2) | (columns.abs() < 1.2),
        (rows // 3 + columns // 3) % 2 == 0,
    ]
    for image, label in zip(images, labels.tolist(), strict=True):
        top, left = torch.randint(side - 12, (2,), generator=generator).tolist()
        colour = 0.6 + 0.4 * torch.rand(3, 1, generator=generator)
        image[:, top : top + 12, left : left + 12][:, stencils[label]] = colour
    return images, labels


def learned(images, labels, batch_size=64, **settings):
    judge = RidgeJudge(**settings)
    for chunk, answers in zip(images.split(batch_size), labels.split(batch_size), strict=True):
        judge.update(chunk, answers)
    return judge


def share_right(judge, images, labels):
    return (judge.classify(images) == labels).float().mean().item()


def test_it_tells_apart_unaligned_shapes_in_any_colour_where_class_means_cannot():
    images, labels = shapes(600, seed=0)
    means = CentroidJudge()
    means.update(images, labels)
    assert share_right(learned(images, labels), *shapes(150, seed=1)) > 0.85
    assert share_right(means, *shapes(150, seed=1)) < 0.6


def test_it_is_ridge_regression_on_its_features():
    sklearn = pytest.importorskip("sklearn.linear_model")
    images, labels = shapes(90, seed=2)
    features, others = random_features(images), random_features(shapes(20, seed=3)[0])
    scale = features.std(dim=0, correction=0)
    scale = scale + 0.1 * scale.mean()
    ridge = sklearn.Ridge(alpha=300 + 0.01 * 90, solver="cholesky")
    ridge.fit((features / scale).double().numpy(), np.eye(3)[labels])
    expected = ridge.predict((others / scale).double().numpy()) - np.eye(3)[labels].mean(0)
    np.testing.assert_allclose(learned(images, labels).scores(shapes(20, seed=3)[0]).numpy(), expected, atol=2e-4)


@pytest.mark.parametrize("batch_size", [7, 90])
def test_it_depends_neither_on_the_batches_nor_on_which_process_saw_them(batch_size):
    images, labels = shapes(90, seed=4)
    whole = learned(images, labels, batch_size)
    parts = learned(images[:37], labels[:37])
    parts.merge(learned(images[37:], labels[37:]))
    others = shapes(20, seed=5)[0]
    torch.testing.assert_close(parts.scores(others), whole.scores(others), rtol=0, atol=1e-4)
    torch.testing.assert_close(learned(images, labels).scores(others), whole.scores(others), rtol=0, atol=1e-4)


def test_it_learns_from_the_first_images_of_each_class_only_in_any_batches():
    images, labels = shapes(90, seed=6)
    judge = learned(images, labels, batch_size=8, images_per_class=5)
    assert judge.counts.tolist() == [5, 5, 5]
    torch.testing.assert_close(judge.class_sums, learned(images[:15], labels[:15]).class_sums)


def test_its_state_is_below_ten_megabytes_with_a_thousand_classes_and_loads_without_pickle():
    judge = RidgeJudge()
    judge.check((3, 224, 224), num_classes=1000)
    judge.update(torch.rand(8, 3, 224, 224), torch.arange(8))
    file = io.BytesIO()
    torch.save(judge.state_dict(), file)
    assert len(file.getvalue()) < 10e6
    file.seek(0)
    again = judge_from_state(torch.load(file, weights_only=True))
    images = torch.rand(4, 3, 224, 224)
    assert torch.equal(again.scores(images), judge.scores(images))


def test_scores_ignore_brightness_and_contrast_and_unseen_classes_and_flat_images_get_none():
    images, labels = shapes(60, seed=7)
    judge = learned(images, labels)
    judge.check((3, 40, 40), num_classes=5)
    others = shapes(10, seed=8)[0]
    torch.testing.assert_close(judge.scores(3 * others - 1), judge.scores(others), rtol=0, atol=1e-2)
    assert judge.scores(others)[:, 3:].isneginf().all()
    flat = torch.full((1, 3, 40, 40), 0.3)
    assert judge.scores(flat).isnan().all()
    assert judge.classify(flat).tolist() == [-1]
    assert label_ranks(judge.scores(flat), torch.tensor([1])).tolist() == [0.5]


@pytest.mark.parametrize("size", [(3, 3), (28, 28), (16, 200), (256, 256)])
def test_any_size_of_image_will_do(size):
    judge = RidgeJudge()
    images = torch.rand(6, 1, *size)
    judge.update(images, torch.arange(6) % 2)
    assert judge.scores(images).isfinite().all()


def test_a_module_can_give_the_features_and_is_left_as_it_was():
    backbone = nn.Sequential(nn.Conv2d(3, 40, 5), nn.BatchNorm2d(40), nn.ReLU(), nn.AdaptiveAvgPool2d(6), nn.Flatten())
    backbone.train()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    images, labels = shapes(300, seed=9)
    judge = learned(images, labels, features=backbone)
    assert judge.class_sums.shape == (3, 1152)  # of 1,440, projected
    assert share_right(judge, images, labels) > 0.6
    assert backbone.training
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())


def test_judges_of_other_kinds_are_not_merged():
    with pytest.raises(TypeError, match="other must be a RidgeJudge; got a CentroidJudge"):
        RidgeJudge().merge(CentroidJudge())


def test_ranks_count_ties_half_and_do_not_depend_on_the_scale():
    scores = torch.tensor([[3.0, 1.0, 2.0, 2.0], [1.0, 1.0, 1.0, 1.0]])
    assert label_ranks(scores, torch.tensor([2, 0])).tolist() == pytest.approx([0.5, 0.5])
    assert label_ranks(10 * scores, torch.tensor([0, 0])).tolist() == pytest.approx([1.0, 0.5])
