"""The five commands of docs/registry.md, as they stand there, on a server with passwords and roles."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import mlflow
import pytest
from lightning.pytorch import seed_everything
from lightning.pytorch.loggers import MLFlowLogger
from mlflow import MlflowClient
from torch import nn

from exported import log_exported
from fitb_callbacks import FillInBlanksCallback
from fitb_callbacks.integrations.mlflow.lookup import find_model
from fitb_callbacks.integrations.mlflow.registry import last_check
from fitb_callbacks.integrations.mlflow.sink import outbox
from mlflow_server import Server
from quick import quiet_trainer
from small_module import SmallModule

pytest.importorskip("flask_wtf", reason="what MLflow needs for passwords")

ROOT = Path(__file__).parents[2]
OF_OTHER_TESTS = ("MLFLOW_TRACKING", "MLFLOW_EXPERIMENT", "PYTHON")
ADMIN, GATE = ("admin", "correct horse battery"), ("gate", "staple of the gate")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """MLflow's server with its own authentication; its file of users is its own."""
    folder = tmp_path_factory.mktemp("journey")
    settings = folder / "auth.ini"
    settings.write_text(
        "[mlflow]\ndefault_permission = READ\n"
        f"database_uri = sqlite:///{folder}/users.db\nadmin_username = {ADMIN[0]}\nadmin_password = {ADMIN[1]}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    running = Server(
        folder,
        "--app-name",
        "basic-auth",
        MLFLOW_AUTH_CONFIG_PATH=str(settings),
        MLFLOW_FLASK_SERVER_SECRET_KEY="of these tests",
    )
    running.start()
    yield running
    running.stop()


def signed_in(monkeypatch, user):
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", user[0])
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", user[1])


def train_and_register(uri, loaders, folder):
    """What the people who train do: a good version with the callback, and one that has learned nothing."""
    mlflow.set_tracking_uri(uri)
    seed_everything(0, verbose=False)
    logger = MLFlowLogger(experiment_name="digits", tracking_uri=uri)
    module = SmallModule()
    probe = FillInBlanksCallback(num_masks=16, images_per_class=4, max_overhead=None)
    quiet_trainer(folder, max_epochs=2, logger=logger, callbacks=[probe]).fit(module, *loaders)
    assert outbox(uri, logger.run_id).settle(120) == 0
    untrained = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    mlflow.set_experiment(experiment_id=logger.experiment_id)  # another test's may still be the process's own
    for network, run_id in ((module.net, logger.run_id), (untrained, None)):
        with mlflow.start_run(run_id=run_id):
            log_exported(network.eval(), name="net", registered_model_name="digits")
    return logger.experiment_id


def allow(uri, experiment_id):
    """What an administrator does: the gate may write to the experiment and to the model, and no more."""
    from mlflow.server import get_app_client

    users = get_app_client("basic-auth", tracking_uri=uri)
    users.create_user(*GATE)
    if hasattr(users, "grant_user_permission"):
        users.grant_user_permission(GATE[0], "experiment", experiment_id, "EDIT")
        users.grant_user_permission(GATE[0], "registered_model", "digits", "EDIT")
    else:  # older MLflow
        users.create_experiment_permission(experiment_id, GATE[0], "EDIT")
        users.create_registered_model_permission("digits", GATE[0], "EDIT")


def commands():
    """The block of the page, and how many commands it has."""
    page = (ROOT / "docs" / "registry.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```sh\n(pip install .*?)```", page, re.DOTALL)
    return [line for line in block.splitlines() if line and not line.startswith("#")]


def fresh_environment(folder):
    """A virtual environment that has all that the package needs, and neither the package nor a registry to ask."""
    source = folder / "source"
    for name in ("fitb_callbacks", "integrations"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    wheel = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", folder / "wheels", source]
    subprocess.run(wheel, check=True, capture_output=True)
    libraries = folder / "libraries"
    libraries.mkdir()
    for place in (Path(place) for place in sys.path if place.endswith("site-packages")):
        for path in place.iterdir():
            if (
                not re.match(r"_*(editable___?)?fitb|.*\.pth$|pip$|pip-", path.name)
                and not (libraries / path.name).exists()
            ):
                (libraries / path.name).symlink_to(path)
    venv.create(folder / "venv", with_pip=True)
    (site,) = (folder / "venv").glob("lib/*/site-packages")
    (site / "libraries.pth").write_text(f"{libraries}\n")
    for path in site.glob("setuptools*"):  # too old for torch, and before the one among the libraries
        shutil.rmtree(path)
    return folder / "venv" / "bin", {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder / "wheels")}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_from_installation_to_a_refused_and_a_promoted_model(server, loaders, tmp_path, monkeypatch):
    signed_in(monkeypatch, ADMIN)
    allow(server.uri, train_and_register(server.uri, loaders, tmp_path))
    lines = commands()
    assert len(lines) <= 5
    typed = "\n".join(f"{line}\ncodes+=($?)" for line in lines)
    typed = typed.replace("https://mlflow.example.com", server.uri).replace("PASSWORD=...", f"PASSWORD='{GATE[1]}'")
    programs, offline = fresh_environment(tmp_path)
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith(OF_OTHER_TESTS)},
        **offline,
        "PATH": f"{programs}:/usr/bin:/bin",  # no other fitb
    }
    done = subprocess.run(
        ["bash", "-c", f"{typed}\necho codes ${{codes[@]}}"],
        env=environment, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert "codes 0 0 0 1 0\n" in done.stdout, said
    assert "Successfully installed fitb-callbacks" in said
    assert "champion moved from no version to models:/digits/1" in said
    assert "refused" in said
    client = MlflowClient(server.uri)
    assert client.get_model_version_by_alias("digits", "champion").version == "1"
    said = [client.get_model_version("digits", number).tags["fitb.verdict"] for number in "12"]
    assert [line.partition(":")[0] for line in said] == ["passed", "refused"]
    run = last_check(client, find_model(client, "models:/digits/1"))
    evidence = mlflow.artifacts.load_dict(f"{run.info.artifact_uri}/check/verdict.json")
    assert evidence["provenance"]["server_user"] == GATE[0]
    assert evidence["provenance"]["data"] == "recorded in the training of models:/digits/1"
    assert not [model for model in client.search_registered_models() if "lock" in model.name]
    assert importlib.metadata.version("torch") == evidence["provenance"]["versions"]["torch"]
