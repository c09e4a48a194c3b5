"""The share of the training's time that probes may take."""

import itertools

import pytest
from lightning.pytorch.callbacks import EarlyStopping

from fitb_callbacks import FillInBlanksCallback
from fitb_callbacks.callback.time_budget import ProbeSize, TimeBudget
from small_module import SmallModule

WANTED = ProbeSize(masks=256, images=40)
PER_MASKED_IMAGE = 1e-3  # seconds, in this made-up world


def run(max_overhead, *, epoch, epochs=50, aside=0.0):
    """Epochs of so many seconds on a machine of a known speed: the sizes of the probes, and all time they took.

    Beside its masks, each probe takes some seconds aside, for pictures. The last epoch is the last chance.
    """
    budget = TimeBudget(max_overhead)
    budget.measure(ProbeSize(8, 8), 64 * PER_MASKED_IMAGE)
    sizes, total, written = [], 0.0, 0.0
    for number in range(epochs):
        budget.trained(epoch)
        budget.spend_aside(written)
        written = 0.0
        size = budget.size(WANTED)
        if not budget.due(size, wanted_now=number == epochs - 1)[0]:
            sizes.append(None)
            continue
        limit = budget.limit(size)
        masks = size.masks if limit is None else min(size.masks, max(64, int(limit / PER_MASKED_IMAGE / size.images)))
        masks = min(masks, size.masks)
        seconds, written = PER_MASKED_IMAGE * masks * size.images, aside
        budget.spend(size, seconds, masks_made=masks)
        sizes.append((masks, size.images))
        total += seconds + written
    return sizes, total


@pytest.mark.parametrize("aside", [0, 0.3])
@pytest.mark.parametrize("epoch", [0.05, 0.1, 1, 3, 10, 60, 1000])
def test_the_share_is_kept(epoch, aside):
    """In long runs; a single probe of a short run comes last."""
    sizes, total = run(0.05, epoch=epoch, aside=aside)
    number = sum(size is not None for size in sizes)
    assert number >= 1
    # A probe is predicted from the one before: the first knows nothing of what comes beside it
    assert total - aside <= 0.05 * 50 * epoch + 1e-9 or (number == 1 and sizes[-1] is not None)


def test_fewer_masks_then_fewer_images_then_not_every_epoch():
    assert run(0.05, epoch=1000)[0] == [(256, 40)] * 50
    assert run(0.05, epoch=60)[0][0] == (75, 40)
    assert run(0.05, epoch=30)[0] == [(32, 40)] * 50
    assert run(0.05, epoch=10)[0] == [(16, 20)] * 50
    few, _ = run(0.05, epoch=1)
    assert few[:3] == [None, None, (16, 8)]
    assert few.count(None) == 50 - few.count((16, 8)) > 20
    assert run(0.05, epoch=0.04)[0] == [None] * 49 + [(16, 8)]


def test_sizes_never_grow_again():
    for epoch in (0.1, 1, 10, 60):
        sizes = [size for size in run(0.05, epoch=epoch)[0] if size is not None]
        assert all(later <= earlier for earlier, later in itertools.pairwise(sizes))


def test_no_limit_is_no_limit():
    assert run(None, epoch=0.001)[0] == [(256, 40)] * 50


def test_what_comes_beside_the_masks_is_counted():
    budget = TimeBudget(0.5)
    with budget.aside():
        pass
    assert 0 < budget.take_aside() < 1
    assert budget.take_aside() == 0
    budget.trained(10)
    budget.spend_aside(2)
    assert budget.allowed == 3
    budget.measure(ProbeSize(1, 1), 0.01, gradients_beside_masks=100)
    assert budget.limit(ProbeSize(16, 2)) == pytest.approx(3 - 2)


def said_by(run, module, *loaders):
    with pytest.warns(UserWarning, match="FillInBlanksCallback") as said:
        run.fit(module, *loaders)
    return [str(each.message) for each in said if "FillInBlanks" in str(each.message)]


def test_without_time_the_one_probe_comes_last_and_is_said_once(trainer, loaders):
    callback = FillInBlanksCallback(num_masks=20_000, max_overhead=1e-6, tolerance=None)
    (said,) = said_by(trainer(callbacks=[callback], max_epochs=3), SmallModule(), *loaders)
    assert "the first probe waits" in said
    assert "max_overhead=1e-06 leaves" in said
    assert [entry["epoch"] for entry in callback.history] == [2]
    assert callback.result.tried.unique().tolist() == [16]
    assert len(callback.result.images) == 8


def test_a_run_that_is_stopped_before_there_was_time_is_probed_at_its_end(trainer, loaders):
    callback = FillInBlanksCallback(max_overhead=1e-6)
    said_by(trainer(callbacks=[callback], max_epochs=-1, max_steps=7), SmallModule(), *loaders)
    assert [entry["step"] for entry in callback.history] == [6]


def test_a_score_that_is_monitored_does_not_wait(trainer, loaders):
    callback = FillInBlanksCallback(max_overhead=1e-6)
    stopping = EarlyStopping("fitb/coverage", patience=9)
    (said,) = said_by(trainer(callbacks=[callback, stopping], max_epochs=3), SmallModule(), *loaders)
    assert "not every chance is taken to probe" in said
    assert [entry["epoch"] for entry in callback.history] == [0]


def test_no_limit_makes_all_masks(trainer, loaders):
    callback = FillInBlanksCallback(num_masks=100, max_overhead=None, tolerance=None)
    trainer(callbacks=[callback]).fit(SmallModule(), *loaders)
    assert callback.result.tried.unique().tolist() == [100]


def test_a_resumed_run_keeps_to_the_size():
    budget, again = TimeBudget(0.5), TimeBudget(0.5)
    budget.measure(ProbeSize(1, 1), 1.0)
    budget.trained(200)
    assert budget.size(WANTED) == ProbeSize(16, 8)
    budget.spend(ProbeSize(16, 8), 1.0)
    again.load_state_dict(budget.state_dict())
    assert again.size(WANTED) == ProbeSize(16, 8)


@pytest.mark.parametrize(
    ("value", "error"), [(0, ValueError), (-0.1, ValueError), ("much", TypeError), (True, TypeError)]
)
def test_wrong_shares(value, error):
    with pytest.raises(error, match="max_overhead must be a number greater than 0"):
        FillInBlanksCallback(max_overhead=value)
