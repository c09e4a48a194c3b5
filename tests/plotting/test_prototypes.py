"""The picture of a probe: large prototypes, in whatever classes, sizes and names there are."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy import ndimage

from fitb_callbacks import FillInBlanks
from fitb_callbacks.plotting.layout import RIGHT, WIDTH, WRONG, Heading, heading_strip
from fitb_callbacks.plotting.prototypes import prototype_grid
from fitb_callbacks.plotting.tiles import BLANK, overlay, to_rgb

GREEN, BLUE, EMPTY = (0, 255, 0), (0, 0, 255), BLANK


def coloured(classes, height=28, width=28):
    """A probe of blue images whose prototypes are green, and right."""
    model = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten(), torch.nn.Linear(12, classes))
    images = torch.tensor([0.0, 0.0, 1.0])[:, None, None].expand(classes, 3, height, width)
    result = FillInBlanks(num_masks=1, fill=None).probe(model, images, torch.arange(classes))
    return dataclasses.replace(
        result,
        prototypes=images.roll(-1, dims=1),
        predictions=result.labels,
        kept=torch.ones_like(result.kept),
        settings={**result.settings, "low": [0.0] * 3, "high": [1.0] * 3},
    )


def draw(result):
    return prototype_grid(result.cells(), result.heading("fitb, epoch 3"))


def tiles(picture, colour):
    """Where there are tiles of this colour, as pairs of slices; letters have single pixels of it at their edges."""
    found = ndimage.find_objects(ndimage.label((picture == colour).all(axis=2))[0])
    return [tile for tile in found if min(sides(tile)) > 4]


def sides(tile):
    return tuple(part.stop - part.start for part in tile)


@pytest.mark.parametrize("classes", [1, 2, 3, 7, 20])
@pytest.mark.parametrize(("height", "width"), [(28, 28), (32, 64), (64, 32), (224, 224), (2, 31)])
def test_each_class_has_a_large_prototype_above_its_image(classes, height, width):
    picture = draw(coloured(classes, height, width))
    assert picture.shape[1] == WIDTH
    prototypes, images = tiles(picture, GREEN), tiles(picture, BLUE)
    large = sides(prototypes[0])
    assert [sides(tile) for tile in prototypes] == [large] * classes
    assert max(large) >= 180
    assert large[0] / large[1] == pytest.approx(height / width, rel=0.02)
    for tile in prototypes:
        below = [image for image in images if 0 < image[0].start - tile[0].stop < 80]
        assert any(image[1].start == pytest.approx(tile[1].start, abs=10) for image in below)
        assert all(sides(image)[0] < 0.55 * large[0] + 1 for image in below)


@pytest.mark.parametrize(("height", "width", "scale"), [(8, 8, 35), (28, 28, 10), (40, 20, 7)])
def test_pixels_are_sharp_squares(height, width, scale):
    result = coloured(3, height, width)
    result.prototypes[1] = torch.rand(3, height, width)
    picture = draw(result)
    left, right = tiles(picture, GREEN)  # and in the middle between them
    column = (left[1].start + right[1].start) // 2
    pixels = to_rgb(result.prototypes[1], torch.zeros(3, 1, 1), torch.ones(3, 1, 1))
    expected = pixels.repeat(scale, axis=0).repeat(scale, axis=1)
    assert np.array_equal(picture[left[0], column : column + scale * width], expected)


@pytest.mark.parametrize(("ground", "outlined"), [(1.0, True), (0.9, False)])
def test_where_a_white_tile_ends_is_seen_on_the_white_page(ground, outlined):
    result = coloured(2)
    result.prototypes[0], result.prototypes[0][:, 9:19, 9:19] = ground, 0.0
    picture = draw(result)
    dark = next(tile for tile in tiles(picture, (0, 0, 0)) if sides(tile)[0] > 50)
    large = sides(tiles(picture, GREEN)[0])[0]
    middle = (dark[0].start + dark[0].stop) // 2
    end = dark[1].start - (large - sides(dark)[1]) // 2  # the dark square is in the middle of its tile
    rim, outside = picture[middle, end], picture[middle, end - 1]
    assert (outside == 255).all()
    assert (rim < 255).all()
    assert (picture[middle, end + 1] != rim).any() == outlined


def test_of_many_classes_twenty_are_drawn():
    assert len(tiles(draw(coloured(100)), GREEN)) == 20


def below_heading(result):
    """The picture without the bar that says what the scores mean."""
    return draw(result)[heading_strip(result.heading("fitb, epoch 3")).height :]


def has(picture, colour):
    return (picture == colour).all(axis=2).any()


def test_right_wrong_and_missing_answers_differ_in_colour_and_sign():
    right = coloured(10)
    wrong = dataclasses.replace(right, predictions=right.labels.roll(1))
    assert has(below_heading(right), RIGHT)
    assert not has(below_heading(right), WRONG)
    assert has(below_heading(wrong), WRONG)
    assert not has(below_heading(wrong), RIGHT)
    # one name for all: what still differs without colour is the sign
    same = [dataclasses.replace(result, class_names=["a"] * 10) for result in (right, wrong)]
    grey = [(below_heading(result).max(axis=2) < 250) for result in same]
    assert (grey[0] != grey[1]).sum() > 100

    kept, predictions = right.kept.clone(), right.predictions.clone()
    kept[3], predictions[3] = 0, -1
    picture = draw(dataclasses.replace(right, kept=kept, predictions=predictions, reliance=None))
    assert len(tiles(picture, GREEN)) == 9
    assert [sides(tile) for tile in tiles(picture, EMPTY)] == [(196, 196), (84, 84)]  # prototype and map


@pytest.mark.parametrize(
    "name", ["x" * 300, "x" * 10_000, "", "line\nbreak", "中文字", "\x00", "great white shark " * 9]
)
def test_any_name_leaves_the_layout_as_it_is(name):
    shape = draw(coloured(10)).shape
    assert draw(dataclasses.replace(coloured(10), class_names=[name] * 10)).shape == shape


def test_the_fill_takes_the_place_of_the_prototype_and_reliance_that_of_the_update():
    result = coloured(4)
    red = torch.tensor([1.0, 0.0, 0.0])[:, None, None].expand(4, 3, 28, 28)
    map_of_patches = torch.zeros(4, 2, 2)
    map_of_patches[:, 0, 0], map_of_patches[:, 1, 1] = 1, -1
    picture = draw(dataclasses.replace(result, filled=red, reliance=map_of_patches))
    assert len(tiles(picture, (255, 0, 0))) == 4
    assert not tiles(picture, GREEN)
    cell = dataclasses.replace(result, filled=red, reliance=map_of_patches).cells()[0]
    shown = overlay(cell.image, cell.reliance[None], cell.low, cell.high).astype(int)
    upper, lower = shown[0, 0], shown[-1, -1]
    assert upper[0] > upper[2] + 40  # orange
    assert lower[2] > lower[0] + 40  # blue
    assert (shown[0, -1] == shown[-1, 0]).all()  # nothing there


def lightness(colour):
    """Relative luminance (WCAG 2)."""
    channels = np.array(colour) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("colour", [RIGHT, WRONG])
def test_text_stands_out_from_white(colour):
    assert 1.05 / (lightness(colour) + 0.05) >= 4.5


def test_right_and_wrong_differ_for_every_kind_of_colour_vision():
    # what people without one kind of cones see: Machado, Oliveira and Fernandes (2009), severity 1, sRGB
    matrices = {
        "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
        "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
        "tritanopia": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
    }
    for matrix in matrices.values():
        right, wrong = (np.array(matrix) @ np.array(colour) for colour in (RIGHT, WRONG))
        assert np.abs(right - wrong).sum() > 150


def test_a_heading_says_what_is_shown_and_wraps():
    short = heading_strip(Heading("fitb, epoch 3", "The model looks at a small spot.", "bad"))
    long = heading_strip(Heading("fitb, epoch 3 " * 30, "The model looks at a small spot.", "bad"))
    assert short.width == long.width == WIDTH
    assert long.height > short.height
    assert has(np.array(short), WRONG)
