"""A small network for scikit-learn's digits."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def fitted(images: Tensor, labels: Tensor, *, seed: int) -> nn.Module:
    """Train it for a second or two."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        *(nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)), *(nn.Flatten(), nn.Linear(12 * 16, 10))
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(5):
        for batch in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
    return model.eval()
