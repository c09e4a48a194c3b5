"""Every example, run as a user would run it."""

import re
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import warm_process
from mlflow_store import new_store
from needs import needs_chinese_font, needs_fashion_mnist

CARTON = re.compile(r"^(\D+?) +p\(carton\) ([\d.]+), median rank among 1,000 classes (\d+)$", re.M)
EXAMPLES = Path(__file__).parents[2] / "examples"


def run(script, *arguments):
    """Run a script in the current folder with one thread; its output, or a failure that shows it."""
    done = warm_process.run(EXAMPLES / script, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def event_file(folder):
    return EventAccumulator(str(folder), size_guidance={"images": 0}).Reload()


@pytest.mark.slow
def test_tensorboard():
    assert "fitb/accuracy" in run("tensorboard_run.py")
    events = event_file("fitb-runs/digits/version_0")
    assert len(events.Images("fitb/prototypes")) == 4  # the first before training
    assert len(events.Scalars("fitb/coverage")) == 3


@pytest.mark.slow
def test_mlflow(tmp_path):
    store = new_store(tmp_path / "mlflow.db")
    assert "best fitb/accuracy" in run("mlflow_run.py")
    client = MlflowClient(store)
    (found,) = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    assert len(client.get_metric_history(found.info.run_id, "fitb/accuracy")) == 3
    pictures = [file.path for file in client.list_artifacts(found.info.run_id, "images")]
    for name in ("prototypes", "confusion"):  # one of the untrained network, and three probes
        assert len([path for path in pictures if name in path and path.endswith(".png")]) == 4


@pytest.mark.slow
def test_registry(tmp_path):
    store = new_store(tmp_path / "mlflow.db")
    lines = run("registry_run.py").splitlines()
    assert [line for line in lines if line.startswith("passed")]
    client = MlflowClient(store)
    assert client.get_model_version_by_alias("digits", "champion").tags["fitb.verdict"].startswith("passed: ")


@pytest.mark.slow
def test_lightning_cli():
    run("lightning_cli.py", "fit", "--config", EXAMPLES / "lightning_cli.yaml")
    events = event_file("fitb-runs/digits-cli/version_0")
    assert len(events.Images("fitb/prototypes")) == 3


def test_lightning_cli_knows_every_setting():
    shown = run("lightning_cli.py", "fit", "--trainer.callbacks.help", "fitb_callbacks.FillInBlanksCallback")
    for setting in ("--images_per_class", "--mask_ratio", "--normalize", "--baseline", "--seed"):
        assert setting in shown.replace("trainer.callbacks.", "")


def test_lightning_cli_refuses_a_wrong_setting(tmp_path):
    config = (EXAMPLES / "lightning_cli.yaml").read_text().replace("mask_ratio: 0.25", "mask_ratio: 1.25")
    (tmp_path / "wrong.yaml").write_text(config)
    with pytest.raises(AssertionError, match=r"mask_ratio must be a number greater than 0 and less than 1; got 1.25"):
        run("lightning_cli.py", "fit", "--config", tmp_path / "wrong.yaml")


@pytest.mark.slow
def test_shortcut(tmp_path):
    lines = run("shortcut.py", "--output", tmp_path).splitlines()
    values = {}
    for line in lines:
        if line in ("digits", "digits with a mark"):
            scores = values.setdefault(line, {})
        elif line.startswith("  "):
            name, value = line.strip().rsplit(": ", 1)
            scores[name] = float(value)
    healthy, marked = values["digits"], values["digits with a mark"]
    assert marked["validation accuracy"] == 1 > healthy["validation accuracy"]
    assert marked["judge trained on these images"] > 0.8  # which is the point: it is taken in
    assert marked["judge trained on trusted images"] < healthy["judge trained on trusted images"]
    assert marked["structure"] < 0.2 * healthy["structure"]
    assert marked["shortcut"] > 0.5
    assert (tmp_path / "shortcut.png").exists()
    for name in values:
        assert event_file(tmp_path / name / "version_0").Images("fitb/prototypes")


@pytest.mark.slow
@needs_chinese_font
def test_watermark(tmp_path):
    said = run("watermark.py", "--masks", "48", "--hidden", "2", "--output", tmp_path / "watermark.png")
    found = {name.strip(): (float(p), int(rank)) for name, p, rank in CARTON.findall(said)}
    assert found["Chinese characters"][0] > 10 * found["no mark"][0]
    assert found["Chinese characters"][1] < found["Latin letters"][1] / 2
    under, area = (int(share) for share in re.search(r"(\d+)% of what .* on (\d+)% of the picture", said).groups())
    assert under > area
    assert Image.open(tmp_path / "watermark.png").size == (448, 448)


@pytest.mark.slow
@needs_fashion_mnist
def test_reproduce_paper(tmp_path):
    run("reproduce_paper.py", "--quick", "--output", tmp_path / "paper")
    page = (tmp_path / "paper" / "README.md").read_text()
    assert page.count("| random |") == page.count("| progressive |") == 6
    assert page.count("| ResNet5, trained with noise |") == 5  # two data sets, two kinds of masks, and the fresh digits
    figures = {"1", "2a", "2b", "3", "4", "5", "6"}
    assert {path.stem.removeprefix("figure-") for path in (tmp_path / "paper").glob("*.png")} == figures
    for figure in figures:
        assert f"(figure-{figure}.png)" in page
        pixels = np.array(Image.open(tmp_path / "paper" / f"figure-{figure}.png"))
        assert min(pixels.shape[:2]) > 100
        assert len(np.unique(pixels)) > 10
