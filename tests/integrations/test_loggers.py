"""What loggers hold after a run: real event files, a real MLflow store on sqlite."""

import csv
import io
import json
import os
import re
import zipfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from lightning.pytorch import loggers
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger
from mlflow import MlflowClient
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import warm_process
from fitb_callbacks import FillInBlanksCallback
from fitb_callbacks.integrations.loggers import log_picture
from fitb_callbacks.integrations.mlflow.sink import image_key, picture_parcel
from fitb_callbacks.integrations.summary import ADVICE
from mlflow_store import new_store
from small_module import SmallModule

KEYS = {"fitb/accuracy", "fitb/f1_macro", "fitb/f1_weighted", "fitb/coverage", "fitb/image_accuracy"}


@pytest.fixture
def run(trainer, loaders, tmp_path):
    """Three epochs with TensorBoard and MLflow on."""
    tensorboard = TensorBoardLogger(tmp_path, name="tensorboard")
    mlflow = MLFlowLogger(
        tracking_uri=new_store(tmp_path / "mlflow.db"), artifact_location=(tmp_path / "artifacts").as_uri()
    )
    probe = FillInBlanksCallback(max_overhead=None, num_masks=16, on_error="raise")
    trainer(callbacks=[probe], logger=[tensorboard, mlflow], max_epochs=3, log_every_n_steps=1).fit(
        SmallModule(), *loaders
    )
    return tensorboard, mlflow, probe


def test_every_epoch_is_at_one_step_everywhere(run, tmp_path):
    tensorboard, mlflow, probe = run
    events = EventAccumulator(tensorboard.log_dir, size_guidance={"images": 0, "scalars": 0}).Reload()
    steps = [event.step for event in events.Scalars("val_loss")]  # Lightning's own metric of the epoch
    assert steps == [7, 15, 23]
    assert [event.step for event in events.Scalars("train_loss")] == steps

    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    assert set(events.Tags()["scalars"]) >= KEYS
    for key in KEYS:
        expected = [entry[key.removeprefix("fitb/")] for entry in probe.history]
        in_tensorboard = events.Scalars(key)
        in_mlflow = sorted(client.get_metric_history(mlflow.run_id, key), key=lambda metric: metric.step)
        for records in (in_tensorboard, in_mlflow):
            assert [record.step for record in records] == steps
            assert [record.value for record in records] == pytest.approx(expected, rel=1e-6)

    pictures = events.Images("fitb/prototypes")
    assert [picture.step for picture in pictures] == [0, *steps]  # before training, and after each epoch
    texts = events.Tensors("fitb/summary/text_summary")
    assert [text.step for text in texts] == steps
    said = texts[-1].tensor_proto.string_val[0].decode()
    assert probe.result.interpretation("ridge regression on training images")["headline"] in said
    assert f"| image_accuracy | {probe.history[-1]['image_accuracy']:.2f} |" in said
    assert re.search(
        r"^The judge recognises \d+% of the images themselves and \d+% of noise; chance is 10%.$", said, re.M
    )
    assert {*ADVICE.values()} & {f"Next: {line.partition('Next: ')[2]}" for line in said.splitlines()}
    files = [file.path for file in client.list_artifacts(mlflow.run_id, "images")]
    for name in ("at_a_glance", "prototypes", "confusion", "timeline"):
        of_name = [path for path in files if name in path]
        expected = [0, *steps] if name in ("prototypes", "confusion") else [0]  # of all epochs so far: the last one
        for ending in (".png", ".webp"):
            assert sorted(int(path.split("+")[2]) for path in of_name if path.endswith(ending)) == expected
    assert len(files) == 20  # any other file would hide every image of the run

    last = np.array(probe.result.figure("fitb, epoch 2"))
    assert np.array_equal(np.array(Image.open(io.BytesIO(pictures[-1].encoded_image_string))), last)
    path = next(path for path in files if "prototypes+step+23+" in path and path.endswith(".png"))
    downloaded = client.download_artifacts(mlflow.run_id, path, str(tmp_path))
    assert np.array_equal(np.array(Image.open(downloaded).convert("RGB")), last)


def test_without_validation_the_step_is_lightnings_own_too(trainer, loaders, tmp_path):
    logger = TensorBoardLogger(tmp_path)
    probe = FillInBlanksCallback(max_overhead=None, num_masks=4, on_error="raise")
    trainer(callbacks=[probe], logger=logger, limit_val_batches=0, accumulate_grad_batches=2).fit(
        SmallModule(), *loaders
    )
    events = EventAccumulator(logger.log_dir, size_guidance={"images": 0, "scalars": 0}).Reload()
    steps = [event.step for event in events.Scalars("train_loss")]
    assert steps == [3, 7]
    assert [event.step for event in events.Scalars("fitb/coverage")] == steps
    assert [event.step for event in events.Images("fitb/prototypes")] == steps


def test_undefined_scores_are_not_written(trainer, loaders, tmp_path):
    class Diverged(SmallModule):
        def forward(self, images):
            return super().forward(images) * (1 if self.training or self.trainer.sanity_checking else np.nan)

    logger = CSVLogger(tmp_path)
    trainer(callbacks=[FillInBlanksCallback(max_overhead=None, num_masks=4)], logger=logger).fit(Diverged(), *loaders)
    logger.save()
    with Path(logger.log_dir, "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert "fitb/coverage" in rows[0]
    assert "fitb/accuracy" not in rows[0]


@pytest.mark.parametrize("size", [(954, 756), (300, 1200), (2000, 90), (120, 96), (3, 900), (1, 1)])
def test_mlflows_thumbnail_has_the_whole_picture_where_a_card_shows_it(size):
    """A card shows a thumbnail in the middle of a square: its upper 219 pixels, fewer with parameters above."""
    width, height = size
    parcel = picture_parcel("sqlite:///mlflow.db", "0" * 32, "fitb/prototypes", np.zeros((height, width, 3), "u1"), 7)
    (name,) = (name for name in parcel if name.endswith("+compressed.webp"))
    with Image.open(io.BytesIO(parcel[name])) as thumbnail:
        assert thumbnail.width == thumbnail.height
        rows, columns = np.nonzero(np.array(thumbnail.convert("L")) < 128)
    scale = min(1, 512 / width, 180 / height)
    assert rows.min() == 0  # at the top, and in the middle of its width
    assert columns.min() == pytest.approx(thumbnail.width - 1 - columns.max(), abs=1)
    assert rows.max() + 1 == pytest.approx(height * scale, abs=1)
    assert columns.max() - columns.min() + 1 == pytest.approx(max(1, width * scale), abs=1)


class Notebook(Logger):
    """A logger of someone's own, with another separator."""

    def __init__(self):
        super().__init__()
        self.metrics = []

    name, version, group_separator = "notebook", 0, "-"

    def log_metrics(self, metrics, step=None):
        self.metrics.append((step, metrics))

    def log_hyperparams(self, *args, **kwargs):
        pass


def test_an_unknown_logger_gets_scores_and_one_warning(trainer, loaders, recwarn):
    logger = Notebook()
    trainer(callbacks=[FillInBlanksCallback(max_overhead=None, num_masks=4)], logger=logger, max_epochs=3).fit(
        SmallModule(), *loaders
    )
    ours = [(step, metrics) for step, metrics in logger.metrics if "fitb-coverage" in metrics]
    assert [step for step, _ in ours] == [7, 15, 23]
    assert len([w for w in recwarn if "gets the scores but no pictures" in str(w.message)]) == 1


@pytest.mark.slow
def test_comet_offline_holds_scores_and_pictures(tmp_path):
    pytest.importorskip("comet_ml")
    # online=False would write nothing: Lightning issue 21617
    comet = {"COMET_START_ONLINE": "0", "COMET_LOG_ENV_DETAILS": "0"}
    done = warm_process.run(
        Path(__file__).parents[1] / "helpers/comet_run.py", tmp_path, environment=os.environ | comet
    )
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next(tmp_path.glob("*.zip"))) as experiment:
        messages = [json.loads(line)["payload"] for line in experiment.read("messages.json").splitlines()]
        scores = [message["metric"] for message in messages if "metric" in message]
        assert [score["step"] for score in scores if score["metricName"] == "fitb/coverage"] == [3, 7]
        uploads = [message for message in messages if message.get("upload_type") == "visualization"]
        pictures = {(each["additional_params"]["figName"], each["additional_params"]["step"]): each for each in uploads}
        assert set(pictures) == {
            *((f"fitb/{name}", 0) for name in ("at_a_glance", "prototypes", "confusion")),  # before training
            *(
                (f"fitb/{name}", step)
                for name in ("at_a_glance", "prototypes", "timeline", "confusion")
                for step in (3, 7)
            ),
        }
        with Image.open(experiment.open(pictures["fitb/at_a_glance", 7]["file_path"])) as picture:
            assert picture.size == (900, 768)


def test_litlogger_gets_a_series_of_pictures():
    """Its service cannot be had here: a dictionary of lists takes the place of its experiment."""
    before = set(os.environ)
    litlogger = pytest.importorskip("litlogger")

    class Series(list):
        def append(self, value, step):
            super().append((value, step))

    series = defaultdict(Series)

    class Offline(loggers.LitLogger):
        experiment = property(lambda self: series)

    logger = Offline(name="digits")
    for step in (7, 15):
        assert log_picture(logger, "fitb/prototypes", np.zeros((20, 30, 3), np.uint8), step)
    taken = series["fitb/prototypes"]
    assert [step for _, step in taken] == [7, 15]
    assert all(isinstance(picture, litlogger.Image) for picture, _ in taken)
    for key in set(os.environ) - before:  # what litlogger leaves behind
        del os.environ[key]


def test_fast_dev_run_and_no_logger(trainer, loaders):
    for options in ({"fast_dev_run": True}, {"logger": False}):
        probe = FillInBlanksCallback(max_overhead=None, num_masks=4, on_error="raise")
        options = {"logger": True, "max_epochs": 1} | options
        trainer(callbacks=[probe], **options).fit(SmallModule(), *loaders)
        assert len(probe.history) == 1


def test_mlflow_keys_hold_what_mlflow_allows():
    assert image_key("fitb/prototypes") == "fitb/prototypes"
    assert image_key("../<b>ü'\"/x") == ".. b x" or set(image_key("../<b>ü'\"/x")) <= set("./ bx")
    assert len(image_key("a" * 300)) == 100
