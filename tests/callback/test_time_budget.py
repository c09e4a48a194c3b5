"""The share of the training's time that probes may take."""

import itertools

import pytest

from fitb_callbacks import FillInBlanksCallback
from fitb_callbacks.callback.time_budget import ProbeSize, TimeBudget
from small_module import SmallModule

WANTED = ProbeSize(masks=256, images=40)
PER_MASKED_IMAGE = 1e-3  # seconds, in this made-up world


def run(max_overhead, *, epoch, epochs=50):
    """Epochs of so many seconds on a machine of a known speed: the sizes of the probes, and all time they took."""
    budget = TimeBudget(max_overhead)
    budget.measure(ProbeSize(8, 8), 64 * PER_MASKED_IMAGE)
    sizes, total = [], 0.0
    for _ in range(epochs):
        budget.trained(epoch)
        size = budget.size(WANTED)
        if not budget.due(size)[0]:
            sizes.append(None)
            continue
        limit = budget.limit()
        masks = size.masks if limit is None else min(size.masks, max(64, int(limit / PER_MASKED_IMAGE / size.images)))
        masks = min(masks, size.masks)
        seconds = PER_MASKED_IMAGE * masks * size.images
        budget.spend(size, seconds, masks_made=masks)
        sizes.append((masks, size.images))
        total += seconds
    return sizes, total


@pytest.mark.parametrize("epoch", [0.1, 1, 3, 10, 60, 1000])
def test_all_probes_but_the_first_stay_within_the_share(epoch):
    sizes, total = run(0.05, epoch=epoch)
    first = PER_MASKED_IMAGE * sizes[0][0] * sizes[0][1]
    assert total - first <= 0.05 * 50 * epoch + 1e-9
    if epoch >= 3:
        assert total <= 0.05 * 50 * epoch + 1e-9


def test_fewer_masks_then_fewer_images_then_not_every_epoch():
    assert run(0.05, epoch=1000)[0] == [(256, 40)] * 50
    assert run(0.05, epoch=60)[0][0] == (75, 40)
    assert run(0.05, epoch=30)[0] == [(32, 40)] * 50
    assert run(0.05, epoch=10)[0] == [(16, 20)] * 50
    few, _ = run(0.05, epoch=1)
    assert few[0] == (16, 8)
    assert few.count(None) == 50 - 1 - few[1:].count((16, 8)) > 20


def test_sizes_never_grow_again():
    for epoch in (0.1, 1, 10, 60):
        sizes = [size for size in run(0.05, epoch=epoch)[0] if size is not None]
        assert all(later <= earlier for earlier, later in itertools.pairwise(sizes))


def test_no_limit_is_no_limit():
    assert run(None, epoch=0.001)[0] == [(256, 40)] * 50


def test_short_epochs_are_probed_once_and_said_so(trainer, loaders):
    callback = FillInBlanksCallback(num_masks=20_000, max_overhead=1e-6, tolerance=None)
    run = trainer(callbacks=[callback], max_epochs=3)
    with pytest.warns(UserWarning, match="not every chance is taken to probe.*max_overhead=None") as said:
        run.fit(SmallModule(), *loaders)
    assert len([each for each in said if "FillInBlanks" in str(each.message)]) == 1
    assert [entry["epoch"] for entry in callback.history] == [0]
    assert callback.result.tried.unique().tolist() == [16]
    assert len(callback.result.images) == 8
    assert callback.history[0]["overhead"] > 1e-6


def test_no_limit_makes_all_masks(trainer, loaders):
    callback = FillInBlanksCallback(num_masks=100, max_overhead=None, tolerance=None)
    trainer(callbacks=[callback]).fit(SmallModule(), *loaders)
    assert callback.result.tried.unique().tolist() == [100]


def test_a_resumed_run_keeps_to_the_size():
    budget, again = TimeBudget(0.5), TimeBudget(0.5)
    budget.measure(ProbeSize(1, 1), 1.0)
    budget.trained(200)
    assert budget.size(WANTED) == ProbeSize(16, 8)
    again.load_state_dict(budget.state_dict())
    assert again.size(WANTED) == ProbeSize(16, 8)


@pytest.mark.parametrize(
    ("value", "error"), [(0, ValueError), (-0.1, ValueError), ("much", TypeError), (True, TypeError)]
)
def test_wrong_shares(value, error):
    with pytest.raises(error, match="max_overhead must be a number greater than 0"):
        FillInBlanksCallback(max_overhead=value)
