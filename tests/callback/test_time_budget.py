"""The share of an epoch's time that probes may take."""

import pytest

from fitb_callbacks import FillInBlanks, FillInBlanksCallback
from fitb_callbacks.callback.time_budget import TimeBudget
from small_module import SmallModule


def test_short_epochs_get_the_least_number_of_masks_and_a_line(trainer, loaders, caplog):
    with caplog.at_level("INFO"):
        callback = FillInBlanksCallback(num_masks=20_000, max_overhead=1e-6, tolerance=None)
        trainer(callbacks=[callback], max_epochs=3).fit(SmallModule(), *loaders)
    lines = [record.message for record in caplog.records if "max_overhead" in record.message]
    assert len(lines) == 1
    assert "64 of 20000 random masks" in lines[0]
    assert "too short" in lines[0]
    assert callback.result.tried.unique().tolist() == [64]
    assert all(entry["overhead"] > 1e-6 and entry["seconds"] > 0 for entry in callback.history)


def test_no_limit_makes_all_masks(trainer, loaders):
    callback = FillInBlanksCallback(num_masks=100, max_overhead=None, tolerance=None)
    trainer(callbacks=[callback]).fit(SmallModule(), *loaders)
    assert callback.result.tried.unique().tolist() == [100]


def test_a_resumed_run_keeps_to_the_number_of_masks():
    budget = TimeBudget(0.5)
    again = TimeBudget(0.5)
    again.load_state_dict({"random": 96})
    assert budget.limited(FillInBlanks()).num_masks == 256
    assert again.limited(FillInBlanks()).num_masks == 96
    assert again.state_dict() == {"random": 96}


@pytest.mark.parametrize(
    ("value", "error"), [(0, ValueError), (-0.1, ValueError), ("much", TypeError), (True, TypeError)]
)
def test_wrong_shares(value, error):
    with pytest.raises(error, match="max_overhead must be a number greater than 0"):
        FillInBlanksCallback(max_overhead=value)
