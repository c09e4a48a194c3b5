"""A real network on real photographs."""

from __future__ import annotations

import pytest
import torch
from typer.testing import CliRunner

from fitb_callbacks import FillInBlanksResult
from fitb_callbacks.cli import app
from fitb_callbacks.data.photographs import load_photographs
from fitb_callbacks.models.checkpoints import load_checkpoint
from fitb_callbacks.models.pretrained import efficientnet_lite0

PRETRAINED = "fitb_callbacks.models.pretrained:efficientnet_lite0"


def test_the_network_knows_the_photographs():
    images, labels = load_photographs().tensors
    with torch.no_grad():
        assert torch.equal(efficientnet_lite0()(images).argmax(dim=1), labels)


def test_a_network_with_its_weights_needs_no_checkpoint():
    built, loaded = efficientnet_lite0(), load_checkpoint(None, PRETRAINED)
    assert not loaded.training
    for name, tensor in built.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name])


@pytest.mark.parametrize(
    ("class_path", "message"),
    [
        ("torch.nn:Linear", "--class torch.nn:Linear gives no model without a checkpoint"),
        ("builtins:dict", "--class must name a LightningModule"),
        ("time:time", "--class time:time must return a torch.nn.Module; got"),
    ],
)
def test_what_is_no_model_is_named(class_path, message):
    with pytest.raises(ValueError, match=message):
        load_checkpoint(None, class_path)


@pytest.mark.timeout(600)
@pytest.mark.slow
def test_the_command_probes_it_in_one_line(tmp_path):
    command = ["probe", "--class", PRETRAINED, "--data", "fitb_callbacks.data.photographs:load_photographs"]
    few = ["--num-masks", "2", "--max-images", "1", "--output", str(tmp_path)]
    finished = CliRunner().invoke(app, command + few)
    assert finished.exit_code == 0, finished.output
    result = FillInBlanksResult.load(tmp_path / "result.npz")
    assert result.class_name(int(result.labels[0])) == "Egyptian cat"
    assert result.filled.isfinite().all()
    assert (tmp_path / "prototypes.png").stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_demo_fills_the_photographs_in(tmp_path):
    finished = CliRunner().invoke(app, ["demo", "--data", "photos", "--output", str(tmp_path)])
    assert finished.exit_code == 0, finished.output
    result = FillInBlanksResult.load(tmp_path / "photos.npz")
    assert torch.equal(result.fill_predictions, result.labels)
    assert result.covered.all()
    assert result.interpretation()["tone"] == "unclear"  # four photographs are too few for a verdict
    assert (tmp_path / "photos.png").stat().st_size > 50_000
