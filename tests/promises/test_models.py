"""The probe, untouched, on models of every kind, grey and colour, trained here on small real images."""

import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from fitb_callbacks import FillInBlanks

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
from paper_models import MODELS, accuracy, cnn, logits, mlp, per_class, resnet5, train, vit


def coloured(images, labels):
    """Digits in a colour each, on an RGB canvas: the colour says nothing about the digit."""
    generator = torch.Generator().manual_seed(0)
    colours = torch.rand(len(images), 3, 1, 1, generator=generator) * 0.5 + 0.5
    return images * colours, labels


def data(digits, *, channels):
    images, labels = digits.tensors
    images = F.interpolate(images, size=(12, 12), mode="bilinear")
    return (images, labels) if channels == 1 else coloured(images, labels)


LEAST = {
    (False, "random"): 0.5,
    (False, "progressive"): 0.5,
    # From random masks, a ViT has weak prototypes (docs/thresholds.md): 0.19 to 0.48 on seeds and processors that were
    # tried, too near to the 0.1 of chance to demand more than this of 40 images. Progressive masks: 0.55 to 0.91.
    (True, "random"): 0.0,
    (True, "progressive"): 0.35,
}
"""Accuracy of the prototypes, by whether the model is a ViT, and by masking."""


@pytest.mark.parametrize("channels", [1, 3], ids=["grey", "rgb"])
@pytest.mark.parametrize(
    "make", [mlp, cnn, resnet5, pytest.param(vit, marks=pytest.mark.slow)], ids=lambda make: make.__name__
)
def test_the_same_probe_on_every_kind_of_model(digits, make, channels):
    images, labels = data(digits, channels=channels)
    torch.manual_seed(0)
    epochs = 15 if make is vit else 6
    model = train(make(channels, side=12), images[:1200], labels[:1200], epochs=epochs, seed=0, learning_rate=5e-3)
    assert accuracy(model, images[1200:], labels[1200:]) > 0.8
    images, labels = per_class(images[1200:], labels[1200:], 4)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for masking in ("random", "progressive"):
        result = FillInBlanks(masking=masking, num_masks=32).probe(model, images, labels)
        assert result.updates.shape == images.shape
        assert result.coverage > 0.7
        assert result.metrics["accuracy"] > LEAST[make is vit, masking]
        with torch.no_grad():
            predicted = logits(model, result.prototypes).argmax(dim=1)
        assert torch.equal(predicted[result.covered], result.predictions[result.covered])
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_every_model_of_the_examples_is_tried():
    assert {"MLP", "CNN", "ResNet5", "ViT"} <= set(MODELS)


@pytest.mark.parametrize("masking", ["random", "progressive"])
@pytest.mark.parametrize("size", [(9, 13), (15, 8)])
def test_images_that_are_neither_square_nor_even(masking, size):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.LazyLinear(5))
    images = torch.rand(5, 3, *size)
    model(images)
    result = FillInBlanks(masking=masking, patch_size=2, num_masks=16, target="predicted").probe(model, images)
    assert result.prototypes.shape == images.shape
    assert result.prototypes.isfinite().all()
    assert result.coverage > 0
