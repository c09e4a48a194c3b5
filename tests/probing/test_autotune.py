"""The fastest way to put masked images through a model: found by trying, and of no influence on the results."""

import copy
import dataclasses
import gc
import weakref

import pytest
import torch
from torch import nn

from fitb_callbacks import FillInBlanks
from fitb_callbacks.probing.autotune import Plan, fastest_plan


def convolutions(channels=1):
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(channels, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)),
        *(nn.Flatten(), nn.Linear(8 * 12 * 12, 3)),
    ).eval()


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_last_images_make_channels_last_activations_and_the_same_logits(channels):
    model, images = convolutions(channels), torch.rand(4, channels, 12, 12)
    formats = []
    model[2].register_forward_hook(lambda *_: formats.append(_[2].is_contiguous(memory_format=torch.channels_last)))
    expected = model(images)
    torch.testing.assert_close(model(Plan(4, channels_last=True).formatted(images)), expected, rtol=1e-4, atol=1e-5)
    assert formats == [False, True]


class WithView(nn.Module):
    """A network that cannot have its activations in channels-last format, as many tutorials write it."""

    def __init__(self):
        super().__init__()
        self.layers = convolutions(3)

    def forward(self, images):
        features = self.layers[:4](images)
        return self.layers[5](features.view(features.shape[0], -1))


class TakesMemoryAsItLies(nn.Module):
    """A network with an operation that does not look at strides."""

    def __init__(self):
        super().__init__()
        self.layers = convolutions(3)

    def forward(self, images):
        return self.layers(images.as_strided(images.shape, (images[0].numel(), 144, 12, 1)))


class Clock:
    """A clock on which only what a test says takes time, so that no other work on the machine counts."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr("fitb_callbacks.probing.autotune.working_seconds_on", lambda device: self.now)

    def channels_last_is_twice_as_fast(self, model):
        """For this model; returns a list of whether its images came in channels-last format."""
        formats = []

        def work(_, arguments):
            images = arguments[0]
            formats.append(images.is_contiguous(memory_format=torch.channels_last))
            self.now += len(images) / (2.0 if formats[-1] else 1.0)

        model.register_forward_pre_hook(work)
        return formats


@pytest.mark.parametrize(
    ("make", "fits"), [(WithView, False), (TakesMemoryAsItLies, False), (lambda: convolutions(3), True)]
)
def test_a_model_that_does_not_work_in_channels_last_format_is_probed_in_its_own(monkeypatch, make, fits):
    model, images = make(), torch.rand(4, 3, 12, 12)
    formats = Clock(monkeypatch).channels_last_is_twice_as_fast(model)
    probe = FillInBlanks(num_masks=25_600, target="predicted", tolerance=100.0)
    probe.probe(model, images)
    assert any(formats)  # it was tried
    formats.clear()
    found = probe.probe(model, images)
    assert any(formats) == fits
    expected = dataclasses.replace(probe, chunk_size=50).probe(model, images)
    torch.testing.assert_close(found.updates, expected.updates, rtol=0, atol=1e-5 * expected.updates.abs().max().item())


def test_what_is_wrong_in_a_models_own_format_is_not_hidden():
    model, images = convolutions(), torch.rand(2, 1, 32, 32)

    def attempt(plan):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fastest_plan(nn.Flatten(), images, attempt, planned=100_000)
    with pytest.raises(ZeroDivisionError):
        fastest_plan(model, images, attempt, planned=100_000)


@pytest.mark.parametrize("plan", [Plan(7, channels_last=True), Plan(64, channels_last=True), Plan(1000)])
def test_every_plan_gives_the_same_numbers(monkeypatch, plan):
    model, images, labels = convolutions(), torch.rand(5, 1, 12, 12), torch.arange(5) % 3
    probe = FillInBlanks(num_masks=64, target="predicted", tolerance=None)
    monkeypatch.setattr("fitb_callbacks.probing.probe.fastest_plan", lambda *_, **__: Plan(50))
    usual = probe.probe(model, images, labels)
    monkeypatch.setattr("fitb_callbacks.probing.probe.fastest_plan", lambda *_, **__: plan)
    other = probe.probe(model, images, labels)
    assert torch.equal(usual.kept, other.kept)
    torch.testing.assert_close(usual.updates, other.updates, rtol=0, atol=1e-5 * usual.updates.abs().max().item())


def test_the_fastest_plan_is_found_remembered_and_not_looked_for_twice(monkeypatch):
    asked, clock = [], Clock(monkeypatch)

    def attempt(plan):
        size = plan.chunk_size
        asked.append(size)
        clock.now += size * (2 if size == 64 else 20)
        return size, torch.zeros(1)

    model, images = nn.Flatten(), torch.rand(2, 1, 32, 32)  # whose usual chunk is 128
    assert fastest_plan(model, images, attempt, planned=100_000) == Plan(64)
    tried = len(asked)
    assert set(asked) >= {128, 256, 64}
    assert fastest_plan(model, images, attempt, planned=100_000) == Plan(64)
    assert len(asked) == tried
    fastest_plan(model, torch.rand(2, 1, 16, 16), attempt, planned=100_000)
    assert len(asked) > tried


@pytest.mark.parametrize(
    ("speeds", "fastest"),
    [
        ({(512, False): 2.0}, Plan(512)),  # beyond one size that is no better
        ({(256, False): 2.0, (256, True): 3.0}, Plan(256, channels_last=True)),  # a format that pays in larger chunks
        ({(128, True): 2.0, (64, True): 3.0, (64, False): 4.0}, Plan(64)),  # and one that does in usual ones only
    ],
)
def test_the_search_is_not_ended_by_a_first_miss(monkeypatch, speeds, fastest):
    clock, images = Clock(monkeypatch), torch.rand(2, 1, 32, 32)  # whose usual chunk is 128

    def attempt(plan):
        clock.now += plan.chunk_size / speeds.get((plan.chunk_size, plan.channels_last), 1.0)
        return plan.chunk_size, images

    assert fastest_plan(convolutions(), images, attempt, planned=1_000_000) == fastest


def test_nothing_is_tried_for_a_small_probe_nor_beyond_the_allowance():
    used = []

    def attempt(plan):
        used.append(plan.chunk_size)
        return plan.chunk_size, torch.zeros(1)

    model, images = convolutions(), torch.rand(2, 1, 32, 32)
    assert fastest_plan(model, images, attempt, planned=2_000) == Plan(128)
    assert not used
    fastest_plan(model, images, attempt, planned=10_000)
    assert 0 < sum(used) <= 10_000 / 5
    used.clear()
    fastest_plan(copy.deepcopy(model), images, attempt, planned=10**9, seconds=1e-9)
    assert not used


def test_a_chunk_that_does_not_fit_into_memory_is_not_chosen():
    def attempt(plan):
        if plan.chunk_size > 128:
            raise MemoryError
        return plan.chunk_size, torch.zeros(1)

    plan = fastest_plan(nn.Flatten(), torch.rand(2, 1, 32, 32), attempt, planned=100_000)
    assert plan.chunk_size <= 128


def test_a_model_is_forgotten_with_its_last_reference():
    model = convolutions()
    images = torch.rand(2, 1, 32, 32)
    fastest_plan(model, images, lambda plan: (plan.chunk_size, images), planned=100_000)
    seen = weakref.ref(model)
    del model
    gc.collect()
    assert seen() is None
