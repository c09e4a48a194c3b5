"""Commands on several processes, devices and in several precisions: the numbers of one process."""

import csv
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from digits_data import training, validation
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from fitb_callbacks import FillInBlanksResult
from quick import fitb, quiet_trainer
from small_module import SmallModule
from warm_process import Warm

HELPERS = Path(__file__).parents[1] / "helpers"
MODULE = ("--class", "small_module:SmallModule")
FEW = ("--num-masks", 32, "--images-per-class", 2)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with two checkpoints of a run, and an .npz file of images."""
    folder = tmp_path_factory.mktemp("trained")
    seed_everything(3, verbose=False)
    saved = ModelCheckpoint(folder, save_top_k=-1)
    trainer = quiet_trainer(folder, max_epochs=2, callbacks=[saved], enable_checkpointing=True)
    trainer.fit(SmallModule(), DataLoader(training(), batch_size=50, shuffle=True))
    images, labels = (torch.stack([torch.as_tensor(each) for each in part]) for part in zip(*validation(), strict=True))
    np.savez(folder / "images.npz", images=images.numpy(), labels=labels.numpy())
    return folder


def on_two_processes(*arguments):
    """The command as `torchrun --nproc-per-node=2 -m fitb_callbacks` starts it; what each process said."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    environment = (
        os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(HELPERS)} | meeting
    )
    processes = [
        Warm("-m", "fitb_callbacks", *arguments, environment=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(2)
    ]
    return [process.wait() for process in processes]


def last(folder):
    return max(folder.glob("*.ckpt"))


@pytest.mark.slow
def test_probe_shares_its_masks(trained):
    arguments = ("probe", last(trained), *MODULE, *FEW, "--data", trained / "images.npz", "--reference")
    arguments += (trained / "images.npz", "--output")
    assert fitb(*arguments, "one").exit_code == 0
    first, second = on_two_processes(*arguments, "two")
    assert (first.returncode, second.returncode) == (0, 0), first.stdout + first.stderr + second.stderr
    assert "structure" in first.stdout
    assert second.stdout == ""
    one, two = (FillInBlanksResult.load(Path(folder, "result.npz")) for folder in ("one", "two"))
    assert one.metrics == pytest.approx(two.metrics, abs=1e-5, nan_ok=True)
    assert torch.equal(one.kept, two.kept)
    torch.testing.assert_close(one.updates, two.updates, rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_replay_shares_its_masks(trained):
    arguments = ("replay", trained, *MODULE, *FEW, "--data", trained / "images.npz", "--output")
    assert fitb(*arguments, "one").exit_code == 0
    done = on_two_processes(*arguments, "two")
    assert [each.returncode for each in done] == [0, 0], done
    one, two = (list(csv.DictReader(Path(folder, "metrics.csv").read_text().splitlines())) for folder in ("one", "two"))
    assert len(one) == len(two) == 2
    for row, other in zip(one, two, strict=True):
        assert row.keys() == other.keys()
        for key in row.keys() - {"fitb/seconds"}:
            assert (row[key] == "") == (other[key] == ""), key
            assert float(row[key] or 0) == pytest.approx(float(other[key] or 0), abs=1e-5), key


@pytest.mark.parametrize(("least", "code"), [(0.1, 0), pytest.param(1.1, 1, marks=pytest.mark.slow)])
def test_check_shares_its_masks_and_the_first_process_decides(trained, least, code):
    arguments = ("check", last(trained), *MODULE, "--set", "num_masks=32", "--images-per-class", 2)
    arguments += ("--data", trained / "images.npz", "--min", f"coverage={least}", "--json")
    assert fitb(*arguments, "one.json").exit_code == code
    first, second = on_two_processes(*arguments, "two.json")
    assert (first.returncode, second.returncode) == (code, 0), first.stderr + second.stderr
    one, two = (json.loads(Path(path).read_text()) for path in ("one.json", "two.json"))
    assert one["verdict"] == two["verdict"] == ("refused" if code else "passed")
    assert one["scores"] == pytest.approx(two["scores"], abs=1e-5, nan_ok=True)


def test_what_fails_in_one_process_ends_all(trained):
    """Only the first process writes, and here it cannot."""
    Path("taken").write_text("a file, no folder")
    first, second = on_two_processes(
        "probe", last(trained), *MODULE, *FEW, "--data", trained / "images.npz", "--output", "taken"
    )
    assert (first.returncode, second.returncode) == (2, 2)
    assert "File exists" in first.stdout


@pytest.mark.slow
def test_torchrun(trained):
    arguments = ("probe", last(trained), *MODULE, *FEW, "--data", trained / "images.npz", "--output")
    assert fitb(*arguments, "one").exit_code == 0
    started = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "fitb_callbacks")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HELPERS)}
    subprocess.run([*started, *map(str, arguments), "two"], check=True, env=environment)
    one, two = (FillInBlanksResult.load(Path(folder, "result.npz")) for folder in ("one", "two"))
    assert one.metrics == pytest.approx(two.metrics, abs=1e-5, nan_ok=True)


def test_a_probe_in_the_precision_of_its_training(trained):
    arguments = ("probe", last(trained), *MODULE, *FEW, "--data", trained / "images.npz", "--output")
    assert fitb(*arguments, "full").exit_code == fitb(*arguments, "bf16", "--precision", "bf16-mixed").exit_code == 0
    full, bf16 = (FillInBlanksResult.load(Path(folder, "result.npz")) for folder in ("full", "bf16"))
    assert not torch.equal(full.updates, bf16.updates)
    likeness = torch.nn.functional.cosine_similarity(full.updates.flatten(), bf16.updates.flatten(), dim=0)
    assert likeness > 0.98


@pytest.mark.parametrize("command", ["probe", "replay", "check", "ablate"])
@pytest.mark.parametrize("device", ["cuda:99", "toaster"])
def test_a_device_that_is_not_there(trained, command, device):
    model = ("--checkpoint", last(trained)) if command == "ablate" else (last(trained),)
    done = fitb(command, *model, *MODULE, "--data", trained / "images.npz", "--device", device)
    assert done.exit_code == 2
    assert f"device must be auto or one that is here (cpu); got '{device}'" in " ".join(done.output.split())
