"""Pictures of two classes that differ by a small thing, by their shading, or by both, and a network that reads them."""

import torch
import torch.nn.functional as F
from torch import nn

from fitb_callbacks import RidgeJudge

SIDE = 28


def pictures(number, seed, *, dots, sides):
    """Soft noise, with a dark or a bright dot somewhere, and brighter on the left or on the right."""
    drawn = torch.Generator().manual_seed(seed)
    labels = torch.arange(number) % 2
    images = F.interpolate(torch.rand(number, 1, 7, 7, generator=drawn) * 0.2 + 0.3, (SIDE, SIDE), mode="bilinear")
    corners = torch.randint(1, SIDE - 4, (number, 2), generator=drawn).tolist()
    for image, label, (row, column) in zip(images, labels.tolist(), corners, strict=True):
        if sides:
            image[0].chunk(2, dim=1)[label].add_(0.15)
        if dots:
            image[0, row : row + 3, column : column + 3] = label
    return images, labels


class Reader(nn.Module):
    """Goes by the dot, and where there is none by the side."""

    def forward(self, images):
        means = F.avg_pool2d(images, 3, stride=1).flatten(1)
        dot = 100 * ((means.amax(dim=1) - 0.75).relu() - (0.2 - means.amin(dim=1)).relu())
        left, right = (half.mean(dim=(1, 2, 3)) for half in images.chunk(2, dim=3))
        answer = dot + 20 * (right - left)
        return torch.stack([-answer, answer], dim=1)


def trusting(**kind):
    """A judge of others of such pictures."""
    return RidgeJudge.from_reference(pictures(80, 1, **kind), image_shape=(1, SIDE, SIDE), num_classes=2)
