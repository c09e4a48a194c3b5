"""Pictures of two classes that differ by a small thing, by their shading, or by both, and a network that reads them."""

import torch
import torch.nn.functional as F
from torch import nn

from fitb_callbacks import RidgeJudge

SIDE = 28
THINGS = ((3, 3), (1, 7))


def pictures(number, seed, *, things, sides):
    """Soft noise, with a bright dot or a bright dash somewhere, and brighter on the left or on the right."""
    drawn = torch.Generator().manual_seed(seed)
    labels = torch.arange(number) % 2
    images = F.interpolate(torch.rand(number, 1, 7, 7, generator=drawn) * 0.2 + 0.3, (SIDE, SIDE), mode="bilinear")
    corners = torch.randint(1, SIDE - 8, (number, 2), generator=drawn).tolist()
    for image, label, (row, column) in zip(images, labels.tolist(), corners, strict=True):
        if sides:
            image[0].chunk(2, dim=1)[label].add_(0.15)
        if things:
            height, width = THINGS[label]
            image[0, row : row + height, column : column + width] = 1
    return images, labels


class Reader(nn.Module):
    """Goes by the dot or the dash, and where there is none by the side."""

    def forward(self, images):
        dot, dash = ((F.avg_pool2d(images, size, stride=1).amax(dim=(1, 2, 3)) - 0.8).relu() for size in THINGS)
        left, right = (half.mean(dim=(1, 2, 3)) for half in images.chunk(2, dim=3))
        answer = 100 * (dash - dot) + 20 * (right - left)
        return torch.stack([-answer, answer], dim=1)


def trusting(**kind):
    """A judge of others of such pictures."""
    return RidgeJudge.from_reference(pictures(80, 1, **kind), image_shape=(1, SIDE, SIDE), num_classes=2)
