"""Where a model looks, in worlds where it is known."""

import pytest
import torch

from fitb_callbacks.probing.masks import hidden_patches
from fitb_callbacks.probing.reliance import Reliance, reliance, reliance_summary
from fitb_callbacks.utils.patch_grid import PatchGrid

GRID = PatchGrid(28, 28, 4)


def masks(number):
    return hidden_patches(torch.arange(number), GRID, mask_ratio=0.25, seed=0)


def answers(hidden, costs, noise=0.0):
    """Log p of one image per row of costs ``(N, P)``."""
    clean = -(hidden.float() @ costs.T)
    return clean + noise * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))


def test_a_patch_that_decides_everything_gets_all_of_the_mass():
    hidden = masks(128)
    costs = torch.zeros(5, 49)
    costs[torch.arange(5), torch.tensor([0, 8, 24, 30, 48])] = 3.0
    maps = reliance(hidden, answers(hidden, costs, noise=0.3))
    assert maps.argmax(dim=1).tolist() == [0, 8, 24, 30, 48]
    assert maps.max(dim=1).values.min() > 0.8
    torch.testing.assert_close(maps.sum(dim=1), torch.ones(5))


def test_noise_relies_on_hardly_anything_and_a_broad_object_on_many_patches():
    hidden = masks(256)
    broad = torch.zeros(1, 49)
    broad[0, 14:35] = 1.0
    maps = reliance(hidden, answers(hidden, broad, noise=0.3))
    assert maps[0, 14:35].sum() > 0.9
    assert (maps[0] > 0.01).sum() >= 18
    nothing = reliance(hidden, answers(hidden, torch.zeros(40, 49), noise=1.0))
    assert (nothing > 0).float().mean() < 0.06


def test_it_does_not_depend_on_the_scale_of_the_logits():
    hidden = masks(128)
    costs = torch.rand(6, 49, generator=torch.Generator().manual_seed(2)) ** 4
    log_p = answers(hidden, costs, noise=0.2)
    torch.testing.assert_close(reliance(hidden, 10 * log_p), reliance(hidden, log_p))
    torch.testing.assert_close(reliance(hidden, -((-log_p + 5) ** 3)), reliance(hidden, log_p))


def test_only_the_masks_that_an_image_had_are_read():
    hidden = masks(128)
    costs = torch.zeros(2, 49)
    costs[:, 7] = 2.0
    log_p = answers(hidden, costs, noise=0.2)
    spoiled = log_p.clone()
    spoiled[64:, 1] = torch.nan
    maps = reliance(hidden, spoiled, tried=torch.tensor([128, 64]))
    torch.testing.assert_close(maps[0], reliance(hidden, log_p)[0])
    torch.testing.assert_close(maps[1], reliance(hidden[:64], log_p[:64])[1])


@pytest.mark.parametrize("log_p", [torch.zeros(32, 2), torch.full((32, 2), torch.nan), torch.zeros(0, 2)])
def test_answers_that_say_nothing_give_an_empty_map(log_p):
    assert torch.equal(reliance(masks(len(log_p)), log_p), torch.zeros(2, 49))


def test_the_summary_tells_a_mark_from_an_object():
    mark, anywhere = torch.zeros(20, 49), torch.zeros(20, 49)
    mark[:, 48] = 1
    anywhere[torch.arange(20), (torch.arange(20) * 7) % 49] = 1
    found = reliance_summary(mark, GRID)
    assert (found.share, found.same_place, found.row, found.column) == (1, 1, 6, 6)
    assert found.area == pytest.approx(1 / 49)
    assert found.place(GRID) == "at the lower right"
    assert reliance_summary(anywhere, GRID).same_place < 0.5
    assert reliance_summary(torch.zeros(3, 49), GRID).share == 0


@pytest.mark.parametrize(
    ("row", "column", "words"),
    [(0, 3, "at the top"), (3, 3, "in the middle"), (3, 0, "at the left"), (0, 0, "at the upper left")],
)
def test_places_have_names(row, column, words):
    assert Reliance(1, 0.1, 1, row, column, 0.1).place(GRID) == words


def test_the_precision_of_a_training_does_not_matter():
    hidden = torch.rand(200, 9, generator=torch.Generator().manual_seed(0)) < 0.25
    log_p = -4.0 * hidden[:, 5:6].float()
    expected = reliance(hidden, log_p)
    with torch.autocast("cpu", dtype=torch.float16):
        assert torch.equal(reliance(hidden, log_p), expected)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(reliance(hidden, log_p), expected)
    finally:
        torch.set_default_dtype(torch.float32)
