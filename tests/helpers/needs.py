"""What some tests need that pip does not install: skipped without it, but in CI, where they fail."""

import os

import pytest

from fitb_callbacks.data.datasets import FASHION_MNIST_FOLDER

needs_fashion_mnist = pytest.mark.skipif(
    not FASHION_MNIST_FOLDER.exists() and "FITB_CI" not in os.environ,
    reason="needs Fashion-MNIST: apt-get install dataset-fashion-mnist",
)
