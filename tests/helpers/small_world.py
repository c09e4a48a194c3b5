"""Images of which every mask there is can be tried: twelve pixels of which three are hidden, so 220 masks."""

import itertools

import torch
from torch import nn

from fitb_callbacks.probing.updates import GradientUpdate


def small_world():
    """A model, images, labels, and the true mean update over all masks."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 32), nn.Tanh(), nn.Linear(32, 3))
    images = torch.rand(20, 1, 3, 4, generator=generator)
    labels = model(images).argmax(dim=1)
    total, kept = torch.zeros_like(images), torch.zeros(len(images))
    for hidden in itertools.combinations(range(12), 3):
        visible = torch.ones(12, dtype=torch.bool)
        visible[list(hidden)] = False
        visible = visible.view(1, 1, 3, 4)
        masked = torch.where(visible, images, 0.0)
        found = GradientUpdate().find(model, masked, labels, visible)
        right = (found.predicted == labels).float()
        total += found.values.masked_fill(visible, 0) * right[:, None, None, None]
        kept += right
    return model, images, labels, total / kept[:, None, None, None]
