"""Means with the luck of the draw taken out: nearer to the truth, and to the same truth."""

import itertools

import pytest
import torch
from small_world import small_world
from torch import nn

from fitb_callbacks import FillInBlanks
from fitb_callbacks.probing.adjustment import patch_factors
from fitb_callbacks.probing.averaging import MOST_ANSWERS

SETTINGS = {"patch_size": 1, "baseline": 0.0, "tolerance": None}


def errors(updates, truth):
    return (updates - truth).flatten(1).norm(dim=1) / truth.flatten(1).norm(dim=1)


@pytest.mark.slow
@pytest.mark.parametrize(("num_masks", "most_bias"), [(64, 0.6), (256, 0.4)])
def test_the_adjusted_mean_is_nearer_to_the_truth_and_its_bias_goes_away_with_more_masks(num_masks, most_bias):
    model, images, labels, truth = small_world()
    found = {
        adjust: torch.stack(
            [
                FillInBlanks(num_masks=num_masks, seed=seed, adjust=adjust, **SETTINGS)
                .probe(model, images, labels)
                .updates
                for seed in range(24)
            ]
        )
        for adjust in (False, True)
    }
    apart = {
        adjust: torch.stack([errors(one, truth) for one in updates]).square().mean(0).sqrt().median()
        for adjust, updates in found.items()
    }
    assert apart[True] < 0.85 * apart[False]
    assert errors(found[True].mean(0), truth).median() < most_bias * apart[True]  # of 24 means: a fifth is noise


def test_factors_find_what_chance_did_where_the_truth_is_known():
    """Sizes that are exactly log-linear in the hidden patches: the expected size of each patch is their mean."""
    patches, hidden_ones = 10, 3
    generator = torch.Generator().manual_seed(0)
    every = torch.zeros(120, patches)
    for row, those in enumerate(itertools.combinations(range(patches), hidden_ones)):
        every[row, list(those)] = 1
    effects = torch.linspace(-1, 1, patches)
    drawn = every[torch.randperm(len(every), generator=generator)[:60]]
    doubt = (drawn @ effects - 4).exp()[:, None]
    factors = patch_factors(drawn, every, doubt, torch.ones_like(doubt).bool(), torch.ones(1, patches))[0]
    seen = (drawn * doubt).mean(0)
    true = (every * (every @ effects - 4).exp()[:, None]).mean(0)
    true, seen = true / true.mean(), seen / seen.mean()  # a factor that all patches share is not looked for
    before, after = (seen / true).log().std(), (factors * seen / true).log().std()
    assert before > 0.1
    assert after < before / 3


def test_nothing_is_adjusted_where_all_masks_are_alike():
    hidden = torch.eye(4).repeat(8, 1)
    factors = patch_factors(hidden, hidden, torch.full((32, 2), 0.3), torch.ones(32, 2).bool(), torch.rand(2, 4))
    torch.testing.assert_close(factors, torch.ones(2, 4))


@pytest.mark.parametrize("doubt", [1e-7, 1.0])
def test_extreme_models_and_blank_images_give_finite_means(doubt):
    hidden = torch.eye(4).repeat(8, 1)
    kept = torch.rand(32, 3, generator=torch.Generator().manual_seed(0)) > 0.5
    kept[:, 2] = False
    factors = patch_factors(hidden, hidden, torch.full((32, 3), doubt), kept, torch.zeros(3, 4))
    assert factors.isfinite().all()
    assert (factors[2] == 1).all()


def test_beyond_the_most_masks_and_without_adjustment_the_mean_is_the_plain_one():
    model, images, labels, _ = small_world()
    for number, same in ((MOST_ANSWERS, False), (MOST_ANSWERS + 8, True)):
        plain, adjusted = (
            FillInBlanks(num_masks=number, adjust=adjust, **SETTINGS).probe(model, images, labels).updates
            for adjust in (False, True)
        )
        assert torch.equal(plain, adjusted) is same


def test_the_adjustment_does_not_depend_on_chunks_or_on_other_images():
    model, images, labels, _ = small_world()
    whole = FillInBlanks(num_masks=96, chunk_size=512, **SETTINGS).probe(model, images, labels)
    parts = FillInBlanks(num_masks=96, chunk_size=7, **SETTINGS).probe(model, images[3:5], labels[3:5])
    torch.testing.assert_close(parts.updates, whole.updates[3:5], rtol=1e-3, atol=1e-6)


def test_patches_cut_off_at_the_edge_and_several_channels():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 7 * 10, 16), nn.Tanh(), nn.Linear(16, 3))
    images = torch.rand(4, 3, 7, 10)
    settings = {"num_masks": 64, "patch_size": 3, "target": "predicted", "tolerance": None}
    plain, adjusted = (FillInBlanks(adjust=adjust, **settings).probe(model, images).updates for adjust in (False, True))
    for top, left in itertools.product(range(0, 7, 3), range(0, 10, 3)):
        before, after = (mean[:, :, top : top + 3, left : left + 3].flatten(1) for mean in (plain, adjusted))
        cosine = torch.cosine_similarity(before, after)  # each half has a factor of its own, so it is not quite 1
        assert (cosine > 0.999).all()
    assert not torch.allclose(plain, adjusted, rtol=0.01)


def test_masks_under_which_a_model_breaks_down_are_left_out():
    model, images, labels, _ = small_world()

    def breaking(module, images):
        return torch.where(images[:, 0, 0, :1] == 0, torch.nan, module(images))  # where the first pixel is hidden

    plain, adjusted = (
        FillInBlanks(num_masks=256, adjust=adjust, **SETTINGS).probe(model, images, labels, logits_fn=breaking)
        for adjust in (False, True)
    )
    assert adjusted.metrics["nonfinite"] == plain.metrics["nonfinite"] > 0.2
    apart = errors(adjusted.updates, plain.updates)
    assert ((apart > 1e-4) & (apart < 0.3)).all()  # the other masks are adjusted all the same
