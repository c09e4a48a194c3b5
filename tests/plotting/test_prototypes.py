"""The picture of a probe: large prototypes, in whatever classes, sizes and names there are."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from fitb_callbacks import FillInBlanks
from fitb_callbacks.plotting.prototypes import prototype_grid
from fitb_callbacks.plotting.tiles import to_rgb

CARD = (246, 210)  # room for a picture on MLflow's run page
GREEN, BLUE, EMPTY, RED = (0, 255, 0), (0, 0, 255), (225, 225, 225), (190, 30, 45)


def coloured(classes, height=28, width=28):
    """A probe of blue images whose prototypes are green, and right."""
    model = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten(), torch.nn.Linear(12, classes))
    images = torch.tensor([0.0, 0.0, 1.0])[:, None, None].expand(classes, 3, height, width)
    result = FillInBlanks(num_masks=1).probe(model, images, torch.arange(classes))
    return dataclasses.replace(
        result,
        prototypes=images.roll(-1, dims=1),
        predictions=result.labels,
        kept=torch.ones_like(result.kept),
        settings={**result.settings, "low": [0.0] * 3, "high": [1.0] * 3},
    )


def draw(result):
    return prototype_grid(result.cells())


def tiles(picture, colour):
    """Where there are tiles of this colour, as pairs of slices; letters have single pixels of it at their edges."""
    found = ndimage.find_objects(ndimage.label((picture == colour).all(axis=2))[0])
    return [tile for tile in found if min(sides(tile)) > 4]


def sides(tile):
    return tuple(part.stop - part.start for part in tile)


def test_the_prototypes_of_ten_classes_can_be_read_on_a_dashboards_card():
    picture = Image.fromarray(draw(coloured(10)))
    picture.thumbnail(CARD)
    red, green, blue = np.array(picture).transpose(2, 0, 1)
    found = ndimage.find_objects(ndimage.label((green > 200) & (red < 50) & (blue < 50))[0])
    assert len(found) == 10
    assert min(min(sides(tile)) for tile in found) >= 40


@pytest.mark.parametrize("classes", [1, 2, 3, 7, 10, 100])
@pytest.mark.parametrize(("height", "width"), [(28, 28), (32, 64), (64, 32), (224, 224), (2, 31)])
def test_each_class_has_a_large_prototype_above_its_image(classes, height, width):
    picture = draw(coloured(classes, height, width))
    prototypes, images = tiles(picture, GREEN), tiles(picture, BLUE)
    large = sides(prototypes[0])
    assert [sides(tile) for tile in prototypes] == [large] * classes
    assert max(large) >= 112
    assert large[0] / large[1] == pytest.approx(height / width, rel=0.02)
    below = {(tile[0].start, tile[1].start) for tile in images if sides(tile) == (large[0] // 2, large[1] // 2)}
    for tile in prototypes:
        assert any(0 < top - tile[0].stop < 80 and abs(left - tile[1].start) < 10 for top, left in below)
    legend = picture[max(tile[0].stop for tile in images) :]
    assert (legend < 100).any()


@pytest.mark.parametrize(("height", "width", "scale"), [(8, 8, 20), (28, 28, 6), (40, 20, 4), (112, 112, 2)])
def test_pixels_are_sharp_squares(height, width, scale):
    result = coloured(3, height, width)
    result.prototypes[1] = torch.rand(3, height, width)
    picture = draw(result)
    left, right = tiles(picture, GREEN)  # and in the middle between them
    column = (left[1].start + right[1].start) // 2
    pixels = to_rgb(result.prototypes[1], torch.zeros(3, 1, 1), torch.ones(3, 1, 1))
    expected = pixels.repeat(scale, axis=0).repeat(scale, axis=1)
    assert np.array_equal(picture[left[0], column : column + scale * width], expected)


def test_wrong_answers_and_missing_prototypes_are_red():
    right = coloured(10)
    assert not (draw(right) == RED).all(axis=2).any()
    wrong = dataclasses.replace(right, predictions=right.labels.roll(1))
    assert (draw(wrong) == RED).all(axis=2).any()

    kept, predictions = right.kept.clone(), right.predictions.clone()
    kept[3], predictions[3] = 0, -1
    picture = draw(dataclasses.replace(right, kept=kept, predictions=predictions))
    assert len(tiles(picture, GREEN)) == 9
    assert [sides(tile) for tile in tiles(picture, EMPTY)] == [(168, 168), (84, 84)]  # prototype and update
    assert (picture == RED).all(axis=2).any()


def test_names_are_as_large_as_the_longest_allows():
    def ink(names):
        picture = draw(dataclasses.replace(coloured(10), class_names=names))
        return (picture < 100).all(axis=2).any(axis=1).sum()

    assert ink(["a", "b"] * 5) > ink(["a", "b" * 20] * 5) > 0
    for name in ("x" * 300, "", "line\nbreak", "中文字", "\x00"):
        assert draw(dataclasses.replace(coloured(10), class_names=[name] * 10)).shape == (756, 954, 3)
