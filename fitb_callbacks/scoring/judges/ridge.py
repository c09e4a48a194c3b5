"""The ridge judge: ridge regression on random convolutional features, in closed form, from sums."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fitb_callbacks.models.state import preserve_model_state
from fitb_callbacks.scoring.judges.streamed import StreamedJudge
from fitb_callbacks.utils.messages import describe
from fitb_callbacks.utils.validation import check_integer

__all__ = ["RidgeJudge"]

_SIDE = 32  # pixels of the longer side that the judge looks at
_FILTER = 8
_FILTERS = 64
_CELLS = 3
_STEP = 2  # pixels between two places of a filter
_RECTIFIED_ABOVE = 0.1
_FLOOR = 0.2  # local contrast that counts as none, as a share of the image's own
_RIDGE = 300.0
_RIDGE_PER_IMAGE = 0.01
_MOST_FEATURES = 2 * _FILTERS * _CELLS**2


class RidgeJudge(StreamedJudge):
    """Ridge regression on random convolutional features: tells apart unaligned colour pictures, and needs no training.

    Each image is shrunk to 32 pixels on its longer side, divided by its local contrast, filtered with 64 random Gabor
    filters, rectified both ways and averaged over 3 x 3 cells: 1,152 features. The regression of the classes on these
    has a closed form that needs only two sums, so it can be streamed, merged and resumed. The whole state is 7.3 MB
    with a thousand classes, whatever the size and number of the images.

    The filters are the same for all data, so judges of different processes and runs can be merged. Random features with
    a linear read-out are due to Coates and Ng (2011), and to Rahimi and Recht (2007). The judge is not trained by
    gradient, so a model under probe does not fool it by accident.

    Args:
        features: A module that maps images ``(B, C, H, W)`` to features, in place of the random ones: a pretrained
            backbone, or a champion without its last layer. It is put in evaluation mode while it is used, left as it
            was found, and not part of the state. More than 1,152 features are projected at random to that many.
        images_per_class: Most images of each class to learn from, the first ones seen by each process, at least 1.

    Example:
        >>> import torch
        >>> stripes = torch.tensor([0.0, 0.0, 1.0, 1.0]).repeat(4).expand(1, 16, 16)
        >>> images = torch.stack([stripes, stripes.transpose(1, 2)])
        >>> judge = RidgeJudge()
        >>> judge.update(images, torch.tensor([0, 1]))
        >>> judge.classify(images.roll((1, 1), dims=(2, 3))).tolist()
        [0, 1]
    """

    def __init__(self, features: nn.Module | None = None, *, images_per_class: int = 200) -> None:
        super().__init__()
        if features is not None and not isinstance(features, nn.Module):
            raise TypeError(f"features must be a torch.nn.Module or None; got {describe(features)}")
        check_integer("images_per_class", images_per_class, at_least=1)
        self.features, self.images_per_class = features, images_per_class
        self.name = "ridge regression" if features is None else f"ridge regression on {type(features).__name__}"
        self.class_sums = torch.zeros(0)
        """Sum of the features of each class's images, shape ``(classes, features)``."""
        self.products = torch.zeros(0, 0)
        """Sum of the outer products of features, shape ``(features, features)``."""
        self._solution: tuple[Tensor, Tensor, Tensor] | None = None

    def learns_from_more(self, num_classes: int) -> bool:
        """Whether more images of these classes would still teach it anything: not if it has enough of each.

        Example:
            >>> judge = RidgeJudge(images_per_class=1)
            >>> judge.update(torch.rand(2, 1, 8, 8), torch.tensor([0, 1]))
            >>> judge.learns_from_more(num_classes=2), judge.learns_from_more(num_classes=3)
            (False, True)
        """
        return len(self.counts) < num_classes or bool((self.counts < self.images_per_class).any())

    def _add(self, images: Tensor, labels: Tensor) -> None:
        held = self.counts[labels]
        if not bool((held < self.images_per_class).any()):  # most batches of a long run
            return
        # How many images of the same class came before each, in this batch too
        wanted = (labels[:, None] == labels).tril(-1).sum(dim=1) + held < self.images_per_class
        if not bool(wanted.all()):  # a choice of large images takes as long as their features
            images, labels = images[wanted], labels[wanted]
        features = self._features(images.float())
        if not self.class_sums.numel():
            self.class_sums = features.new_zeros(len(self.counts), features.shape[1])
            self.products = features.new_zeros(features.shape[1], features.shape[1])
        self.counts = self.counts + torch.bincount(labels, minlength=len(self.counts)).to(self.counts)
        self.class_sums.index_add_(0, labels, features)
        self.products.addmm_(features.T, features)
        self._solution = None

    def _merge(self, other: Self) -> None:
        if other.products.shape != self.products.shape:
            raise ValueError("other must have the same features")
        missing = len(self.counts) - len(other.counts)
        self.counts = self.counts + F.pad(other.counts.to(self.counts), (0, missing))
        self.class_sums = self.class_sums + F.pad(other.class_sums.to(self.class_sums), (0, 0, 0, missing))
        self.products = self.products + other.products.to(self.products)
        self._solution = None

    def _scores(self, images: Tensor) -> Tensor:
        mean, scale, weights = self._solved()
        scores = (self._features(images) - mean) / scale @ weights
        flat = images.flatten(1).amax(dim=1) <= images.flatten(1).amin(dim=1)
        return scores.masked_fill(flat[:, None], torch.nan)

    def _tensors(self) -> dict[str, Tensor]:
        # The products are symmetric: half of them is enough to keep
        return {"class_sums": self.class_sums, "products": self.products[_upper_triangle(self.products)]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what a `state_dict` holds."""
        super().load_state_dict(state)
        size = self.class_sums.shape[1] if self.class_sums.ndim == 2 else 0
        half = self.class_sums.new_zeros(size, size)
        half[_upper_triangle(half)] = self.products
        self.products = half + half.triu(1).T
        self._solution = None

    def _empty(self) -> Self:
        return type(self)(self.features, images_per_class=self.images_per_class)

    def _grow(self, num_classes: int) -> None:
        more = num_classes - len(self.counts)
        super()._grow(num_classes)
        if more > 0 and self.class_sums.numel():
            self.class_sums = F.pad(self.class_sums, (0, 0, 0, more))
            self._solution = None

    def _features(self, images: Tensor) -> Tensor:
        if self.features is None:
            return random_features(images)
        with preserve_model_state(self.features):
            own = next((p for p in self.features.parameters() if p.is_floating_point()), None)
            features = self.features(images if own is None else images.to(own.device, own.dtype))
        if not isinstance(features, Tensor) or len(features) != len(images):
            raise ValueError(f"features must return one tensor, a row per image; got {describe(features)}")
        features = features.flatten(1).to(images.device).float()
        if features.shape[1] > _MOST_FEATURES:
            generator = torch.Generator().manual_seed(0)
            projection = torch.randn(features.shape[1], _MOST_FEATURES, generator=generator)
            features = features @ (projection / math.sqrt(_MOST_FEATURES)).to(features)
        return features

    def _solved(self) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and scale of the features, and the weights ``(features, classes)``."""
        if self._solution is None:
            number = self.counts.sum()
            mean = self.class_sums.sum(dim=0) / number
            covariance = self.products - number * mean[:, None] * mean
            scale = (covariance.diagonal().clamp(min=0) / number).sqrt()
            scale = scale + 0.1 * scale.mean() + 1e-12
            covariance /= scale[:, None] * scale
            covariance.diagonal().add_(_RIDGE + _RIDGE_PER_IMAGE * number)
            targets = (self.class_sums - self.counts[:, None] * mean) / scale
            self._solution = mean, scale, torch.cholesky_solve(targets.T, torch.linalg.cholesky(covariance))
        return self._solution


def random_features(images: Tensor) -> Tensor:
    """Rectified responses to random Gabor filters, averaged over 3 x 3 cells.

    They do not change when an image's brightness or contrast does, nor from process to process.

    Args:
        images: Floating point, shape ``(B, C, H, W)``, any size.

    Returns:
        Shape ``(B, 1152)``.

    Example:
        >>> images = torch.rand(2, 3, 40, 24)
        >>> features = random_features(images)
        >>> features.shape, torch.allclose(features, random_features(2 * images + 1), atol=1e-3)
        (torch.Size([2, 1152]), True)
    """
    height, width = images.shape[-2:]
    longest = min(max(height, width, _SIDE // 2), _SIDE)
    size = [max(_FILTER, round(side * longest / max(height, width))) for side in (height, width)]
    images = F.interpolate(images, size, mode="bilinear", antialias=True) if size != [height, width] else images
    channels = images.shape[1]
    images = images - images.mean(dim=(1, 2, 3), keepdim=True)
    window = images.new_full((1, channels, _FILTER, _FILTER), 1 / (channels * _FILTER**2))
    mean = F.conv2d(images, window, stride=_STEP)
    local = (F.conv2d(images.square(), window, stride=_STEP) - mean.square()).clamp(min=0).sqrt()
    contrast = images.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
    responses = F.conv2d(images, _filters(channels).to(images), stride=_STEP) / (local + _FLOOR * contrast + 1e-12)
    rectified = torch.cat([F.relu(responses - _RECTIFIED_ABOVE), F.relu(-responses - _RECTIFIED_ABOVE)], dim=1)
    return F.adaptive_avg_pool2d(rectified, _CELLS).flatten(1).sqrt()


@lru_cache(maxsize=8)
def _filters(channels: int) -> Tensor:
    """Random Gabor filters ``(64, channels, 8, 8)``, half of them grey, half of a random colour; each sums to 0."""
    generator = torch.Generator().manual_seed(0)
    row, column, angle, wavelength, phase, spread, aspect = torch.rand(7, _FILTERS, 1, 1, generator=generator)
    y, x = torch.meshgrid(*[torch.arange(_FILTER) - (_FILTER - 1) / 2] * 2, indexing="ij")
    y, x = y - 0.4 * _FILTER * (row - 0.5), x - 0.4 * _FILTER * (column - 0.5)
    angle, wavelength = math.pi * angle, 2.5 * 4**wavelength
    across, along = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
    width = wavelength * (0.3 + 0.3 * spread)
    envelope = torch.exp(-(across.square() + (along * (0.5 + 0.5 * aspect)).square()) / (2 * width.square()))
    waves = envelope * torch.cos(2 * math.pi * (across / wavelength + phase))
    colours = torch.randn(_FILTERS, channels, 1, 1, generator=generator)
    colours[::2] = 1.0
    filters = waves[:, None] * colours
    filters = filters - filters.mean(dim=(1, 2, 3), keepdim=True)
    return F.normalize(filters.flatten(1)).view_as(filters)


def _upper_triangle(square: Tensor) -> tuple[Tensor, Tensor]:
    size = square.shape[-1] if square.ndim == 2 else 0
    rows, columns = torch.triu_indices(size, size, device=square.device)
    return rows, columns
