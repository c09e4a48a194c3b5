"""One probe on one card."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from fitb_callbacks import FillInBlanks
from fitb_callbacks.plotting.at_a_glance import glance_picture
from fitb_callbacks.plotting.layout import RIGHT, Heading

GREEN = (0, 255, 0)
HEADING = Heading("fitb, epoch 3", "The filled-in structure looks like the classes.", "good")


def cells(classes, size=28):
    """Blue images whose fill is green."""
    model = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten(), torch.nn.Linear(12, classes))
    images = torch.tensor([0.0, 0.0, 1.0])[:, None, None].expand(classes, 3, size, size)
    result = FillInBlanks(num_masks=1, fill=None).probe(model, images, torch.arange(classes))
    settings = {**result.settings, "low": [0.0] * 3, "high": [1.0] * 3}
    return dataclasses.replace(result, filled=images.roll(-1, dims=1), settings=settings).cells()


@pytest.mark.parametrize("classes", [1, 2, 5, 10, 12, 40])
@pytest.mark.parametrize("size", [8, 64, pytest.param(224, marks=pytest.mark.slow)])
def test_it_fills_a_card_and_shows_up_to_twelve_classes(classes, size):
    picture = glance_picture(cells(max(classes, 2), size)[:classes], {"structure": [(0, 0.5)]}, {}, HEADING)
    assert picture.shape == (768, 900, 3)
    found = ndimage.find_objects(ndimage.label((picture == GREEN).all(axis=2))[0])
    large = [tile for tile in found if tile[0].stop - tile[0].start > 50]
    assert len(large) == min(classes, 12)


def ink_of_curves(curves):
    picture = glance_picture(cells(3), curves, {"structure": (0.2, 0.8)}, HEADING)
    return (picture[100:290] == RIGHT).all(axis=2)


def test_a_curve_rises_with_its_score():
    rising = ink_of_curves({"structure": [(0, 0.0), (1, 0.5), (2, 1.0)]})
    falling = ink_of_curves({"structure": [(0, 1.0), (1, 0.5), (2, 0.0)]})

    def slope(ink):
        rows, columns = np.nonzero(ink[60:])
        left, right = columns < 300, (columns > 550) & (columns < 850)
        return rows[left].mean() - rows[right].mean()

    assert slope(rising) > 30
    assert slope(falling) < -30


def test_undefined_scores_are_said_to_be_none():
    picture = glance_picture(cells(3), {"structure": [(0, math.nan)]}, {}, HEADING)
    assert picture.shape == (768, 900, 3)
    assert not np.array_equal(picture, glance_picture(cells(3), {"structure": [(0, 0.0)]}, {}, HEADING))
