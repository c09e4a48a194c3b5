"""Two processes get the numbers of one, and none hangs when another fails."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy

from fitb_callbacks import FillInBlanksCallback
from small_module import SmallModule

SCRIPT = Path(__file__).with_name("ddp_run.py")


def run(folder, *, devices=2, case="plain"):
    folder.mkdir()
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PL_", "LOCAL_RANK", "NODE"))}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder), str(devices), case],
        env=environment | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(SCRIPT.parent)},
        capture_output=True,
        text=True,
        timeout=200,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(devices)], done.stdout + done.stderr


@pytest.mark.parametrize("case", ["other classes on each rank", pytest.param("plain", marks=pytest.mark.slow)])
def test_two_processes_get_the_numbers_of_one(tmp_path, case):
    (alone,), _ = run(tmp_path / "one", devices=1, case=case)
    ranks, log = run(tmp_path / "two", case=case)
    for rank in ranks:
        assert rank["step"] == alone["step"] == 30
        assert rank["labels"] == alone["labels"]
        assert rank["images"] == alone["images"]
        assert rank["kept"] == alone["kept"]
        torch.testing.assert_close(torch.tensor(rank["updates"]), torch.tensor(alone["updates"]), rtol=1e-3, atol=1e-6)
        assert [entry["epoch"] for entry in rank["history"]] == [0, 1, 2]
        for entry, expected in zip(rank["history"], alone["history"], strict=True):
            assert entry.keys() == expected.keys()
            assert {k: v for k, v in entry.items() if k not in {"seconds", "overhead"}} == pytest.approx(
                {k: v for k, v in expected.items() if k not in {"seconds", "overhead"}}, abs=1e-5, nan_ok=True
            )
    assert set(alone["labels"]) == set(range(10))
    assert log.count("none changed") == 3  # the audit reports on one process only
    with next((tmp_path / "two").rglob("metrics.csv")).open() as file:
        rows = [row for row in csv.DictReader(file) if row["fitb/coverage"]]
    assert [float(row["fitb/coverage"]) for row in rows] == pytest.approx([e["coverage"] for e in alone["history"]])


@pytest.mark.parametrize("case", ["fails in the masks", pytest.param("fails in the end", marks=pytest.mark.slow)])
def test_an_error_on_one_process_reaches_all_and_hangs_none(tmp_path, case):
    ranks, log = run(tmp_path / "two", case=case)
    for rank in ranks:
        assert rank["step"] == 30
        assert [entry["epoch"] for entry in rank["history"]] == [0, 2]
        assert rank["monitored"]["fitb/coverage"] > 0
    assert "rank 1 failed with RuntimeError: only here" in log


@pytest.mark.parametrize("strategy", [FSDPStrategy, ModelParallelStrategy])
def test_strategies_that_split_parameters_are_refused_by_name(strategy):
    trainer = Trainer(accelerator="cpu", devices=1, logger=False, barebones=True)
    trainer.strategy.__class__ = strategy  # these cannot be made without a GPU
    with pytest.raises(ValueError, match=f"{strategy.__name__}.*probe a consolidated checkpoint"):
        FillInBlanksCallback().setup(trainer, SmallModule(), "fit")
