"""Where a model looks, in worlds where it is known."""

import pytest
import torch

from fitb_callbacks.probing.masks import hidden_patches
from fitb_callbacks.probing.reliance import Reliance, block_masks, margins, reliance, reliance_summary, top_patches
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
    torch.testing.assert_close(reliance(hidden, log_p + 100), reliance(hidden, log_p), atol=1e-4, rtol=0)


def test_an_answer_that_is_not_finite_counts_as_lost():
    hidden = masks(128)
    costs = torch.zeros(1, 49)
    costs[:, 7] = 2.0
    log_p = answers(hidden, costs, noise=0.2)
    spoiled = log_p.masked_fill(hidden[:, 7:8], torch.nan)
    assert reliance(hidden, spoiled)[0].argmax() == 7


def test_blocks_hide_a_quarter_at_four_offsets_and_do_not_depend_on_how_many_there_are():
    hidden = block_masks(64, GRID, seed=3)
    assert hidden.shape == (64, 49)
    assert torch.equal(hidden[:10], block_masks(10, GRID, seed=3))
    assert not torch.equal(hidden, block_masks(64, GRID, seed=4))
    assert hidden.float().mean() == pytest.approx(0.25, abs=0.03)
    # Neighbours are often hidden together, and each pair of them in some mask but not in another
    laid = hidden.view(-1, 7, 7)
    for pair in (laid[:, :, :-1] & laid[:, :, 1:], laid[:, :-1] & laid[:, 1:]):
        assert pair.float().mean() > 0.12
    for pair in (laid[:, :, :-1] ^ laid[:, :, 1:], laid[:, :-1] ^ laid[:, 1:]):
        assert pair.any(dim=0).all()


def test_margins_are_those_of_the_images_under_the_masks():
    images, labels = torch.rand(3, 2, 8, 8), torch.tensor([0, 2, 1])
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(128, 3))
    grid, baseline = PatchGrid(8, 8, 2), torch.tensor([0.2, 0.7])[:, None, None]
    hidden = block_masks(9, grid, seed=0)
    found = margins(model, images, labels, hidden, grid=grid, baseline=baseline, chunk_size=4)
    for number, mask in enumerate(grid.to_pixels(hidden)):
        logits = model(torch.where(mask, baseline, images)).detach()
        for index, label in enumerate(labels.tolist()):
            others = [value for name, value in enumerate(logits[index].tolist()) if name != label]
            assert found[number, index].item() == pytest.approx(logits[index, label].item() - max(others), abs=1e-5)


def test_the_summary_finds_a_place_for_each_class():
    labels = torch.arange(20) % 2
    maps = torch.zeros(20, 49)
    maps[torch.arange(20), torch.tensor([0, 48])[labels]] = 1
    found = reliance_summary(maps, GRID, labels)
    assert found.class_place == 1
    assert found.same_place == 0.5
    assert reliance_summary(maps, GRID, torch.arange(20) // 2).class_place == 0  # neighbours of different places
    assert reliance_summary(maps, GRID, torch.arange(20)).class_place == 0  # no classmates


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


def test_rounding_does_not_decide_between_patches_that_matter_alike():
    """Two processes and one differ by that much, and few masks hide neighbouring patches always together."""
    grid = PatchGrid(8, 8, 1)
    hidden = block_masks(13, grid, seed=0)
    columns = hidden.T.tolist()
    one = next(patch for patch in range(63) if columns[patch] == columns[patch + 1] and any(columns[patch]))
    margin = -4.0 * hidden[:, [one] * 4].float()
    maps = reliance(hidden, margin)
    assert maps[:, one].tolist() == pytest.approx(maps[:, one + 1].tolist(), rel=1e-5)
    for patch in (one, one + 1):
        rounded = maps.clone()
        rounded[:2, patch] *= 1 + 1e-6
        assert top_patches(rounded).tolist() == top_patches(maps).tolist()
        assert reliance_summary(rounded, grid).place(grid) == reliance_summary(maps, grid).place(grid)
    rounded[:, 60] = 2.0  # a clear winner still wins
    assert top_patches(rounded).tolist() == [60] * 4
