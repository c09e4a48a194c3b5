"""Balanced means: exact where they can be, and closer to the truth than plain ones where it is known."""

import itertools

import torch

from fitb_callbacks.balance import balance

PATCHES, HIDDEN = 12, 3
EVERY = torch.stack(
    [
        torch.zeros(PATCHES).index_fill(0, torch.tensor(some), 1)
        for some in itertools.combinations(range(PATCHES), HIDDEN)
    ]
).bool()


def updates_of(hidden, generator):
    """Size (K,) and update of every patch (K, P) of a made-up model: confident, but for a few patches."""
    effect = torch.tensor([2.0, 1.5, 1.0, 1.0, 0.5, 0, 0, 0, 0, 0, 0, -0.5])
    size = 0.01 * (hidden.float() @ effect + 0.2 * torch.randn(len(hidden), generator=generator)).exp()
    direction = torch.linspace(-1, 1, PATCHES) + 0.1 * torch.randn(len(hidden), PATCHES, generator=generator)
    return size, size[:, None] * direction * hidden


def test_once_every_mask_was_tried_nothing_is_left_to_correct():
    size, _ = updates_of(EVERY, torch.Generator().manual_seed(0))
    kept = torch.rand(len(EVERY), 1, generator=torch.Generator().manual_seed(1)) < 0.7
    assert torch.allclose(balance(EVERY, size[:, None], kept, EVERY), torch.ones(1, PATCHES), atol=1e-5)


def test_a_balanced_mean_needs_less_than_half_of_the_masks():
    """Against the mean over all 220 masks, which is known here: half the squared error, and no bias that can be seen."""
    generator = torch.Generator().manual_seed(0)
    _, updates = updates_of(EVERY, generator)
    truth = updates.mean(0)
    size = updates.norm(dim=1, keepdim=True)
    errors, means = {"plain": [], "balanced": []}, []
    for _ in range(200):
        rows = torch.randint(len(EVERY), (40,), generator=generator)
        kept = torch.ones(len(rows), 1, dtype=torch.bool)
        plain = updates[rows].mean(0)
        balanced = plain * balance(EVERY[rows], size[rows], kept, EVERY)[0]
        means.append(balanced)
        for name, mean in (("plain", plain), ("balanced", balanced)):
            errors[name].append((mean - truth).square().sum())
    assert 2 * sum(errors["balanced"]) < sum(errors["plain"])
    assert (torch.stack(means).mean(0) - truth).square().sum() < 0.02 * truth.square().sum()


def test_images_do_not_mix():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(len(EVERY), (40,), generator=generator)
    sizes, kept = torch.rand(40, 3, generator=generator), torch.rand(40, 3, generator=generator) < 0.5
    together = balance(EVERY[rows], sizes, kept, EVERY)
    alone = [balance(EVERY[rows], sizes[:, [image]], kept[:, [image]], EVERY) for image in range(3)]
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)


def test_images_without_a_kept_mask_are_left_alone():
    kept = torch.zeros(len(EVERY), 1, dtype=torch.bool)
    assert (balance(EVERY, torch.rand(len(EVERY), 1), kept, EVERY) == 1).all()
