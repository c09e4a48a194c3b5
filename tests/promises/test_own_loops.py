"""The probe in loops of one's own: plain PyTorch, DistributedDataParallel, Fabric."""

import copy
import os
import socket
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from lightning.fabric import Fabric
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from fitb_callbacks import FillInBlanks, FillInBlanksResult
from warm_process import Warm

SCRIPT = Path(__file__).parents[1] / "helpers" / "fabric_run.py"
PROBE = FillInBlanks(num_masks=16, chunk_size=64)


def new_model():
    torch.manual_seed(0)
    head = nn.Sequential(nn.Dropout(0.2), nn.Flatten(), nn.Linear(4 * 36, 10))
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), head)


def trained(precision, data, probe_images, *, probing):
    """A model trained for two epochs under Fabric, unwrapped and wrapped, and what the probes found."""
    fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
    inner = new_model()
    model, optimizer = fabric.setup(inner, torch.optim.Adam(inner.parameters(), lr=1e-3))
    torch.manual_seed(1)
    found = []
    for _ in range(2):
        for images, labels in fabric.setup_dataloaders(DataLoader(data, batch_size=100, shuffle=True)):
            optimizer.zero_grad()
            fabric.backward(F.cross_entropy(model(images).float(), labels))
            optimizer.step()
        if probing:
            found.append(PROBE.probe(model, *probe_images))
    return inner, model, found


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_fabric_is_probed_in_its_precision_and_trains_as_without(digits, probe_images, precision):
    data = torch.utils.data.Subset(digits, range(300))
    inner, model, found = trained(precision, data, probe_images, probing=True)
    assert found[-1].covered.any()
    without, _, _ = trained(precision, data, probe_images, probing=False)
    for one, other in zip(inner.state_dict().values(), without.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    images, labels = probe_images
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
        plain = PROBE.probe(inner, images.to(next(inner.parameters()).dtype), labels)
    wrapped = PROBE.probe(model, images, labels)
    assert torch.equal(plain.predictions, wrapped.predictions)
    torch.testing.assert_close(plain.updates.float(), wrapped.updates.float(), rtol=0.02, atol=1e-3)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_module_in_distributed_data_parallel_is_probed(tmp_path, probe_images):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        model = new_model()
        wrapped = DistributedDataParallel(copy.deepcopy(model))
        one, other = PROBE.probe(model, *probe_images), PROBE.probe(wrapped, *probe_images)
    finally:
        torch.distributed.destroy_process_group()
    assert torch.equal(one.updates, other.updates)


@pytest.mark.slow
def test_fabric_on_two_processes_gives_the_numbers_of_one(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PL_", "LOCAL_RANK", "NODE"))}
    environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": "0"}
    for devices in (1, 2):
        (tmp_path / str(devices)).mkdir()
        places = [{**meeting, "LOCAL_RANK": str(rank)} if devices > 1 else {} for rank in range(devices)]
        running = [Warm(SCRIPT, tmp_path / str(devices), devices, environment=environment | each) for each in places]
        for process in running:
            done = process.wait()
            assert done.returncode == 0, done.stderr
    for epoch in range(2):
        alone = FillInBlanksResult.load(tmp_path / "1" / f"epoch{epoch}-rank0.npz")
        for rank in range(2):
            shared = FillInBlanksResult.load(tmp_path / "2" / f"epoch{epoch}-rank{rank}.npz")
            assert torch.equal(shared.kept, alone.kept)
            torch.testing.assert_close(shared.updates, alone.updates, rtol=1e-3, atol=1e-6)
            assert shared.metrics == pytest.approx(alone.metrics, abs=1e-5, nan_ok=True)
