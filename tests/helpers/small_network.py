"""Small networks for scikit-learn's digits."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def fitted(images: Tensor, labels: Tensor, *, seed: int) -> nn.Module:
    """Train it for a second or two."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        *(nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)), *(nn.Flatten(), nn.Linear(12 * 16, 10))
    )
    return learned(model, images, labels, rate=1e-2, epochs=5).eval()


def learned(model: nn.Module, images: Tensor, labels: Tensor, *, rate: float, epochs: int) -> nn.Module:
    """The same network, trained."""
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
    return model
