"""Models of other flavours, and the steps of the GitHub Action, on a local store."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pytest
import yaml
from mlflow import MlflowClient
from typer.testing import CliRunner

from exported import log_exported
from fitb_callbacks.cli import app
from mlflow_store import new_store

ACTION = yaml.safe_load((Path(__file__).parents[2] / "action.yml").read_text())
QUICK = ["--min", "coverage=0.5", "--set", "num_masks=8", "--set", "fill=null", "--images-per-class", "2"]


@pytest.fixture
def store(tmp_path, digits):
    """An empty store here, and validation images in a file."""
    images, labels = (tensor[1400:1600] for tensor in digits.tensors)
    np.savez("validation.npz", images=images, labels=labels)
    uri = new_store(tmp_path / "mlflow.db")
    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment("flavours")
    return uri


def check(uri, model, *arguments):
    everything = ["check", model, "--data", "validation.npz", *QUICK, "--tracking-uri", uri, *arguments]
    return CliRunner().invoke(app, everything)


class Wrapped(mlflow.pyfunc.PythonModel):
    """As teams wrap a network: what it takes are rows."""

    def __init__(self, model):
        self.model = model

    def predict(self, context, model_input, params=None):
        return self.model(model_input)


@pytest.mark.slow
def test_a_pyfunc_model_is_called_by_a_function(store, trained, tmp_path):
    (tmp_path / "half.py").write_text("def logits(model, images):\n    return 0.5 * model(2 * images)\n")
    with mlflow.start_run():
        info = mlflow.pyfunc.log_model(name="net", python_model=Wrapped(trained), registered_model_name="rows")
    address = f"models:/rows/{info.registered_model_version}"
    refused = check(store, address)
    assert refused.exit_code == 2
    assert "If you trust it, add --allow-pickle, and --logits to say how it is called" in refused.output
    done = check(store, address, "--allow-pickle", "--logits", "half:logits")
    assert done.exit_code == 0, done.output
    wrong = check(store, address, "--allow-pickle", "--logits", "half:lost")
    assert wrong.exit_code == 2


@pytest.mark.slow
def test_a_transformers_model_is_called_by_a_function(store, tmp_path):
    transformers = pytest.importorskip("transformers")
    if not transformers.utils.is_torch_available():
        pytest.skip("this transformers wants a newer torch")
    shape = {"image_size": 8, "patch_size": 2, "num_channels": 1, "num_labels": 10}
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = transformers.ViTForImageClassification(transformers.ViTConfig(**shape, **small)).eval()
    parts = {"model": model, "image_processor": transformers.ViTImageProcessor(size={"height": 8, "width": 8})}
    (tmp_path / "vit.py").write_text("def logits(model, images):\n    return model(pixel_values=images).logits\n")
    with mlflow.start_run():
        info = mlflow.transformers.log_model(
            transformers_model=parts,
            name="vit",
            task="image-classification",
            registered_model_name="vit",
            pip_requirements=["transformers"],
        )
    address = f"models:/vit/{info.registered_model_version}"
    done = check(store, address, "--allow-pickle", "--logits", "vit:logits", "--min", "coverage=0", "--json", "-")
    assert json.loads(done.stdout)["verdict"] == "passed", done.output


def run_steps(inputs):
    """The action's bash steps, with its inputs filled in as GitHub does; the exit codes."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "GITHUB_STEP_SUMMARY": "summary.md",
        "GITHUB_OUTPUT": "output.txt",
    }
    values = {name: described.get("default", "") for name, described in ACTION["inputs"].items()} | inputs
    codes = []
    for step in ACTION["runs"]["steps"]:
        if "run" not in step or "pip install" in step["run"]:
            continue
        assert "${{" not in step["run"], "an input in a script is run as code"
        given = {
            key: re.sub(r"\$\{\{ inputs\.(\w+) \}\}", lambda match: values[match[1]], text)
            for key, text in step.get("env", {}).items()
        }
        command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
        codes.append(subprocess.run(command, env=environment | given, timeout=300, check=False).returncode)
    return codes


@pytest.mark.slow
def test_the_steps_of_the_action(store, trained, monkeypatch):
    """A pass, with summary, output and pictures; and an input that would be harmful were it run."""
    with mlflow.start_run():
        log_exported(trained.eval(), name="net", registered_model_name="digits")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    rules = {"data": "validation.npz", "min": {"coverage": 0.5}, "settings": {"num_masks": 8}, "images_per_class": 2}
    Path("rules.yaml").write_text(yaml.safe_dump(rules))
    assert run_steps({"model": "models:/digits/1", "rules": "rules.yaml", "promote": "champion"}) == [0, 0]
    assert "passed: 1 rule passed" in Path("summary.md").read_text()
    assert Path("output.txt").read_text() == "verdict=passed\n"
    assert {path.name for path in Path("fitb-evidence").rglob("*.png")} == {"prototypes.png"}
    assert "torch==" in next(Path("fitb-evidence").rglob("packages.txt")).read_text()
    assert str(MlflowClient(store).get_model_version_by_alias("digits", "champion").version) == "1"
    Path("output.txt").unlink()
    assert run_steps({"model": "models:/digits/1; touch ran", "data": '$(touch ran)"; touch ran'}) == [2, 0]
    assert Path("output.txt").read_text() == "verdict=could not be checked\n"
    assert not Path("ran").exists()
    Path("fitb-verdict.json").unlink()
    assert run_steps({"model": "--help"}) == [2, 0]
