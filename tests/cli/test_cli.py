"""The command line, as a user types it."""

import gzip
import re
import struct

import numpy as np
import pytest

from fitb_callbacks import __version__
from fitb_callbacks.data.datasets import load_fashion_mnist
from mlflow_store import new_store
from needs import needs_fashion_mnist
from quick import fitb


def write_idx(path, array):
    header = b"\x00\x00\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))


@pytest.fixture
def folder(tmp_path):
    """A folder in Fashion-MNIST's format with 300 + 10 images of ten simple shapes."""
    generator = np.random.default_rng(0)
    for part, size in (("train", 300), ("t10k", 10)):
        labels = np.arange(size, dtype=np.uint8) % 10
        images = generator.integers(0, 40, (size, 28, 28), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[2 * label : 2 * label + 6, 4:24] = 255
        write_idx(tmp_path / f"{part}-images-idx3-ubyte.gz", images)
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte.gz", labels)
    return tmp_path


def test_version():
    assert fitb("--version").output.strip() == f"fitb-callbacks {__version__}"


@pytest.mark.slow
def test_demo_on_a_folder_of_ones_own(folder, tmp_path):
    new_store(tmp_path / "mlflow.db")
    done = fitb("demo", "--data", "fashion-mnist", "--data-dir", folder, "--epochs", 2)
    assert done.exit_code == 0, done.output
    assert "accuracy" in done.output
    assert "tensorboard --logdir" in done.output
    assert "mlflow ui --backend-store-uri sqlite:///mlflow.db" in done.output
    assert re.search(r"then http://127.0.0.1:5000/#/experiments/\d+/runs/\w+/model-metrics", done.output)
    assert "shortcut   how far one simple cue" in done.output
    assert done.output.splitlines()[-1][0] in "✓✗?"  # the verdict
    assert "nan" not in done.output
    assert (tmp_path / "fitb-demo" / "fashion-mnist.png").exists()
    assert (tmp_path / "mlflow.db").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--data", "cats"], "'cats' is not one of 'mnist', 'fashion-mnist'"),
        (["--data", "fashion-mnist", "--data-dir", "nowhere"], "no file nowhere/train-images-idx3-ubyte.gz"),
        (["--data-dir", "."], "goes with --data fashion-mnist"),
        (["--epochs", "0"], "Invalid value for '--epochs'"),
    ],
)
def test_wrong_arguments(arguments, says):
    done = fitb("demo", *arguments)
    assert done.exit_code == 2
    assert says in " ".join(done.output.replace("│", " ").split())


def test_a_file_that_is_not_idx(folder):
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(b"hello, world"))
    done = fitb("demo", "--data", "fashion-mnist", "--data-dir", folder)
    assert done.exit_code == 2
    assert "is not a gzipped IDX file" in " ".join(done.output.split())


@needs_fashion_mnist
def test_fashion_mnist_as_debian_packages_it():
    data = load_fashion_mnist()
    images, labels = data.train.tensors
    assert images.shape == (60_000, 1, 28, 28)
    assert (images.min(), images.max()) == (0, 1)
    assert labels.bincount().tolist() == [6000] * 10
    assert len(data.validation) == 10_000


@pytest.mark.parametrize(
    ("arguments", "suggested"),
    [
        ("report run --mlflow-uri x", "--tracking-uri"),
        ("report run --trakcing-uri x", "--tracking-uri"),
        ("check models:/m/1 --mlflow-uri x", "--tracking-uri"),
        ("probe m.ckpt --ratio 0.5", "--mask-ratio"),
        ("replay m.ckpt --max-classes 3", "--max-images"),
    ],
)
def test_an_unknown_option_gets_the_one_that_may_be_meant(arguments, suggested):
    done = fitb(*arguments.split())
    assert done.exit_code == 2
    line = " ".join(done.output.replace("│", " ").split())
    assert re.search(rf"No such option: --\S+ \(Possible options: [^)]*{suggested}", line), line


def test_an_option_like_no_other_gets_no_suggestion():
    done = fitb("report", "run", "--zzz")
    assert (done.exit_code, "Possible" in done.output) == (2, False)
    assert "No such option: --zzz" in done.output
