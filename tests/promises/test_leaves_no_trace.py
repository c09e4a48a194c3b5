"""Training with the callback is bit for bit training without it."""

import copy
import random

import numpy as np
import pytest
import torch
from lightning.pytorch import seed_everything
from torch import nn

from fitb_callbacks import FillInBlanks, FillInBlanksCallback
from fitb_callbacks.models.state import preserve_model_state
from identical import assert_identical, random_states, training_state
from small_module import SmallModule


def trained_with(callbacks, trainer, loaders, **options):
    seed_everything(1)
    model = SmallModule()
    model.net[1].weight.requires_grad_(False)  # a frozen parameter stays frozen
    run = trainer(callbacks=callbacks, max_epochs=3, accumulate_grad_batches=3, **options)
    run.fit(model, *loaders)
    return training_state(run, model)


def test_dropout_batch_norm_shuffling_and_accumulation(trainer, loaders):
    callback = FillInBlanksCallback(max_overhead=None, num_masks=8)
    without = trained_with([], trainer, loaders)
    assert_identical(without, trained_with([callback], trainer, loaders))
    assert len(callback.history) == 3


def test_validation_in_the_middle_of_accumulation(trainer, loaders):
    without = trained_with([], trainer, loaders, val_check_interval=0.5)
    assert_identical(
        without,
        trained_with([FillInBlanksCallback(max_overhead=None, num_masks=8)], trainer, loaders, val_check_interval=0.5),
    )


def test_the_comparison_notices_a_change(trainer, loaders):
    """What the tests above would see if the callback drew one random number."""

    class Draws(FillInBlanksCallback):
        def on_train_epoch_end(self, trainer, pl_module):
            super().on_train_epoch_end(trainer, pl_module)
            torch.rand(1)

    with pytest.raises(AssertionError):
        assert_identical(trained_with([], trainer, loaders), trained_with([Draws(num_masks=8)], trainer, loaders))


class Mischief(nn.Module):
    """Draws random numbers and changes a buffer at every forward, then fails."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 10)
        self.norm = nn.BatchNorm1d(10)
        self.register_buffer("calls", torch.zeros(()))
        self.frozen = nn.BatchNorm1d(10).eval()
        self.linear.bias.requires_grad_(False)

    def forward(self, x):
        self.calls += 1
        random.random(), np.random.rand(), torch.rand(1)
        if self.calls > 3:
            raise RuntimeError("out of luck")
        return self.frozen(self.norm(self.linear(x.flatten(1))))


def test_a_failing_model_is_left_as_found():
    model = Mischief()
    images = torch.rand(4, 1, 8, 8)
    model.linear.weight.grad = torch.ones_like(model.linear.weight)
    before = {
        "state": copy.deepcopy(model.state_dict()),
        "modes": [module.training for module in model.modules()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "random": random_states(),
    }
    with pytest.raises(RuntimeError, match="out of luck"):
        FillInBlanks(num_masks=64, chunk_size=4).probe(model, images, torch.arange(4))
    after = {
        "state": model.state_dict(),
        "modes": [module.training for module in model.modules()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "random": random_states(),
    }
    assert_identical(before, after)
    assert (model.linear.weight.grad == 1).all()


def test_works_under_inference_mode(trained, probe_images):
    outside = FillInBlanks(num_masks=8).probe(trained, *probe_images)
    with torch.inference_mode():
        images, labels = probe_images[0] * 1, probe_images[1] * 1
        assert images.is_inference()
        inside = FillInBlanks(num_masks=8).probe(trained, images, labels)
    assert torch.equal(inside.updates, outside.updates)


def test_the_guard_restores_after_an_error():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2).eval())
    with pytest.raises(ZeroDivisionError), preserve_model_state(model):
        1 / int(model[0].weight.requires_grad)  # False inside, hence an error
    assert [module.training for module in model.modules()] == [True, True, False]
    assert all(parameter.requires_grad for parameter in model.parameters())
