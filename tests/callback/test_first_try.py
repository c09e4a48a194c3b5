"""How fast a model is, told by a few masks."""

import itertools

import torch
from torch import nn

from fitb_callbacks import FillInBlanks
from fitb_callbacks.callback import first_try


def test_more_masks_are_never_free(monkeypatch):
    """Next to other work, more masks may end sooner than one."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    times = itertools.accumulate(1 / number for number in itertools.count(1))  # each takes less than the one before
    monkeypatch.setattr(first_try.time, "perf_counter", lambda: next(times))
    _, least = first_try.checked([FillInBlanks()], model, torch.rand(4, 1, 8, 8), None)
    assert least.masked_image > 0
    assert first_try.tried([FillInBlanks()], model, torch.rand(4, 1, 8, 8), None).masked_image > 0
