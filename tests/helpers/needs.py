"""What some tests need that pip does not install: skipped without it, but in CI, where they fail."""

import os
from pathlib import Path

import pytest

from fitb_callbacks.data.datasets import FASHION_MNIST_FOLDER

needs_fashion_mnist = pytest.mark.skipif(
    not FASHION_MNIST_FOLDER.exists() and "FITB_CI" not in os.environ,
    reason="needs Fashion-MNIST: apt-get install dataset-fashion-mnist",
)
needs_chinese_font = pytest.mark.skipif(
    not all(
        Path("/usr/share/fonts/truetype", name).exists()
        for name in ("droid/DroidSansFallbackFull.ttf", "noto/NotoColorEmoji.ttf")
    )
    and "FITB_CI" not in os.environ,
    reason="needs fonts: apt-get install fonts-droid-fallback fonts-noto-color-emoji",
)
