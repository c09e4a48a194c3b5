"""scikit-learn's digits as data sets that a command line can name: ``digits_data:validation``."""

import torch
from sklearn.datasets import load_digits
from torch.utils.data import TensorDataset


def digits(start: int, end: int) -> TensorDataset:
    """Images (N, 1, 8, 8) in [0, 1] and labels of some of the digits."""
    data = load_digits()
    images = torch.tensor(data.images[start:end], dtype=torch.float32).unsqueeze(1) / 16
    return TensorDataset(images, torch.tensor(data.target[start:end]))


def validation() -> TensorDataset:
    """Digits that no test trains on."""
    return digits(1500, 1700)


def training() -> TensorDataset:
    """Digits to train on."""
    return digits(0, 400)
