"""The classifiers whose speed is measured, with random weights: speed does not depend on them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import ResNetConfig, ResNetForImageClassification, ViTConfig, ViTForImageClassification

from fitb_callbacks.demo import SmallCNN

__all__ = ["MODELS", "Logits", "build"]


class Logits(nn.Module):
    """A transformers model as a plain function of images."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Images to logits."""
        return self.model(images).logits


def _small_cnn() -> nn.Module:
    return SmallCNN()


def _resnet18() -> nn.Module:
    config = ResNetConfig(
        hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic", num_labels=10, num_channels=3
    )
    return Logits(ResNetForImageClassification(config))


def _small_vit() -> nn.Module:
    config = ViTConfig(
        hidden_size=96, num_hidden_layers=6, num_attention_heads=4, intermediate_size=192, image_size=32, patch_size=4,
        num_labels=10,
    )  # fmt: skip
    return Logits(ViTForImageClassification(config))


MODELS = {
    "small CNN, 1 x 28 x 28": (_small_cnn, (1, 28, 28)),
    "ResNet-18, 3 x 64 x 64": (_resnet18, (3, 64, 64)),
    "small ViT, 3 x 32 x 32": (_small_vit, (3, 32, 32)),
}


def build(name: str, num_images: int) -> tuple[nn.Module, Tensor, Tensor]:
    """A model in evaluation mode, and random images of its size with labels that it predicts itself."""
    make, shape = MODELS[name]
    torch.manual_seed(0)
    model = make().eval()
    images = torch.rand(num_images, *shape)
    with torch.no_grad():
        labels = model(images).argmax(dim=1)
    return model, images, labels
