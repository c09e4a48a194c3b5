"""A class may be a small thing, as a lesion is: trusted images tell it from a mark."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fitb_callbacks import FillInBlanks, RidgeJudge

PROBE = FillInBlanks(num_masks=64, chunk_size=256, fill=None)
SIDE = 28


def pictures(number, seed, *, dots, sides):
    """Soft noise, with a dark or a bright dot somewhere, and brighter on the left or on the right."""
    drawn = torch.Generator().manual_seed(seed)
    labels = torch.arange(number) % 2
    images = F.interpolate(torch.rand(number, 1, 7, 7, generator=drawn) * 0.2 + 0.3, (SIDE, SIDE), mode="bilinear")
    corners = torch.randint(1, SIDE - 4, (number, 2), generator=drawn).tolist()
    for image, label, (row, column) in zip(images, labels.tolist(), corners, strict=True):
        if sides:
            image[0].chunk(2, dim=1)[label].add_(0.15)
        if dots:
            image[0, row : row + 3, column : column + 3] = label
    return images, labels


class Reader(nn.Module):
    """Goes by the dot, and where there is none by the side."""

    def forward(self, images):
        means = F.avg_pool2d(images, 3, stride=1).flatten(1)
        dot = 100 * ((means.amax(dim=1) - 0.75).relu() - (0.2 - means.amin(dim=1)).relu())
        left, right = (half.mean(dim=(1, 2, 3)) for half in images.chunk(2, dim=3))
        answer = dot + 20 * (right - left)
        return torch.stack([-answer, answer], dim=1)


@pytest.fixture(scope="module")
def probed():
    return pictures(40, 0, dots=True, sides=True)


def trusting(**kind):
    return RidgeJudge.from_reference(pictures(80, 1, **kind), image_shape=(1, SIDE, SIDE), num_classes=2)


def test_without_trusted_images_nobody_can_tell(probed):
    found = PROBE.probe(Reader(), *probed)
    assert found.metrics["cue_spot"] > 0.9
    said = found.interpretation()
    assert said["tone"] == "unclear"
    assert said["headline"] == "The model goes by one small spot, wherever it is."
    assert "reference=" in said["reason"]


def test_what_trusted_images_show_is_no_shortcut(probed):
    found = PROBE.probe(Reader(), *probed, judge=trusting(dots=True, sides=False))
    assert found.metrics["reference_accuracy"] == 1
    assert found.metrics["reference_spot"] > 0.9
    assert found.metrics["shortcut"] == 0
    assert found.interpretation()["tone"] != "bad"


def test_a_mark_that_trusted_images_lack_is_one_though_the_model_is_right_on_them(probed):
    found = PROBE.probe(Reader(), *probed, judge=trusting(dots=False, sides=True))
    assert found.metrics["reference_accuracy"] == 1
    assert found.metrics["reference_spot"] < 0.2
    assert found.metrics["shortcut"] == 1
    assert found.interpretation()["headline"] == "The model looks at one small spot."


def test_what_is_told_by_its_shading_may_be():
    shapes = pictures(40, 0, dots=False, sides=True)
    assert PROBE.probe(Reader(), *shapes).metrics["shortcut"] == 1
    found = PROBE.probe(Reader(), *shapes, judge=trusting(dots=False, sides=True))
    assert found.metrics["shortcut"] < 0.3
    assert found.metrics["structure"] > 0.5
