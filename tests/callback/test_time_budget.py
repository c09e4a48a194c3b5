"""The share of the training's time that probes may take."""

import itertools
import warnings

import pytest
from lightning.pytorch.callbacks import EarlyStopping

from fitb_callbacks import FillInBlanksCallback
from fitb_callbacks.callback.time_budget import FLOOR_SECONDS, ProbeSize, Speeds, TimeBudget
from small_module import SmallModule

WANTED = ProbeSize(masks=256, images=40)
PER_MASKED_IMAGE = 1e-3  # seconds, in this made-up world
SPEEDS = Speeds(masked_image=PER_MASKED_IMAGE, image=10 * PER_MASKED_IMAGE, filled_image=60 * PER_MASKED_IMAGE)
SMALLEST = 8 * (16 + 10) * PER_MASKED_IMAGE


def run(max_overhead, *, epoch, epochs=50, aside=0.0, speeds=SPEEDS):
    """Epochs of so many seconds on a machine of known speeds: the sizes of the probes, and all time they took.

    Beside its masks, each probe takes some seconds aside, for pictures. The last epoch is the last chance.
    """
    budget = TimeBudget(max_overhead)
    budget.measure(speeds)
    sizes, total, written = [], 0.0, 0.0
    for number in range(epochs):
        budget.trained(epoch)
        budget.spend_aside(written)
        written = 0.0
        size, _ = budget.plan(WANTED, cannot_wait=number == epochs - 1)
        if size is None:
            sizes.append(None)
            continue
        limit, beside = budget.limit(size), speeds.beside(size) * size.images
        affordable = size.masks if limit is None else int(limit / speeds.masked_image / size.images)
        masks = min(size.masks, max(64, affordable))
        seconds, written = speeds.masked_image * masks * size.images + beside, aside
        budget.spend(size, seconds, masks_made=masks)
        sizes.append((masks, size.images, size.fill))
        total += seconds + written
    return sizes, total


@pytest.mark.parametrize("aside", [0, 0.3])
@pytest.mark.parametrize("speed", [1, 20])
@pytest.mark.parametrize("epoch", [0.05, 0.1, 1, 3, 10, 60, 1000])
def test_the_share_is_kept_or_two_seconds(epoch, aside, speed):
    """Also on a machine that is 20 times slower, for which many of these runs are too short."""
    speeds = Speeds(*(speed * seconds for seconds in SPEEDS))
    sizes, total = run("auto", epoch=epoch, aside=aside, speeds=speeds)
    # A probe is predicted from the one before: the first knows nothing of what comes beside it
    assert total - aside <= max(0.05 * 50 * epoch, FLOOR_SECONDS) + 1e-9
    if speed == 1:
        assert any(size is not None for size in sizes)


@pytest.mark.parametrize("share", [0.05, 0.3])
@pytest.mark.parametrize("speed", [1, 20])
@pytest.mark.parametrize("epoch", [0.05, 0.1, 1, 3, 10, 60, 1000])
def test_a_share_that_was_given_is_kept(epoch, speed, share):
    sizes, total = run(share, epoch=epoch, speeds=Speeds(*(speed * seconds for seconds in SPEEDS)))
    assert total <= share * 50 * epoch + 1e-9
    if share * 50 * epoch > speed * SMALLEST + 0.4:  # its pictures
        assert any(size is not None for size in sizes)


def test_fewer_masks_then_fewer_images_then_no_fill_then_not_every_epoch():
    assert run(0.05, epoch=1000)[0] == [(256, 40, True)] * 50
    assert run(0.05, epoch=60)[0][0] == (16, 20, True)
    assert run(0.05, epoch=30)[0] == [(16, 10, True)] * 50
    few, _ = run(0.05, epoch=10)
    assert few[:3] == [None, (16, 8, False), (16, 8, False)]
    very_few, _ = run(0.05, epoch=1)
    assert 20 < very_few.count(None) == 50 - very_few.count((16, 8, False)) < 50
    assert run("auto", epoch=0.04)[0] == [None] * 49 + [(16, 8, True)]
    assert run(0.05, epoch=0.04)[0] == [None] * 50


def test_a_run_that_is_too_short_for_a_probe_gets_none_and_the_reason():
    speeds = Speeds(*(20 * seconds for seconds in SPEEDS))
    assert run("auto", epoch=0.1, speeds=speeds)[0] == [None] * 50
    assert run(None, epoch=0.1, speeds=speeds)[0] == [(256, 40, True)] * 50
    budget = TimeBudget("auto")
    budget.measure(speeds)
    budget.trained(1)
    size, why = budget.plan(WANTED, cannot_wait=True)
    cost = 20 * SMALLEST + 0.4  # its pictures
    assert size is None
    assert f"until the training has taken about {cost / 0.05:.2g} s; a shorter one is not probed" in why
    assert "max_overhead='auto' (5%)" in why
    budget.measure(SPEEDS)
    size, why = budget.plan(WANTED)
    assert size is None
    assert "or is at its end" in why


def test_at_the_last_chance_the_floor_pays_for_the_smallest_size_only():
    for speed, expected in ((1, (16, 8, True)), (3, (16, 8, False)), (20, None)):
        budget = TimeBudget("auto")
        budget.measure(Speeds(*(speed * seconds for seconds in SPEEDS)))
        budget.trained(1e-9)
        assert budget.plan(WANTED)[0] is None
        size, _ = budget.plan(WANTED, cannot_wait=True)
        assert size == (None if expected is None else ProbeSize(*expected))


def test_what_was_asked_for_apart_from_a_training_is_made():
    budget = TimeBudget(0.05)
    budget.measure(Speeds(*(20 * seconds for seconds in SPEEDS)))
    assert budget.plan(WANTED, cannot_wait=True)[0] is None
    assert budget.plan(WANTED, asked_for=True) == (ProbeSize(16, 8, fill=False), "")


def test_what_was_taken_before_the_first_probe_counts_against_the_floor():
    budget = TimeBudget("auto")
    budget.measure(SPEEDS)
    budget.spend_aside(FLOOR_SECONDS - SMALLEST)
    assert budget.plan(WANTED, cannot_wait=True)[0] is None


def test_sizes_never_grow_again():
    for epoch in (0.1, 1, 10, 60, 120):
        sizes = [size for size in run(0.05, epoch=epoch)[0] if size is not None]
        assert all(later <= earlier for earlier, later in itertools.pairwise(sizes))


def test_no_limit_is_no_limit():
    assert run(None, epoch=0.001)[0] == [(256, 40, True)] * 50


def test_what_comes_beside_the_masks_is_counted():
    budget = TimeBudget(0.5)
    with budget.aside():
        pass
    assert 0 < budget.take_aside() < 1
    assert budget.take_aside() == 0
    budget.trained(10)
    budget.spend_aside(2)
    assert budget.allowed == 3
    budget.measure(Speeds(masked_image=0.01, image=0.1, filled_image=0.4))
    size, _ = budget.plan(ProbeSize(16, 2))
    assert budget.limit(size) == pytest.approx(3 - 2 * (0.1 + 0.4))


@pytest.fixture
def enough_seconds(monkeypatch):
    """The floor is never too low, however slow the machine is, and the usual share is nothing."""
    monkeypatch.setattr("fitb_callbacks.callback.time_budget.FLOOR_SECONDS", 1e6)
    monkeypatch.setattr("fitb_callbacks.callback.time_budget._USUAL_SHARE", 1e-6)


def said_by(run, module, *loaders):
    with pytest.warns(UserWarning, match="FillInBlanksCallback") as said:
        run.fit(module, *loaders)
    return [str(each.message) for each in said if "FillInBlanks" in str(each.message)]


@pytest.mark.usefixtures("enough_seconds")
def test_without_time_the_one_probe_comes_last_and_is_said_once(trainer, loaders):
    callback = FillInBlanksCallback(num_masks=20_000, tolerance=None)
    (said,) = said_by(trainer(callbacks=[callback], max_epochs=3), SmallModule(), *loaders)
    assert "the first probe waits" in said
    assert "max_overhead='auto'" in said
    assert [entry["epoch"] for entry in callback.history] == [2]
    assert callback.result.tried.unique().tolist() == [16]
    assert len(callback.result.images) == 8


@pytest.mark.usefixtures("enough_seconds")
def test_a_run_that_is_stopped_before_there_was_time_is_probed_at_its_end(trainer, loaders):
    callback = FillInBlanksCallback()
    said_by(trainer(callbacks=[callback], max_epochs=-1, max_steps=7), SmallModule(), *loaders)
    assert [entry["step"] for entry in callback.history] == [6]


@pytest.mark.usefixtures("enough_seconds")
def test_a_score_that_is_monitored_does_not_wait(trainer, loaders):
    callback = FillInBlanksCallback()
    stopping = EarlyStopping("fitb/coverage", patience=9)
    (said,) = said_by(trainer(callbacks=[callback, stopping], max_epochs=3), SmallModule(), *loaders)
    assert "not every chance is taken to probe" in said
    assert [entry["epoch"] for entry in callback.history] == [0]


@pytest.fixture
def no_seconds(monkeypatch):
    """Neither the floor nor the usual share leaves any time."""
    monkeypatch.setattr("fitb_callbacks.callback.time_budget.FLOOR_SECONDS", 0)
    monkeypatch.setattr("fitb_callbacks.callback.time_budget._USUAL_SHARE", 1e-6)


@pytest.mark.usefixtures("no_seconds")
def test_without_time_for_the_smallest_probe_there_is_none_and_it_is_said_once(trainer, loaders):
    callback = FillInBlanksCallback()
    (said,) = said_by(trainer(callbacks=[callback], max_epochs=3), SmallModule(), *loaders)
    assert "a shorter one is not probed" in said
    assert "max_overhead=None takes every chance" in said
    assert callback.history == []
    assert callback.result is None


def images_classified(trainer, loaders, callbacks):
    class Counting(SmallModule):
        def forward(self, images):
            classified.append(len(images))
            return super().forward(images)

    classified = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer(callbacks=callbacks, max_epochs=3).fit(Counting(), *loaders)
    return sum(classified)


@pytest.mark.usefixtures("no_seconds")
def test_a_run_that_is_too_short_hardly_pays_for_finding_that_out(trainer, loaders):
    without = images_classified(trainer, loaders, [])
    more = images_classified(trainer, loaders, [FillInBlanksCallback()]) - without
    assert 2 <= more <= 32  # the smallest probe is of 8 images, each under 16 masks and two dozen mixtures


@pytest.mark.parametrize("validation", [True, False])
def test_a_share_that_was_given_pays_for_nothing_else_either(trainer, loaders, validation):
    """No first look at the model, and no batch for the judge."""
    loaders = loaders if validation else loaders[:1]
    callback = FillInBlanksCallback(max_overhead=1e-6, judge="centroid")
    (said,) = said_by(trainer(callbacks=[callback], max_epochs=3), SmallModule(), *loaders)
    assert "a first look at the model takes at least" in said
    assert "s; a shorter one is not probed" in said
    assert "max_overhead=1e-06" in said
    assert "max_overhead='auto' has two seconds" in said
    assert callback.history == []
    assert callback.state_dict()["streamed_epoch"] is None
    strict = images_classified(trainer, loaders, [FillInBlanksCallback(max_overhead=1e-6)])
    assert strict == images_classified(trainer, loaders, [])


@pytest.mark.parametrize("validation", [True, False])
def test_a_first_look_that_had_to_wait_is_made_up_for(trainer, loaders, validation):
    """A share so large that it has room for everything, but not before the first batches."""
    callback = FillInBlanksCallback(max_overhead=50.0, num_masks=4, images_per_class=1, on_error="raise")
    trainer(callbacks=[callback], max_epochs=12).fit(SmallModule(), *(loaders if validation else loaders[:1]))
    assert callback.history
    assert callback.history[-1]["epoch"] == 11


def test_speeds_are_tried_once_there_may_be_time_and_the_try_is_paid_for():
    budget = TimeBudget(0.05)
    least = Speeds(masked_image=0.001, image=0.008, filled_image=0.064, trying=1.0)
    budget.measure(least)
    smallest = least.of(ProbeSize(16, 8, fill=False), most_masks=64) + 0.4 + 1.0
    budget.trained(0.99 * smallest / 0.05)
    size, why = budget.plan(WANTED)
    assert size is None
    assert f"at least {smallest:.2g} s" in why
    budget.trained(0.02 * smallest / 0.05)
    assert budget.plan(WANTED)[0] is not None
    budget.spend_aside(1.0)
    budget.measure(least._replace(trying=0.0))
    assert budget.plan(WANTED)[0] is not None


def test_no_limit_makes_all_masks(trainer, loaders):
    callback = FillInBlanksCallback(num_masks=100, max_overhead=None, tolerance=None)
    trainer(callbacks=[callback]).fit(SmallModule(), *loaders)
    assert callback.result.tried.unique().tolist() == [100]


def test_a_resumed_run_keeps_to_the_size():
    budget, again = TimeBudget(0.5), TimeBudget(0.5)
    budget.measure(Speeds(masked_image=1.0, image=1.0, filled_image=60.0))
    budget.trained(300)
    size, _ = budget.plan(WANTED)
    assert size == ProbeSize(16, 8, fill=False)
    budget.spend(size, 1.0)
    again.load_state_dict(budget.state_dict())
    again.trained(1e6)
    assert again.plan(WANTED)[0] == ProbeSize(16, 8, fill=False)


@pytest.mark.parametrize(
    ("value", "error"), [(0, ValueError), (-0.1, ValueError), ("much", TypeError), (True, TypeError)]
)
def test_wrong_shares(value, error):
    with pytest.raises(error, match=r"max_overhead must be a number greater than 0.*'auto' is 5%"):
        FillInBlanksCallback(max_overhead=value)
