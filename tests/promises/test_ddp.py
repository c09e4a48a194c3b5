"""Two processes get the numbers of one, and none hangs when another fails."""

import csv
import json
import os
import socket
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy

from fitb_callbacks import FillInBlanksCallback
from fitb_callbacks.callback.errors import ProbeOffError
from small_module import SmallModule
from warm_process import Warm

SCRIPT = Path(__file__).parents[1] / "helpers" / "ddp_run.py"
SHARDED = SCRIPT.with_name("sharded_run.py")


def run(folder, *, devices=2, case="plain", started_by_lightning=False, script=SCRIPT):
    """What each process found, and what all said; the second process is started here, as a cluster would, or not."""
    folder.mkdir()
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PL_", "LOCAL_RANK", "NODE"))}
    environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(SCRIPT.parent)}
    places = [{}]
    if devices > 1 and not started_by_lightning:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "NODE_RANK": "0"}
        places = [{**meeting, "LOCAL_RANK": str(rank)} for rank in range(devices)]
    processes = [Warm(script, folder, devices, case, environment=environment | place) for place in places]
    done = [process.wait() for process in processes]
    said = "".join(each.stdout + each.stderr for each in done)
    assert all(each.returncode == 0 for each in done), said
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(devices)], said


@pytest.mark.parametrize(
    "case",
    [
        "other classes on each rank",
        pytest.param("plain", marks=pytest.mark.slow),
        pytest.param("changes images in the step", marks=pytest.mark.slow),
    ],
)
def test_two_processes_get_the_numbers_of_one(tmp_path, case):
    (alone,), _ = run(tmp_path / "one", devices=1, case=case)
    ranks, log = run(tmp_path / "two", case=case, started_by_lightning=case == "plain")
    for rank in ranks:
        assert rank["step"] == alone["step"] == 30
        assert rank["labels"] == alone["labels"]
        assert rank["images"] == alone["images"]
        assert rank["kept"] == alone["kept"]
        torch.testing.assert_close(torch.tensor(rank["updates"]), torch.tensor(alone["updates"]), rtol=1e-3, atol=1e-6)
        # Steps are divided by their size, so rounding grows over them, but what is drawn is the same.
        filled, expected = (torch.tensor(each["filled"]) for each in (rank, alone))
        assert (filled - expected).abs().mean() < 0.05 * expected.std()
        assert [entry["epoch"] for entry in rank["history"]] == [0, 1, 2]
        for entry, expected in zip(rank["history"], alone["history"], strict=True):
            assert entry.keys() == expected.keys()
            for name, value in entry.items():
                if name not in {"seconds", "overhead"}:
                    assert value == pytest.approx(expected[name], abs=1e-5, nan_ok=True), name
    assert ranks[0]["filled"] == ranks[1]["filled"]
    assert torch.tensor(alone["images"]).min() == (-1 if case == "changes images in the step" else 0)
    assert set(alone["labels"]) == set(range(10))
    assert log.count("none changed") == 4  # one before training; the audit reports on one process only
    with next((tmp_path / "two").rglob("metrics.csv")).open() as file:
        rows = [row for row in csv.DictReader(file) if row["fitb/coverage"]]
    assert [float(row["fitb/coverage"]) for row in rows] == pytest.approx([e["coverage"] for e in alone["history"]])


@pytest.mark.parametrize(
    ("case", "probed"),
    [("a share that is too small", False), ("a share that has time", True)],
)
def test_processes_agree_on_what_a_share_of_their_time_pays_for(tmp_path, case, probed):
    ranks, log = run(tmp_path / "two", case=case)
    for rank in ranks:
        assert rank["step"] == 30
        assert rank["looked"] == (rank["learned"] > 0) == (len(rank["history"]) > 0) == probed
    assert len(ranks[0]["history"]) == len(ranks[1]["history"])
    assert ("a first look at the model takes at least" in log) == (not probed)


@pytest.mark.parametrize("case", ["fails in the masks", pytest.param("fails in the end", marks=pytest.mark.slow)])
def test_an_error_on_one_process_reaches_all_and_hangs_none(tmp_path, case):
    ranks, log = run(tmp_path / "two", case=case)
    for rank in ranks:
        assert rank["step"] == 30
        assert [entry["epoch"] for entry in rank["history"]] == [0, 2]
        assert rank["monitored"]["fitb/coverage"] > 0
    assert "rank 1 failed with RuntimeError: only here" in log


def test_a_strategy_that_cannot_be_followed_is_named_in_one_line():
    trainer = Trainer(accelerator="cpu", devices=1, logger=False, barebones=True)
    trainer.strategy.__class__ = DeepSpeedStrategy  # it cannot be made without a GPU
    trainer.state.fn = "fit"
    reason = "off for this run: DeepSpeedStrategy takes gradients by its own engine.*ModelParallelStrategy"
    with pytest.warns(UserWarning, match=reason) as said:
        FillInBlanksCallback().setup(trainer, SmallModule(), "fit")
    assert len(said) == 1
    with pytest.raises(ProbeOffError, match="DeepSpeedStrategy"):
        FillInBlanksCallback(on_error="raise").setup(trainer, SmallModule(), "fit")


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [
        "fsdp2",
        "fsdp2,no validation",
        "fsdp1",
        "fsdp1,whole,in the step",
        "fsdp1,whole,flat,no validation",
        "fsdp1,accumulated",
        "fsdp1,bf16",
    ],
)
def test_sharded_parameters_give_the_numbers_of_one_process(tmp_path, case):
    """FSDP2 through ModelParallelStrategy, and FSDPStrategy, over gloo."""
    ranks, _ = run(tmp_path / "two", case=case, script=SHARDED)
    plain, _ = run(tmp_path / "without", case=f"{case},without", script=SHARDED)
    for rank, without in zip(ranks, plain, strict=True):
        assert rank["weights"] == without["weights"]
        assert rank["loss"] == without["loss"]
    if "bf16" in case:  # FSDP casts parameters, and one process casts within each operation
        return
    (alone,), _ = run(tmp_path / "one", devices=1, case=case, script=SHARDED)
    for rank in ranks:
        assert rank["images"] == alone["images"]
        assert rank["updates"] == alone["updates"]
        assert len(rank["history"]) == len(alone["history"]) >= 2
        for one, other in zip(alone["history"], rank["history"], strict=True):
            for name in set(one) - {"seconds", "overhead"}:
                assert one[name] == pytest.approx(other[name], nan_ok=True), name
