"""When an image has had enough masks."""

import pytest
import torch
from small_world import small_world

from fitb_callbacks import FillInBlanks
from fitb_callbacks.probing.masks import random_masks
from fitb_callbacks.utils.patch_grid import PatchGrid


@pytest.mark.slow
@pytest.mark.parametrize("tolerance", [0.2, 0.1])
def test_an_image_that_stops_is_as_near_the_truth_as_was_asked(tolerance):
    model, images, labels, truth = small_world()
    errors, stopped = [], 0
    for seed in range(30):
        probe = FillInBlanks(num_masks=2000, tolerance=tolerance, patch_size=1, seed=seed, baseline=0.0)
        result = probe.probe(model, images, labels)
        early = result.tried < 2000
        stopped += int(early.sum())
        error = (result.updates - truth)[early].flatten(1).norm(dim=1) / truth[early].flatten(1).norm(dim=1)
        errors.append(error)
    errors = torch.cat(errors)
    assert stopped > 0.9 * 30 * len(images)
    assert (errors <= tolerance).float().mean() >= 0.9
    assert errors.median() > 0.3 * tolerance  # and not by making far more masks than needed


def test_images_stop_on_their_own_and_a_tighter_tolerance_takes_more_masks():
    model, images, labels, _ = small_world()
    settings = {"num_masks": 4000, "patch_size": 1, "baseline": 0.0}
    loose = FillInBlanks(tolerance=0.2, **settings).probe(model, images, labels)
    tight = FillInBlanks(tolerance=0.1, **settings).probe(model, images, labels)
    assert len(set(loose.tried.tolist())) > 1
    assert loose.tried.min() >= 64
    assert (tight.tried >= loose.tried).all()
    assert tight.tried.sum() > 2 * loose.tried.sum()
    # What an image gets is what it would get from so many masks alone.
    last_of_each = {tried: index for index, tried in enumerate(loose.tried.tolist())}
    for tried, index in last_of_each.items():
        alone = FillInBlanks(**{**settings, "num_masks": tried}, tolerance=None).probe(model, images, labels)
        torch.testing.assert_close(alone.updates[index], loose.updates[index], rtol=1e-4, atol=1e-6)
        assert alone.kept[index] == loose.kept[index]


def test_an_image_that_the_model_never_recognises_gets_all_masks():
    model, images, labels, _ = small_world()
    wrong = (labels + 1) % 3
    result = FillInBlanks(num_masks=400, tolerance=10.0, patch_size=1).probe(model, images, wrong)
    assert (result.tried[~result.covered] == 400).all()
    assert (~result.covered).any()


@pytest.mark.parametrize("masking", ["random", "progressive"])
def test_a_time_limit_ends_the_probe_after_the_first_masks(masking):
    model, images, labels, _ = small_world()
    probe = FillInBlanks(masking=masking, num_masks=10_000, patch_size=1, tolerance=None)
    result = probe.probe(model, images, labels, seconds=1e-9)
    assert result.out_of_time
    assert result.tried.unique().tolist() == [64]
    assert result.settings["num_masks"] == 64
    unhurried = FillInBlanks(masking=masking, num_masks=128, patch_size=1, tolerance=None)
    assert not unhurried.probe(model, images, labels, seconds=1e9).out_of_time


def test_masks_of_an_early_stop_are_the_first_ones():
    few, many = (
        random_masks(torch.arange(number), PatchGrid(8, 8, 2), mask_ratio=0.25, seed=3) for number in (64, 200)
    )
    assert torch.equal(few, many[:64])


@pytest.mark.parametrize(
    ("value", "error"), [(0, ValueError), (-0.1, ValueError), ("much", TypeError), (True, TypeError)]
)
def test_wrong_tolerances(value, error):
    with pytest.raises(error, match="tolerance must be a number greater than 0"):
        FillInBlanks(tolerance=value)
