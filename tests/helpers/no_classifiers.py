"""Trainings that are no classification of images."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset
from with_and_without import CLASSES, Base, bars

IMAGES, LABELS = bars()
PLAIN = TensorDataset(IMAGES, LABELS)


class Forward(Base):
    def forward(self, images):
        return self.net(images)


class Segmentation(Base):
    def __init__(self):
        super().__init__()
        self.net = nn.Conv2d(1, CLASSES, 3, padding=1)

    def forward(self, images):
        return self.net(images)


class Regression(Forward):
    def __init__(self):
        super().__init__(outputs=1)

    def loss(self, batch):
        return F.mse_loss(self(batch[0]).squeeze(1), batch[1].float())


class Autoencoder(Forward):
    def __init__(self):
        super().__init__(outputs=64)

    def loss(self, batch):
        return F.mse_loss(self(batch[0]), batch[0].flatten(1))


class Tabular(Base):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(5, CLASSES)

    def forward(self, rows):
        return self.net(rows)


class Text(Base):
    def __init__(self):
        super().__init__()
        self.words, self.head = nn.Embedding(9, 4), nn.Linear(4, CLASSES)

    def forward(self, tokens):
        return self.head(self.words(tokens).mean(dim=1))


class SelfSupervised(Forward):
    """Each image is to be told from the others in its batch by its other view."""

    def loss(self, batch):
        one, other = F.normalize(self(batch[0])), F.normalize(self(batch[0] + 0.1))
        return F.cross_entropy(one @ other.T / 0.1, torch.arange(len(one)))


class Siamese(Base):
    """Are two images of one class? Both go through the network; one of them is no image with a label."""

    def forward(self, one, other):
        return (self.net[:-1](one) - self.net[:-1](other)).abs().sum(dim=1)

    def loss(self, batch):
        return F.binary_cross_entropy_with_logits(
            1 - self(batch[0], batch[0].flip(0)), (batch[1] == batch[1].flip(0)).float()
        )


OFF = {
    "segmentation": (Segmentation, TensorDataset(IMAGES, (IMAGES[:, 0] > 0.5).long()), "segmentation"),
    "regression": (Regression, PLAIN, "regression"),
    "autoencoder": (Autoencoder, PLAIN, "regression"),
    "tabular": (Tabular, TensorDataset(torch.rand(24, 5), LABELS), "no image entered"),
    "text": (Text, TensorDataset(torch.randint(9, (24, 7)), LABELS), "no image entered"),
    "self-supervised": (SelfSupervised, PLAIN, "self-supervised"),
    "pairs of images": (Siamese, PLAIN, "forward takes 2 images at once"),
}
