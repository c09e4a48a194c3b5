"""Which cue decides: each keeps what it says, and models that go by one alone are found out."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fitb_callbacks.probing.cues import CUES, cue_profile, mixed

LABELS = torch.arange(40) % 4


def tinted():
    """Noise, brighter by class."""
    noise = 0.2 * torch.rand(40, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    return noise + 0.2 * LABELS[:, None, None, None]


def framed():
    """Noise in a frame of the class's grey."""
    images = torch.rand(40, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    framed = (0.25 * LABELS[:, None, None, None]).expand_as(images).clone()
    framed[..., 2:-2, 2:-2] = images[..., 2:-2, 2:-2]
    return framed


def shaded():
    """Noise with one bright quarter."""
    images = 0.2 * torch.rand(40, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    for image, label in zip(images, LABELS.tolist(), strict=True):
        top, left = 14 * (label // 2), 14 * (label % 2)
        image[:, top : top + 14, left : left + 14] += 0.6
    return images


def nearest(value, targets):
    """A classifier of a measured value: the class whose target is nearest."""
    return lambda images: -(value(images)[:, None] - torch.tensor(targets)).abs()


WORLDS = {
    "colour": (tinted, nearest(lambda x: x.mean(dim=(1, 2, 3)), [0.1, 0.3, 0.5, 0.7])),
    "rim": (framed, nearest(lambda x: x[..., 0, :].mean(dim=(1, 2)), [0.0, 0.25, 0.5, 0.75])),
    "shading": (shaded, lambda x: F.adaptive_avg_pool2d(x, 2).flatten(1)),
}


@pytest.mark.parametrize("cue", WORLDS)
def test_a_model_that_goes_by_one_cue_names_the_image_that_the_cue_is_from(cue):
    make, classify = WORLDS[cue]
    profile = cue_profile(classify, make(), LABELS)
    assert set(profile) == set(CUES)
    assert profile[cue].rate == 1
    assert profile[cue].low > 0.9
    assert profile[cue].chance == pytest.approx(0.25)
    assert profile[cue].excess == pytest.approx(1)


def test_a_cue_that_is_not_used_does_not_suffice():
    images, by_rim = framed(), WORLDS["rim"][1]
    assert cue_profile(by_rim, images, LABELS)["centre"].excess < 0.1
    assert cue_profile(WORLDS["shading"][1], shaded(), LABELS)["colour"].excess < 0.1


def test_a_constant_answer_is_chance_even_if_one_class_dominates():
    labels = torch.tensor([0] * 30 + [1] * 10)
    always_zero = lambda images: torch.tensor([1.0, 0.0]).expand(len(images), 2)  # noqa: E731
    for cue in cue_profile(always_zero, torch.rand(40, 3, 16, 16), labels).values():
        assert cue.rate == cue.chance == 0.75
        assert cue.excess == 0


@pytest.mark.parametrize("shape", [(2, 1, 3, 3), (2, 3, 64, 40), (1, 1, 28, 28)])
@pytest.mark.parametrize("cue", CUES)
def test_mixtures_have_the_shape_and_range_of_the_images_and_leave_them_as_they_were(cue, shape):
    images = torch.rand(shape)
    before = images.clone()
    mixture = mixed(cue, images, 3 * torch.rand(shape))
    assert mixture.shape == images.shape
    assert mixture.min() >= images.min()
    assert mixture.max() <= images.max()
    assert torch.equal(images, before)


def test_rim_and_centre_come_from_one_image_each_and_shuffling_loses_nothing():
    images, others = torch.rand(2, 3, 2, 28, 28, generator=torch.Generator().manual_seed(0))
    others = others.clamp(images.min(), images.max())
    rim, centre = mixed("rim", images, others), mixed("centre", images, others)
    assert torch.equal(rim[..., 4:-4, 4:-4], others[..., 4:-4, 4:-4])
    assert torch.equal(rim[..., :3, :], images[..., :3, :])
    assert torch.equal(centre[..., :6, :], others[..., :6, :])
    assert torch.equal(centre[..., 8:-8, 8:-8], images[..., 8:-8, 8:-8])
    shuffled = mixed("shuffled", images, others)
    torch.testing.assert_close(shuffled.flatten(2).sort().values, images.flatten(2).sort().values)
    assert not torch.equal(shuffled, images)


def test_the_rest_is_of_another_class():
    images = torch.zeros(12, 1, 8, 8) + torch.arange(12).view(-1, 1, 1, 1)
    labels = torch.arange(12) % 3
    seen = []

    def classify(batch):
        seen.append(batch.clone())
        return torch.zeros(len(batch), 3)

    cue_profile(classify, images, labels)
    inside = seen[list(CUES).index("rim") + 1][:, 0, 4, 4].long()  # shuffled patches take two passes
    assert (labels[inside] != labels).all()


def test_a_module_is_asked_without_gradients():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    cue_profile(model, torch.rand(6, 1, 8, 8), torch.arange(6) % 3)
    assert all(parameter.grad is None for parameter in model.parameters())
