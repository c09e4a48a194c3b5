"""Names that try to leave their folder, break a page or a picture: class names, run names, prefixes."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger
from mlflow import MlflowClient
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fitb_callbacks import FillInBlanks, FillInBlanksCallback, FillInBlanksResult
from fitb_callbacks.integrations.mlflow.sink import image_key, picture_parcel
from mlflow_store import new_store
from small_module import SmallModule

HOSTILE = [
    "../../etc/passwd",
    "/absolute/path",
    "a \"quoted\" 'name'",
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "emoji 🐈‍⬛ and ﷽ and ‮right to left",
    "x" * 300,
    "line\nbreak\ttab\x00nul\x1b[31mred",
    "{{ template }} %s %(name)s ${HOME}",
    "",
    "+step+7+timestamp+1+.png",
]


def everything_under(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_class_and_run_names_reach_no_path(trainer, loaders, tmp_path):
    inner = tmp_path / "run"
    inner.mkdir()
    uri = new_store(inner / "mlflow.db")
    before = everything_under(tmp_path)
    mlflow = MLFlowLogger(
        experiment_name=HOSTILE[3],
        run_name=HOSTILE[0] + HOSTILE[4],
        tracking_uri=uri,
        artifact_location=(inner / "artifacts").as_uri(),
    )
    tensorboard = TensorBoardLogger(inner, name="tensorboard", version="🐈 <b>")
    probe = FillInBlanksCallback(max_overhead=None, num_masks=4, class_names=HOSTILE, on_error="raise")
    loggers = [mlflow, tensorboard, CSVLogger(inner)]
    trainer(callbacks=[probe], logger=loggers, max_epochs=1).fit(SmallModule(), *loaders)

    assert probe.result.class_names == tuple(HOSTILE)
    new = everything_under(tmp_path) - before
    assert all(path.startswith("run/") for path in new)
    assert not any("passwd" in path or "script" in path for path in new)
    names = [Path(file.path).name for file in MlflowClient(uri).list_artifacts(mlflow.run_id, "images")]
    assert any(name.startswith("A glance at fitb~prototypes+step+7+timestamp+") for name in names)
    assert all(
        re.fullmatch(r"A glance at fitb~[a-z_]+\+step\+[07]\+timestamp\+\d+\+[0-9a-f-]+(\+compressed)?\.\w+", name)
        for name in names
    )
    events = EventAccumulator(tensorboard.log_dir, size_guidance={"images": 0}).Reload()
    assert [event.step for event in events.Images("fitb/prototypes")] == [0, 7]


@pytest.mark.parametrize("name", HOSTILE)
def test_pictures_keep_their_size_and_files_their_names(trained, probe_images, tmp_path, name):
    result = FillInBlanks(num_masks=4).probe(trained, *probe_images, class_names=[name] * 10)
    plain = FillInBlanks(num_masks=4).probe(trained, *probe_images, class_names=["a"] * 10)
    assert result.figure().size == plain.figure().size
    result.save(tmp_path / "result.npz")
    assert FillInBlanksResult.load(tmp_path / "result.npz").class_names == [name] * 10


@pytest.mark.parametrize("name", HOSTILE)
def test_picture_names_become_keys_that_mlflow_takes_and_shows(tmp_path, name):
    """As file names they are one level deep, and their parts are where the run page looks for them."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    parcel = picture_parcel(uri, "0" * 32, f"fitb/{name}", np.zeros((4, 4, 3), np.uint8), 3)
    files = [file for file in parcel if file != "entry.json"]
    assert len(files) == 2
    for file in files:
        assert Path(file).name == file
        assert not file.startswith(".")
        assert len(file) < 255
        key, step = file.split("+")[:3:2]
        assert key == image_key(f"A glance at fitb/{name}").replace("/", "~")
        assert (step, file.split("+")[1], file.split("+")[3]) == ("3", "step", "timestamp")
        (tmp_path / file).write_bytes(parcel[file])
        with Image.open(tmp_path / file) as image:
            image.load()


@pytest.mark.parametrize("prefix", [name for name in HOSTILE if name] + ["a/../b", "a//b", "fitb/", "./fitb"])
def test_hostile_prefixes_are_refused(prefix):
    with pytest.raises(ValueError, match="prefix must be"):
        FillInBlanksCallback(prefix=prefix)


@pytest.mark.parametrize("prefix", ["fitb", "val/fitb", "probe 2", "a.b-c_d"])
def test_usual_prefixes_are_taken_by_every_logger(trainer, loaders, tmp_path, prefix):
    store = new_store(tmp_path / "mlflow.db")
    mlflow = MLFlowLogger(tracking_uri=store, artifact_location=(tmp_path / "artifacts").as_uri())
    probe = FillInBlanksCallback(max_overhead=None, num_masks=4, prefix=prefix, on_error="raise")
    run = trainer(callbacks=[probe], logger=[mlflow, TensorBoardLogger(tmp_path)], max_epochs=1)
    run.fit(SmallModule(), *loaders)
    assert f"{prefix}/coverage" in MlflowClient(store).get_run(mlflow.run_id).data.metrics
    assert torch.isfinite(run.callback_metrics[f"{prefix}/coverage"])
