"""Memory stays flat over epochs and does not depend on the number of masks."""

import gc
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import TensorBoardLogger

from fitb_callbacks import FillInBlanksCallback
from small_module import SmallModule


def resident():
    """This process's resident memory in MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


def tensors_alive():
    gc.collect()
    return sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects())


class Watch(Callback):
    def __init__(self):
        self.tensors, self.memory = [], []

    def on_train_epoch_start(self, trainer, pl_module):
        self.tensors.append(tensors_alive())
        self.memory.append(resident())


@pytest.mark.slow
def test_fifty_epochs(trainer, loaders, tmp_path):
    watch, probe = (
        Watch(),
        FillInBlanksCallback(max_overhead=None, num_masks=16, images_per_class=2, on_error="raise", audit=True),
    )
    options = {"limit_train_batches": 2, "limit_val_batches": 2}
    run = trainer(callbacks=[probe, watch], max_epochs=50, logger=TensorBoardLogger(tmp_path), **options)
    run.fit(SmallModule(), *loaders)
    assert len(probe.history) == 50
    assert watch.tensors[-1] <= watch.tensors[5]
    assert watch.memory[-1] - watch.memory[10] < 12, watch.memory  # MiB


PEAK = """
import resource, torch
torch.set_num_threads(1)
from fitb_callbacks import FillInBlanks
from torch import nn
model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(10))
model(torch.rand(1, 3, 32, 32))
images, labels = torch.rand(10, 3, 32, 32), torch.arange(10)
FillInBlanks(num_masks=16, target="predicted").probe(model, images)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
FillInBlanks(num_masks={masks}, target="predicted").probe(model, images)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("masks", [512])
@pytest.mark.slow
def test_the_peak_does_not_depend_on_the_number_of_masks(masks):
    """512 masks after 16 take no more: held at once, their images alone would be 60 MiB and their feature maps 560."""
    script = PEAK.replace("{masks}", str(masks))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 16 * 1024  # KiB
