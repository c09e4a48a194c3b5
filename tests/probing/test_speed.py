"""What makes the probe fast, and what it must not change: formats, chunk sizes, stopping early, the budget."""

import copy
import platform
import subprocess
import sys
import unittest.mock

import pytest
import torch
from small_world import small_world
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from fitb_callbacks import FillInBlanks, FillInBlanksCallback
from fitb_callbacks.callback.time_budget import TimeBudget
from fitb_callbacks.probing import autotune as calibration_module
from fitb_callbacks.probing.autotune import Plan, fastest_plan
from fitb_callbacks.probing.masks import random_masks
from fitb_callbacks.probing.moments import Moments
from fitb_callbacks.utils.patch_grid import PatchGrid
from small_module import SmallModule


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


@pytest.mark.parametrize("make", [WithView, TakesMemoryAsItLies])
def test_a_model_that_does_not_work_in_channels_last_format_is_probed_in_its_own(monkeypatch, make):
    monkeypatch.setattr(calibration_module._Trial, "_speed", lambda self, plan: 2.0 if plan.channels_last else 1.0)
    model, images = make(), torch.rand(4, 3, 12, 12)
    found = FillInBlanks(num_masks=25_600, target="predicted", tolerance=100.0).probe(model, images)
    (plan,) = calibration_module._plans[model].values()
    assert not plan.channels_last
    expected = FillInBlanks(num_masks=25_600, target="predicted", tolerance=100.0, chunk_size=50).probe(model, images)
    torch.testing.assert_close(found.updates, expected.updates, rtol=0, atol=1e-5 * expected.updates.abs().max().item())
    # and would not have been, had it worked: speed alone decides then
    working = convolutions(3)
    FillInBlanks(num_masks=25_600, target="predicted", tolerance=100.0).probe(working, images)
    (plan,) = calibration_module._plans[working].values()
    assert plan.channels_last


def test_what_is_wrong_in_a_models_own_format_is_not_hidden():
    model, images = convolutions(), torch.rand(2, 1, 32, 32)

    def attempt(plan):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fastest_plan(nn.Flatten(), images, attempt, planned=100_000)
    with pytest.raises(ZeroDivisionError):
        fastest_plan(model, images, attempt, planned=100_000)


def test_small_chunks_are_averaged_together_but_go_through_the_model_on_their_own():
    model, images, labels = convolutions(), torch.rand(5, 1, 12, 12), torch.arange(5) % 3
    sizes = []
    model.register_forward_hook(lambda _, arguments, __: sizes.append(len(arguments[0])))
    with unittest.mock.patch.object(Moments, "add", autospec=True, side_effect=Moments.add) as add:
        FillInBlanks(num_masks=64, tolerance=None, chunk_size=20).probe(model, images, labels)
    assert max(sizes) == 20
    assert max(values.shape[0] * values.shape[1] for (_, values, *_), _ in add.call_args_list) > 100


FAULTS = """
import resource, torch
from fitb_callbacks.utils.devices import keep_freed_memory
keep_freed_memory(torch.device("cpu"))
def chunk():
    blocks = [torch.zeros(2**19) for _ in range(8)]  # 2 MiB each
    del blocks
chunk()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    chunk()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc returns memory in this way")
def test_freed_memory_is_kept_for_the_next_chunk():
    # Without it, two processes of three get new pages for every block; it depends on where their heaps happen to lie.
    for _ in range(4):
        run = subprocess.run([sys.executable, "-c", FAULTS], check=True, capture_output=True, text=True)
        assert int(run.stdout) < 0.05 * 50 * 8 * 2**21 / 4096


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


def test_the_fastest_plan_is_found_remembered_and_not_looked_for_twice():
    """A model that is slow in chunks of any other size than 64, by so much that no busy machine can hide it."""
    asked = []

    def attempt(plan):
        size = plan.chunk_size
        asked.append(size)
        each = 2 if size == 64 else size // 6 if size > 64 else 40
        torch.rand(size * each, 200).sum()
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
    look_up = lambda self, plan: speeds.get((plan.chunk_size, plan.channels_last), 1.0)  # noqa: E731
    monkeypatch.setattr(calibration_module._Trial, "_speed", look_up)
    images = torch.rand(2, 1, 32, 32)  # whose usual chunk is 128
    plan = fastest_plan(convolutions(), images, lambda plan: (plan.chunk_size, images), planned=1_000_000)
    assert plan == fastest


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
    before = len(calibration_module._plans)
    del model
    assert len(calibration_module._plans) == before - 1


def test_the_loop_over_masks_never_waits_for_the_device():
    """No value is read back from the device for a mask or a chunk: as many reads for 16 masks as for 160."""

    class Reads(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.count = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            reading = {"aten::_local_scalar_dense", "aten::nonzero", "aten::equal"}
            self.count += function.name().split(".")[0] in reading
            return function(*args, **(kwargs or {}))

    def reads(masking, num_masks):
        probe = FillInBlanks(masking=masking, num_masks=num_masks, tolerance=None, chunk_size=8)
        with Reads() as counted:
            probe.probe(convolutions(), torch.rand(3, 1, 12, 12), torch.arange(3))
        return counted.count

    for masking in ("random", "progressive"):
        assert reads(masking, 16) == reads(masking, 160) > 0


# --- stopping early -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tolerance", [0.2, 0.1])
def test_an_image_that_stops_is_as_near_the_truth_as_was_asked(tolerance):
    model, images, labels, truth = small_world()
    errors, stopped = [], 0
    for seed in range(30):
        probe = FillInBlanks(num_masks=2000, tolerance=tolerance, patch_size=1, seed=seed, baseline=0.0)
        result = probe.probe(model, images, labels)
        early = result.tried < 2000
        stopped += int(early.sum())
        error = (result.updates - truth)[early].flatten(1).norm(dim=1) / truth[early].flatten(1).norm(dim=1)
        errors.append(error)
    errors = torch.cat(errors)
    assert stopped > 0.9 * 30 * len(images)
    assert (errors <= tolerance).float().mean() >= 0.9
    assert errors.median() > 0.3 * tolerance  # and not by making far more masks than needed


def test_images_stop_on_their_own_and_a_tighter_tolerance_takes_more_masks():
    model, images, labels, _ = small_world()
    settings = {"num_masks": 4000, "patch_size": 1, "baseline": 0.0}
    loose = FillInBlanks(tolerance=0.2, **settings).probe(model, images, labels)
    tight = FillInBlanks(tolerance=0.1, **settings).probe(model, images, labels)
    assert len(set(loose.tried.tolist())) > 1
    assert loose.tried.min() >= 64
    assert (tight.tried >= loose.tried).all()
    assert tight.tried.sum() > 2 * loose.tried.sum()
    # What an image gets is what it would get from so many masks alone.
    last_of_each = {tried: index for index, tried in enumerate(loose.tried.tolist())}
    for tried, index in last_of_each.items():
        alone = FillInBlanks(**{**settings, "num_masks": tried}, tolerance=None).probe(model, images, labels)
        torch.testing.assert_close(alone.updates[index], loose.updates[index], rtol=1e-4, atol=1e-6)
        assert alone.kept[index] == loose.kept[index]


def test_an_image_that_the_model_never_recognises_gets_all_masks():
    model, images, labels, _ = small_world()
    wrong = (labels + 1) % 3
    result = FillInBlanks(num_masks=400, tolerance=10.0, patch_size=1).probe(model, images, wrong)
    assert (result.tried[~result.covered] == 400).all()
    assert (~result.covered).any()


@pytest.mark.parametrize("masking", ["random", "progressive"])
def test_a_time_limit_ends_the_probe_after_the_first_masks(masking):
    model, images, labels, _ = small_world()
    probe = FillInBlanks(masking=masking, num_masks=10_000, patch_size=1, tolerance=None)
    result = probe.probe(model, images, labels, seconds=1e-9)
    assert result.out_of_time
    assert result.tried.unique().tolist() == [64]
    assert result.settings["num_masks"] == 64
    unhurried = FillInBlanks(masking=masking, num_masks=128, patch_size=1, tolerance=None)
    assert not unhurried.probe(model, images, labels, seconds=1e9).out_of_time


def test_masks_of_an_early_stop_are_the_first_ones():
    few, many = (
        random_masks(torch.arange(number), PatchGrid(8, 8, 2), mask_ratio=0.25, seed=3) for number in (64, 200)
    )
    assert torch.equal(few, many[:64])


# --- the budget -----------------------------------------------------------------------------------------------------


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
def test_wrong_shares_and_tolerances(value, error):
    with pytest.raises(error, match="max_overhead must be a number greater than 0"):
        FillInBlanksCallback(max_overhead=value)
    with pytest.raises(error, match="tolerance must be a number greater than 0"):
        FillInBlanks(tolerance=value)
