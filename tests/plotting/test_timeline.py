"""The timeline: one picture of a whole training, small however long it is."""

import dataclasses
import itertools

import pytest
import torch
from scipy import ndimage

from fitb_callbacks import FillInBlanks
from fitb_callbacks.plotting.tiles import prototype_tile
from fitb_callbacks.plotting.timeline import Timeline, timeline_picture


@pytest.fixture(scope="module")
def result(trained, digits):
    images, labels = (tensor[1400:1450] for tensor in digits.tensors)
    return FillInBlanks(num_masks=8).probe(trained, images, labels)


def numbered(result, number):
    """The result with prototypes that tell which it is."""
    return dataclasses.replace(result, prototypes=torch.full_like(result.prototypes, number / 1000))


def prototypes(result):
    return [prototype_tile(cell) for cell in result.cells()]


def names(result):
    return [cell.name for cell in result.cells()]


@pytest.mark.parametrize("probes", [1, 2, 12, 13, 24, 25, 100, 500])
def test_columns_are_evenly_spaced_and_end_with_the_last_probe(result, probes):
    timeline = Timeline()
    for epoch in range(probes):
        timeline = timeline.with_probe(prototypes(numbered(result, epoch)), 10 + epoch)
        timeline = Timeline.from_state_dict(timeline.state_dict())  # a resumed run goes on the same way
    kept = timeline.kept
    assert (kept[0], kept[-1]) == (0, probes - 1)
    assert len({later - earlier for earlier, later in itertools.pairwise(kept[:-1])}) <= 1
    assert len(kept) <= 13
    assert len(kept) >= min(probes, 7)
    assert timeline.epochs == tuple(10 + probe for probe in kept)
    # each column holds the tiles of its own probe: the highest value of these images is 1
    shown = timeline.tiles[:, :, 0, 0, 0].unique(dim=1).squeeze(1).tolist()
    assert shown == [round(255 * probe / 1000) for probe in kept]


def test_tiles_of_large_images_are_small():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(48, 30))
    images = torch.rand(30, 3, 224, 112)
    result = FillInBlanks(num_masks=1, fill=None).probe(model, images, torch.arange(30))
    assert Timeline().with_probe(prototypes(result), 0).tiles.shape == (1, 20, 56, 28, 3)


@pytest.mark.parametrize(("epochs", "blocks"), [(1, 2), (2, 2), (5, 1), (14, 1)])
def test_the_picture_has_a_row_a_class_and_a_column_an_epoch(result, epochs, blocks):
    result, timeline = numbered(result, 100), Timeline()  # dark all over
    for epoch in range(epochs):
        timeline = timeline.with_probe(prototypes(result), epoch)
    picture = timeline_picture(timeline, names(result), result.heading("fitb"))
    assert picture.shape[1] == 900
    found = ndimage.find_objects(ndimage.label((picture == 26).all(axis=2))[0])
    whole = [tile for tile in found if tile[0].stop - tile[0].start >= 48]
    assert len(whole) == len(timeline.epochs) * len(result.labels.unique())
    assert len({tile[1].start for tile in whole}) == blocks * len(timeline.epochs)
    assert len({tile[0].start for tile in whole}) == len(result.labels.unique()) / blocks
    assert len({(tile[0].stop - tile[0].start) % 8 for tile in whole}) == 1  # 8 pixels, enlarged by a whole factor


def test_scores_stay_with_their_epochs(result):
    timeline = Timeline()
    for epoch in range(30):
        timeline = timeline.with_probe(prototypes(result), epoch, {"coverage": epoch / 100})
    again = Timeline.from_state_dict(timeline.state_dict())
    assert [scores["coverage"] for scores in again.scores] == [epoch / 100 for epoch in again.epochs]


def test_the_untrained_network_has_the_first_column(result):
    known, unknown = names(result)[:-1], names(result)[-1]
    timeline = Timeline.beginning(known, prototypes(numbered(result, 50))[:-1])
    for epoch in range(30):
        timeline = Timeline.from_state_dict(timeline.state_dict()).with_probe(prototypes(numbered(result, 100)), epoch)
    assert set(timeline.before) == set(known)
    picture = timeline_picture(timeline, [*known, unknown])
    left, right = (
        [
            tile
            for tile in ndimage.find_objects(ndimage.label((picture == shade).all(axis=2))[0])
            if tile[0].stop - tile[0].start >= 24
        ]
        for shade in (round(255 * 0.05), round(255 * 0.1))
    )
    assert len(left) == len(known)
    assert len(right) == len(timeline.epochs) * (len(known) + 1)
    assert max(tile[1].stop for tile in left) < min(tile[1].start for tile in right)


def test_a_timeline_of_the_version_before_can_be_loaded(result):
    state = Timeline().with_probe(prototypes(result), 0).state_dict()
    del state["before"]
    assert Timeline.from_state_dict(state).before == {}
