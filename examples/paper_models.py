"""The paper's models and data, small enough for a laptop: four classifiers, two data sets, one training loop."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fitb_callbacks.data.datasets import load_fashion_mnist, load_mnist


def mnist() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """4,000 training digits and labels, 1,000 other digits and labels; the paper had 60,000 and 10,000."""
    return *digits().train.tensors, *digits().validation.tensors


def fashion_mnist(num_train: int = 4_000) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The first training images and labels, 1,000 other images and labels."""
    images, labels = clothes().train.tensors
    other_images, other_labels = clothes().validation.tensors
    return images[:num_train], labels[:num_train], other_images[:1_000], other_labels[:1_000]


clothes = cache(load_fashion_mnist)
digits = cache(load_mnist)


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


def resnet5(channels: int = 1, classes: int = 10, side: int = 28, *, batch_norm: bool = False) -> nn.Module:
    """A residual network of five convolutions: a stem and two blocks of two.

    The paper does not say whether its ResNet5 had batch normalisation; docs/thresholds.md has both.
    """
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1), nn.BatchNorm2d(16) if batch_norm else nn.Identity(), nn.ReLU(),
        nn.MaxPool2d(2), Residual(16, 16, batch_norm), nn.MaxPool2d(2), Residual(16, 32, batch_norm), nn.Flatten(),
        nn.Linear(32 * (side // 4) ** 2, classes),
    )  # fmt: skip


class Residual(nn.Module):
    """Two convolutions beside a shortcut (He et al., 2016)."""

    def __init__(self, inputs: int, outputs: int, batch_norm: bool):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs) if batch_norm else nn.Identity(),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs) if batch_norm else nn.Identity(),
        )  # fmt: skip
        self.shortcut = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Features to features."""
        return F.relu(self.body(x) + self.shortcut(x))


def vit(channels: int = 1, classes: int = 10, side: int = 28) -> nn.Module:
    """A small vision transformer of Hugging Face's own code, randomly initialised."""
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        image_size=side, patch_size=side // 4, num_channels=channels, num_labels=classes, hidden_size=64,
        num_hidden_layers=3, num_attention_heads=4, intermediate_size=128,
    )  # fmt: skip
    return ViTForImageClassification(config)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "MLP": mlp,
    "CNN": cnn,
    "ResNet5": resnet5,
    "ResNet5 + BatchNorm": partial(resnet5, batch_norm=True),
    "ViT": vit,
}
EPOCHS = {"MLP": 8, "CNN": 8, "ResNet5": 8, "ResNet5 + BatchNorm": 6, "ViT": 20}


def train(  # noqa: PLR0913 - the usual settings of a training, by name
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epochs: int,
    seed: int,
    learning_rate: float = 2e-3,
    noise: float = 0.0,
) -> nn.Module:
    """Adam on the cross-entropy, one-cycle learning rate, batches of 64; returns the model in evaluation mode.

    Noise is the standard deviation of what is added to each pixel, anew in every batch: networks trained so have
    smoother input gradients.
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters())
    steps = epochs * -(-len(images) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=learning_rate, total_steps=steps)
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(images), generator=generator).split(64):
            seen = images[batch]
            if noise:
                seen = seen + noise * torch.randn(seen.shape, generator=generator)
            loss = F.cross_entropy(logits(model, seen), labels[batch])
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
