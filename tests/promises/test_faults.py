"""What goes wrong inside a probe: memory, numbers that are none, and anything else."""

import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import warm_process
from fitb_callbacks import FillInBlanks, FillInBlanksCallback
from small_module import SmallModule

LITTLE_MEMORY = """
import resource, torch
torch.set_num_threads(1)
from fitb_callbacks import FillInBlanks
from torch import nn

class Wide(nn.Module):
    "Takes 2 MiB an image in its hidden layer."
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(64, 8), nn.Linear(8, 3)
    def forward(self, images):
        hidden = self.first(images.flatten(1))
        print(len(images))  # not to a list: what forward changes is put back after a probe
        return self.last((hidden.unsqueeze(1) * torch.ones(1, 65536, 1)).mean(dim=1))

def probe(chunk_size):
    model = Wide()
    torch.manual_seed(1)
    return FillInBlanks(num_masks=64, chunk_size=chunk_size).probe(model, torch.rand(6, 1, 8, 8), torch.arange(6) % 3)

small = probe(8)
used = int(next(line for line in open("/proc/self/status") if line.startswith("VmSize")).split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (used + {room} * 2**20, resource.RLIM_INFINITY))
print("with little memory")
big = probe(384)
assert torch.equal(small.kept, big.kept)
torch.testing.assert_close(small.updates, big.updates)
"""


def with_little_memory(room, run):
    Path("little_memory.py").write_text(LITTLE_MEMORY.replace("{room}", str(room)))
    return run("little_memory.py")


def chunk_sizes(done):
    """In ascending order; 6 are the images themselves and their prototypes."""
    return sorted(set(map(int, done.stdout.partition("with little memory")[2].split())) - {6})


@pytest.mark.slow
def test_out_of_memory_halves_the_chunk_and_goes_on():
    """A real limit on the process's memory: 192 images, at 2 MiB and more each, do not fit into 250 MiB."""
    done = with_little_memory(250, warm_process.run)
    assert done.returncode == 0, done.stderr
    *halved, largest = chunk_sizes(done)
    assert largest == 384  # forward passes alone, of all masks
    assert {96, 192} <= set(halved)


def in_a_new_process(script):
    """A warm one has some room left over from its imports; and this one keeps nothing of what is freed."""
    nothing_kept = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**17)}
    command = [sys.executable, script]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, check=False, env=nothing_kept)


@pytest.mark.slow
def test_less_memory_than_is_usually_kept_is_enough_for_a_few_images():
    done = with_little_memory(28, in_a_new_process)
    assert done.returncode == 0, done.stderr
    assert chunk_sizes(done)[0] < 12


@pytest.mark.slow
def test_out_of_memory_with_a_single_image_is_an_error():
    done = with_little_memory(1, in_a_new_process)
    assert done.returncode == 1
    # torch's error, or Python's own where not even its few bytes are left
    assert "can't allocate memory" in done.stderr or done.stderr.endswith("MemoryError\n")


def test_halving_counts_every_mask_once():
    """Whatever fails along the way, every pair of mask and image is added exactly once."""

    class Picky(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(64, 3)

        def forward(self, images):
            if len(images) > 5:
                raise MemoryError
            return self.linear(images.flatten(1))

    model, images, labels = Picky(), torch.rand(7, 1, 8, 8), torch.arange(7) % 3
    halved = FillInBlanks(num_masks=33, chunk_size=100).probe(model, images, labels)
    direct = FillInBlanks(num_masks=33, chunk_size=5).probe(model, images, labels)
    assert torch.equal(halved.kept, direct.kept)
    torch.testing.assert_close(halved.updates, direct.updates)


NO_MEMORY = [
    MemoryError(),
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    getattr(torch, "AcceleratorError", RuntimeError)("CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA`"),
    RuntimeError("CUDA driver error: out of memory"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("MPS backend out of memory (MPS allocated: 17.90 GB, other allocations: 1.20 GB)"),
    RuntimeError("Invalid buffer size: 20.00 GB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory"),
]


def little_memory(net, error, most=8):
    """The network; more than a few images at once do not fit into its memory."""

    class LittleMemory(type(net)):
        def forward(self, images):
            if len(images) > most:
                raise error
            return super().forward(images)

    net.__class__ = LittleMemory
    return net


def fit_with_little_memory(trainer, digits, callback):
    small = [
        DataLoader(TensorDataset(*(tensor[rows] for tensor in digits.tensors)), batch_size=8)
        for rows in (slice(64), slice(64, 128))
    ]
    run = trainer(callbacks=[callback], max_epochs=3)
    run.fit(little_memory(SmallModule(), callback.error), *small)
    assert run.current_epoch == 3


@pytest.mark.parametrize(
    "error",
    [NO_MEMORY[0], *(pytest.param(error, marks=pytest.mark.slow) for error in NO_MEMORY[1:])],
    ids=lambda error: str(error)[:24],
)
def test_out_of_memory_costs_no_epoch(trainer, digits, error, recwarn):
    """Whatever the device calls it, and whether the model, its convolutions or the judge ask for too much."""
    judge = little_memory(SmallModule(), error).eval()
    callback = FillInBlanksCallback(num_masks=16, max_overhead=None, judge=judge)
    callback.error = error
    fit_with_little_memory(trainer, digits, callback)
    assert [entry["epoch"] for entry in callback.history] == [0, 1, 2]
    assert callback.history[-1]["carryover_accuracy"] >= 0
    assert callback.history[-1]["judge_ceiling"] >= 0
    assert not [each for each in recwarn if "FillInBlanks" in str(each.message)]


@pytest.mark.parametrize("room", [8, 0])
def test_without_memory_for_its_images_a_probe_takes_fewer_or_none(trainer, digits, room, monkeypatch):
    """The images themselves do not fit, which no model can show on this machine."""
    probe = FillInBlanks.probe

    def with_little_room(self, model, images, *arguments, **options):
        if len(images) > room and options.get("judge") is not None:
            raise MemoryError
        return probe(self, model, images, *arguments, **options)

    monkeypatch.setattr(FillInBlanks, "probe", with_little_room)
    callback = FillInBlanksCallback(num_masks=16, max_overhead=None)
    callback.error = MemoryError()
    with pytest.warns(UserWarning, match="FillInBlanks") as said:
        fit_with_little_memory(trainer, digits, callback)
    (line,) = [str(each.message) for each in said if "FillInBlanks" in str(each.message)]
    if room:
        assert "from now on it takes 5 images, not 40" in line
        assert [entry["epoch"] for entry in callback.history] == [0, 1, 2]
        assert len(callback.result.images) == 5
    else:
        assert "not enough memory for a probe of a single image" in line
        assert callback.history == []


class SometimesInfinite(nn.Module):
    """The gradient is not finite where the first pixel is masked."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(64, 3)

    def forward(self, images):
        return self.linear(images.flatten(1)) + images[:, 0, 0, :1].sqrt()


def test_updates_that_are_not_finite_are_counted_and_left_out():
    images = torch.rand(4, 1, 8, 8) + 0.1
    labels = torch.zeros(4, dtype=torch.long)
    probe = FillInBlanks(num_masks=64, patch_size=2, baseline=0.0)
    result = probe.probe(SometimesInfinite(), images, labels)
    assert result.metrics["nonfinite"] == pytest.approx(0.25, abs=0.1)  # a quarter of the masks hide the first patch
    assert result.updates.isfinite().all()
    assert (result.kept <= 64 * (1 - result.metrics["nonfinite"])).all()
    finite = probe.probe(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), images, labels)
    assert finite.metrics["nonfinite"] == 0


def test_the_callback_reports_them_once(trainer, loaders):
    class Module(SmallModule):
        def forward(self, images):
            logits = super().forward(images)
            if images.requires_grad and not self.trainer.sanity_checking:
                logits = logits + (images.flatten(1)[:, :1] * 0).sqrt()
            return logits

    probe = FillInBlanksCallback(max_overhead=None, num_masks=4)
    with pytest.warns(
        UserWarning, match="100.0% of the masked images in epoch 0 gave updates that are not finite"
    ) as seen:
        trainer(callbacks=[probe], max_epochs=3).fit(Module(), *loaders)
    assert len([warning for warning in seen if "not finite" in str(warning.message)]) == 1
    assert [entry["nonfinite"] for entry in probe.history] == [1.0, 1.0, 1.0]


def breaks(model, images):
    """Logits, but an error in every probe after the first check."""
    if model.trainer.current_epoch > 0 and images.requires_grad:
        raise ZeroDivisionError("broken model")
    return model(images)


def test_an_error_is_logged_once_with_its_traceback_and_training_goes_on(trainer, loaders, caplog):
    probe = FillInBlanksCallback(max_overhead=None, num_masks=4, logits_fn=breaks)
    stopping = EarlyStopping(monitor="fitb/coverage", mode="max", patience=50)
    run = trainer(callbacks=[probe, stopping], max_epochs=4)
    with caplog.at_level(logging.ERROR), pytest.warns(UserWarning, match="the probe of epoch 1 failed") as seen:
        run.fit(SmallModule(), *loaders)
    assert run.current_epoch == 4
    assert [entry["epoch"] for entry in probe.history] == [0]
    errors = [record for record in caplog.records if "failed; training goes on" in record.getMessage()]
    assert len(errors) == 1
    assert "ZeroDivisionError: broken model" in caplog.text
    assert 'raise ZeroDivisionError("broken model")' in caplog.text
    assert len([warning for warning in seen if "failed" in str(warning.message)]) == 1


def test_on_error_raise_ends_training(trainer, loaders):
    with pytest.raises(ZeroDivisionError, match="broken model"):
        trainer(
            callbacks=[FillInBlanksCallback(max_overhead=None, num_masks=4, logits_fn=breaks, on_error="raise")]
        ).fit(SmallModule(), *loaders)


def test_what_never_works_is_off_with_one_line(trainer, loaders):
    def always(model, images):
        raise ZeroDivisionError("never worked")

    run = trainer(callbacks=[FillInBlanksCallback(num_masks=4, logits_fn=always)])
    with pytest.warns(UserWarning, match="off for this run: ZeroDivisionError: never worked") as said:
        run.fit(SmallModule(), *loaders)
    assert len([each for each in said if "FillInBlanks" in str(each.message)]) == 1
    assert run.current_epoch == 2
    with pytest.raises(ZeroDivisionError, match="never worked"):
        trainer(callbacks=[FillInBlanksCallback(num_masks=4, logits_fn=always, on_error="raise")]).fit(
            SmallModule(), *loaders
        )


def test_a_strange_batch_is_passed_over(trainer, loaders):
    seen = []

    def adapter(batch):
        seen.append(batch)
        if len(seen) % 3 == 0:  # not in the check of the first
            raise KeyError("no picture in this one")
        return batch

    probe = FillInBlanksCallback(max_overhead=None, num_masks=4, batch_adapter=adapter)
    with pytest.warns(UserWarning, match="a validation batch could not be read: KeyError: 'no picture in this one'"):
        trainer(callbacks=[probe]).fit(SmallModule(), *loaders)
    assert [entry["epoch"] for entry in probe.history] == [0, 1]
    seen.clear()
    strict = FillInBlanksCallback(max_overhead=None, num_masks=4, batch_adapter=adapter, on_error="raise")
    with pytest.raises(KeyError, match="no picture in this one"):
        trainer(callbacks=[strict]).fit(SmallModule(), *loaders)


def test_a_logger_that_fails_does_not_take_the_others_along(trainer, loaders, tmp_path):
    from lightning.pytorch.loggers import CSVLogger

    class Broken(CSVLogger):
        def log_metrics(self, metrics, step=None):
            if any("fitb" in key for key in metrics):
                raise ConnectionError("gone")

    good = CSVLogger(tmp_path, name="good")
    with pytest.warns(UserWarning, match="Broken did not take what was probed in epoch 0; training goes on"):
        trainer(
            callbacks=[FillInBlanksCallback(max_overhead=None, num_masks=4)],
            logger=[Broken(tmp_path, name="bad"), good],
        ).fit(SmallModule(), *loaders)
    good.save()
    assert "fitb/coverage" in (tmp_path / "good" / "version_0" / "metrics.csv").read_text()


def test_nothing_is_warned_of_in_a_run_without_faults(trainer, loaders):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        trainer(callbacks=[FillInBlanksCallback(max_overhead=None, num_masks=4, audit=True)]).fit(
            SmallModule(), *loaders
        )
    assert not [warning for warning in seen if "FillInBlanks" in str(warning.message)]
