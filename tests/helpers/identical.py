"""All that training depends on, and bit for bit equality of it."""

import copy
import random

import numpy as np
import torch


def training_state(trainer, model):
    """A copy of everything that a probe could change: weights, gradients, modes, hooks, optimizers, random numbers."""
    return {
        "state": {name: value.detach().clone() for name, value in model.state_dict().items()},
        "gradients": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "modes": [module.training for module in model.modules()],
        "hooks": [  # torch has no public way to ask for them
            (name, [getattr(hook, "__qualname__", hook) for hook in hooks.values()])  # keys count up for ever
            for module in model.modules()
            for name, hooks in vars(module).items()
            if name.endswith("_hooks") and isinstance(hooks, dict)
        ],
        "optimizers": copy.deepcopy([optimizer.state_dict() for optimizer in trainer.optimizers]),
        "schedulers": copy.deepcopy([config.scheduler.state_dict() for config in trainer.lr_scheduler_configs]),
        "gradient mode": torch.is_grad_enabled(),
        **random_states(),
    }


def random_states():
    """Of the three generators that training may draw from."""
    return {"torch": torch.get_rng_state(), "numpy": np.random.get_state(), "python": random.getstate()}


def assert_identical(one, other, where="snapshot"):
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype, where
        assert torch.equal(one, other), where
    elif isinstance(one, np.ndarray):
        assert np.array_equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_identical(one[key], other[key], f"{where}, {key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for position, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_identical(a, b, f"{where}, {position}")
    else:
        assert one == other or one is other, where
