"""The fastest way to put masked images through a model: found while probing, and of no influence on the results."""

import dataclasses
import gc
import weakref

import pytest
import torch
from torch import nn

from fitb_callbacks import FillInBlanks
from fitb_callbacks.probing.autotune import Plan, Tuner, tuner_for
from fitb_callbacks.probing.cues import CUES
from fitb_callbacks.probing.reliance import MOST_MASKS


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


def apart(found, expected):
    """How far updates are apart, relative to their size, for the image for which that is most.

    Rounding is some 1e-7, and 1e-3 where it moves a ReLU over its edge. One mask of 64 is about 1e-2.
    """
    error = (found - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1).clamp(min=1e-12)
    return error.max()


def searched(speed, *, formats=True, pairs=None, updates_with=None, blocks=200):
    """The tuner after so many blocks, and the plans that it asked for; speed(plan) is in pairs a second."""
    tuner, asked = Tuner(Plan(128), formats=formats), []
    while tuner.searching and len(asked) < blocks:
        asked.append(tuner.next_plan(updates_with))
        number = pairs or asked[-1].chunk_size
        tuner.record(asked[-1], pairs=number, seconds=number / speed(asked[-1]))
    return tuner, asked


@pytest.mark.parametrize(
    ("speeds", "fastest"),
    [
        ({}, Plan(128)),
        ({(64, False): 2.0}, Plan(64)),
        ({(512, False): 2.0}, Plan(512)),  # beyond one size that is no better
        ({(256, False): 2.0, (256, True): 3.0}, Plan(256, channels_last=True)),  # a format that pays in larger chunks
        ({(128, True): 2.0, (64, True): 3.0, (64, False): 4.0}, Plan(64)),  # and one that does in usual ones only
        ({(256, False): 1.01}, Plan(128)),  # noise
    ],
)
def test_the_search_finds_the_fastest_plan_and_is_not_ended_by_a_first_miss(speeds, fastest):
    tuner, _ = searched(lambda plan: speeds.get((plan.chunk_size, plan.channels_last), 1.0))
    assert tuner.best == fastest
    assert not tuner.searching
    assert tuner.next_plan() == fastest


@pytest.mark.parametrize("slow", [0.5, 0.1, 0.01])
def test_plans_that_are_slow_cost_a_fifth_of_the_time_at_most(slow):
    """Whatever is tried is slower than the first plan; the block under way may come on top, once."""
    spent = lost = worst = 0.0
    tuner = Tuner(Plan(64), formats=True)
    for _ in range(2000):
        plan = tuner.next_plan()
        seconds = 64 / (1.0 if plan == Plan(64) else slow)
        tuner.record(plan, pairs=64, seconds=seconds)
        spent, lost, worst = spent + seconds, lost + seconds - 64, max(worst, seconds)
        assert lost <= 0.2 * spent + worst
    assert tuner.best == Plan(64)
    assert lost < 0.2 * spent


def test_blocks_that_are_much_smaller_than_the_plan_say_nothing_of_it():
    tuner, asked = searched(lambda plan: 1.0, pairs=16, blocks=20)
    assert set(asked) == {Plan(128)}
    assert tuner.searching


def test_a_search_ends_although_there_is_too_little_work_for_larger_chunks():
    usual = tuner_for(nn.Flatten(), torch.rand(1, 1, 12, 12)).best
    for number in (1, 2 * usual.chunk_size // 64):  # less than a usual chunk, and two of them
        model, images = nn.Sequential(nn.Flatten(), nn.Linear(144, 3)), torch.rand(number, 1, 12, 12)
        tuner = tuner_for(model, images)
        for _ in range(40):
            FillInBlanks(num_masks=64, tolerance=None, fill=None).probe(model, images, torch.zeros(number).long())
        assert not tuner.searching
        assert number > 1 or tuner.best == usual


def test_a_chunk_that_does_not_fit_into_memory_is_not_chosen():
    tuner, asked = searched(lambda plan: 1e-300 if plan.chunk_size > 128 else 1.0, formats=False)
    assert max(plan.chunk_size for plan in asked) == 256
    assert tuner.best == Plan(128)


def test_the_other_format_is_not_used_where_updates_differ_or_cannot_be_found():
    def misread(plan):
        return torch.full((4,), 2.0 if plan.channels_last else 1.0)

    def refused(plan):
        if plan.channels_last:
            raise TypeError("only contiguous images")
        return torch.ones(4)

    for updates_with, used in ((misread, False), (refused, False), (lambda plan: torch.ones(4), True), (None, True)):
        _, asked = searched(lambda plan: 2.0 if plan.channels_last else 1.0, updates_with=updates_with)
        assert any(plan.channels_last for plan in asked) is used


def test_what_is_wrong_in_a_models_own_format_is_not_hidden():
    def broken(plan):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        searched(lambda plan: 1.0, updates_with=broken)


class Watched(nn.Module):
    """A model that shows the images that go into it. A hook would not do: a probe puts hooks out of action."""

    def __init__(self, model, look):
        super().__init__()
        self.model, self.look = model, look

    def forward(self, images):
        self.look(images)
        return self.model(images)


class Clock:
    """A clock on which only what a test says takes time, so that no other work on the machine counts."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr("fitb_callbacks.probing.averaging.working_seconds_on", lambda device: self.now)

    def channels_last_is_twice_as_fast(self, model):
        """The model, with a list of whether its images came in channels-last format."""
        formats = []

        def work(images):
            formats.append(images.is_contiguous(memory_format=torch.channels_last))
            self.now += len(images) / (2.0 if formats[-1] else 1.0)

        return Watched(model, work), formats


@pytest.mark.parametrize(
    ("make", "fits"), [(WithView, False), (TakesMemoryAsItLies, False), (lambda: convolutions(3), True)]
)
def test_a_model_that_does_not_work_in_channels_last_format_is_probed_in_its_own(monkeypatch, make, fits):
    images = torch.rand(4, 3, 12, 12)
    model, formats = Clock(monkeypatch).channels_last_is_twice_as_fast(make())
    probe = FillInBlanks(num_masks=2048, target="predicted", tolerance=None)
    found = probe.probe(model, images)
    assert any(formats)  # it was tried
    assert tuner_for(model, images).best.channels_last is fits
    formats.clear()
    again = probe.probe(model, images)
    assert any(formats) == fits
    expected = dataclasses.replace(probe, chunk_size=50).probe(model, images)
    for updates in (found.updates, again.updates):
        assert apart(updates, expected.updates) < 3e-3


@pytest.mark.parametrize("plan", [Plan(7, channels_last=True), Plan(64, channels_last=True), Plan(1000)])
def test_every_plan_gives_the_same_numbers(monkeypatch, plan):
    model, images, labels = convolutions(), torch.rand(5, 1, 12, 12), torch.arange(5) % 3
    probe = FillInBlanks(num_masks=64, target="predicted", tolerance=None)
    usual = dataclasses.replace(probe, chunk_size=50).probe(model, images, labels)
    fixed = Tuner(plan, formats=False)
    while fixed.searching:  # nothing is better than the first
        fixed.record(fixed.next_plan(), pairs=10_000, seconds=1.0)
    monkeypatch.setattr("fitb_callbacks.probing.probe.tuner_for", lambda *_: fixed)
    other = probe.probe(model, images, labels)
    assert torch.equal(usual.kept, other.kept)
    assert apart(other.updates, usual.updates) < 3e-3


@pytest.mark.parametrize("masking", ["random", "progressive"])
def test_a_probe_that_searches_gives_the_numbers_of_one_that_does_not(masking):
    model, images, labels = convolutions(), torch.rand(5, 1, 12, 12), torch.arange(5) % 3
    probe = FillInBlanks(masking=masking, num_masks=600, tolerance=None)
    found = probe.probe(model, images, labels)
    expected = dataclasses.replace(probe, chunk_size=50).probe(model, images, labels)
    assert torch.equal(found.kept, expected.kept)
    assert apart(found.updates, expected.updates) < 3e-3
    if masking == "progressive":
        torch.testing.assert_close(found.steps, expected.steps, rtol=0, atol=1e-4)


def test_every_masked_image_goes_through_the_model_once_but_for_a_few():
    """The search does no work of its own, except to compare a few updates between memory formats."""
    images, labels, seen = torch.rand(8, 1, 12, 12), torch.arange(8) % 3, []
    model = Watched(convolutions(), lambda images: seen.append(len(images)))
    FillInBlanks(num_masks=512, tolerance=None, fill=None).probe(model, images, labels)
    others = 4 + 3 * len(CUES)  # the images and the prototypes, twice each at most; three mixtures for each cue
    of_reliance = MOST_MASKS * len(images)
    assert 8 * 512 <= sum(seen) - others * len(images) - of_reliance <= 8 * 512 + 2 * 16


def test_the_search_is_remembered_with_the_model_for_each_image_size():
    model, images = convolutions(), torch.rand(2, 1, 12, 12)
    assert tuner_for(model, images) is tuner_for(model, torch.rand(7, 1, 12, 12))
    assert tuner_for(model, images) is not tuner_for(model, torch.rand(2, 1, 16, 16))
    assert tuner_for(model, images) is not tuner_for(model, images, lambda model, images: model(images))
    assert tuner_for(model, images) is not tuner_for(convolutions(), images)


def test_a_model_is_forgotten_with_its_last_reference():
    model, images = convolutions(), torch.rand(2, 1, 12, 12)
    FillInBlanks(num_masks=64, target="predicted").probe(model, images)
    seen = weakref.ref(model)
    del model
    gc.collect()
    assert seen() is None
