"""Fixtures: small real models and data, and no trace left by any test."""

from __future__ import annotations

import os
import sys
import threading
from functools import partial

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from quick import quiet_trainer
from small_network import learned

collect_ignore = ["helpers"]  # modules that tests import, and scripts that they start as processes

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # no test talks to another machine
torch.set_num_threads(1)  # the models are tiny: a second thread costs more than it gives


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config):
    """A process a core for the whole suite; none for chosen files, which would only wait for the others to start."""
    return (os.cpu_count() or 1) if config.args_source is config.ArgsSource.TESTPATHS else 0


@pytest.fixture(autouse=True)
def _nothing_leaks(tmp_path, monkeypatch):
    """Each test runs in a folder of its own, and leaves environment variables and threads as they were."""
    monkeypatch.chdir(tmp_path)
    environment, threads = dict(os.environ), set(threading.enumerate())
    yield
    open_run = None
    if "mlflow" in sys.modules:  # Lightning's logger sets the address of the store for the whole process
        sys.modules["mlflow"].set_tracking_uri(None)
        open_run = sys.modules["mlflow"].active_run()
        if open_run is not None:  # the next test could start none
            sys.modules["mlflow"].end_run()
    changed = {key for key in set(environment) | set(os.environ) if environment.get(key) != os.environ.get(key)}
    # but for pytest's own, and what Lightning and MLflow set by themselves for their subprocesses
    changed = {key for key in changed if not key.startswith(("PYTEST_", "PL_", "MLFLOW_", "_MLFLOW_"))}
    assert not changed, f"environment variables changed: {sorted(changed)}"
    ours = [thread for thread in set(threading.enumerate()) - threads if "fitb" in thread.name]
    assert not ours, f"threads still running: {ours}"
    assert open_run is None, f"a run of MLflow was left open: {open_run.info.run_name}"


@pytest.fixture(scope="session")
def digits() -> TensorDataset:
    """scikit-learn's 1,797 digits, 8 x 8, values in [0, 1]."""
    data = load_digits()
    return TensorDataset(torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16, torch.tensor(data.target))


@pytest.fixture
def loaders(digits):
    """Shuffled training batches and validation batches."""
    train = TensorDataset(*(tensor[:400] for tensor in digits.tensors))
    validation = TensorDataset(*(tensor[1500:1700] for tensor in digits.tensors))
    return DataLoader(train, batch_size=50, shuffle=True), DataLoader(validation, batch_size=50)


@pytest.fixture
def trainer(tmp_path):
    """A function that makes a quiet CPU Trainer."""

    return partial(quiet_trainer, tmp_path)


@pytest.fixture(scope="session")
def trained(digits) -> nn.Module:
    """A classifier of the digits, trained for a few seconds."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(16 * 64, 10)),
    )
    images, labels = (tensor[:1400] for tensor in digits.tensors)
    return learned(model, images, labels, rate=3e-3, epochs=6)


@pytest.fixture
def probe_images(digits):
    """Three validation images of each digit, and their labels."""
    images, labels = (tensor[1400:] for tensor in digits.tensors)
    chosen = torch.cat([(labels == digit).nonzero()[:3, 0] for digit in range(10)])
    return images[chosen], labels[chosen]
