"""The data sets that commands know by name."""

from __future__ import annotations

from enum import Enum

__all__ = ["DataSet"]


class DataSet(str, Enum):
    """Names of `fitb_callbacks.data.datasets.LOADERS`."""

    mnist = "mnist"
    fashion_mnist = "fashion-mnist"
