"""Fill hidden pixels by several ascent steps on log p(label), each shaped to look like the data.

One input gradient of a network for photographs is noise to anyone but that network. The paper allows any update that
locally improves the loss (section 4.5). This one takes several small steps. Each looks at the image slightly shifted
and with a little noise, so that what it draws does not hang on single pixels, and gives the gradient the spectrum and
the colours of the data (`fitb_callbacks.probing.prior.ImagePrior`), so that it draws shapes and not noise. Independent
networks recognise what comes out; docs/photographs.md has the figures, with controls.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fitb_callbacks.models.logits import Classify
from fitb_callbacks.probing.prior import ImagePrior
from fitb_callbacks.probing.updates import Found, answer, differentiable_logits
from fitb_callbacks.utils.rng import keyed_normal, keyed_uniform

__all__ = ["AscentUpdate"]

_TINY = 1e-20
_MOST_LOUD = 4.0  # standard deviation of an image's logits over the classes


@dataclass(frozen=True)
class AscentUpdate:
    """Several ascent steps on log p(label), shaped to look like the data.

    Everything is in units of the data: the images' standard deviation, their side, their spectrum. The noise of an
    image is a pure function of its key.

    Args:
        prior: Of the images.
        low: Lowest value of a filled pixel in each channel, shape ``(C, 1, 1)``.
        high: Highest value of a filled pixel in each channel, shape ``(C, 1, 1)``.
        num_steps: Steps, each of one gradient, at least 1.
        weighted: Whether an update's root mean square over the hidden pixels is the increase in log p(label) that it
            brings, at least 0, so that means over masks weigh what mattered. Otherwise the update is what was added
            to the pixels.
        step_size: Root mean square change of the hidden pixels in a step, in standard deviations of the images.
        momentum: Share of the last step's direction that the next one keeps, in [0, 1).
        max_shift: Largest random shift in a step, as a share of each side. Shifts wrap around.
        seed: Of the shifts, which are the same for all images.
        noise: Standard deviation of the noise that is added for a step, in standard deviations of the images.
        exponent: How strongly a gradient's spectrum is shaped, see `fitb_callbacks.probing.prior.ImagePrior.shape`.
        colours: Whether a gradient's channels are mixed as those of the images go together.
        contrast: Largest root mean square distance of an image's hidden pixels from the mean colour, in standard
            deviations of the images. Without a limit everything ends up black, white or a garish colour.

    Example:
        >>> import torch
        >>> images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> model = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d((1, 2)), torch.nn.Flatten())  # left or right half
        >>> rule = AscentUpdate(ImagePrior.from_images(images), low=torch.zeros(1, 1, 1), high=torch.ones(1, 1, 1))
        >>> hidden, labels = torch.zeros(4, 1, 8, 8).bool(), torch.ones(4).long()
        >>> found = rule.find(model, torch.full_like(images, 0.5), labels, hidden, keys=torch.arange(4))
        >>> bool(found.values[..., 4:].mean() > found.values[..., :4].mean())  # brighter on the right
        True
    """

    prior: ImagePrior
    low: Tensor
    high: Tensor
    num_steps: int = 16
    weighted: bool = True
    step_size: float = 0.3
    momentum: float = 0.8
    max_shift: float = 0.05
    seed: int = 0
    noise: float = 0.4
    exponent: float = 1.0
    colours: bool = True
    contrast: float = 1.3

    proportional_to_doubt: ClassVar[bool] = False
    single_pass: ClassVar[bool] = False

    def find(self, classify: Classify, masked: Tensor, labels: Tensor, visible: Tensor, keys: Tensor) -> Found:
        """See `fitb_callbacks.probing.updates.UpdateRule.find`.

        A step whose gradient is not finite leaves its image as it is. The update is not finite if no step's was.

        Raises:
            RuntimeError: If the logits do not depend on the images by differentiable operations.
        """
        start = masked.detach() if masked.dtype == torch.float64 else masked.detach().float()
        start = start.contiguous()
        hidden = (~visible).to(start.dtype)
        root = (hidden.flatten(1).sum(dim=1) * start.shape[1]).sqrt()  # of the number of hidden values
        std = self.prior.std
        shifts = self._shifts(start.shape[-2:])
        noise = keyed_normal(keys, start[0].numel()).to(start.dtype).view_as(start) * (self.noise * std)
        noise = torch.cat((noise, noise), dim=-2)
        noise = torch.cat((noise, noise), dim=-1)  # so that it is rolled by looking at another part of it
        back = [(-rows, -columns) for rows, columns in shifts]
        shape = self.prior.shaping(back, like=start, exponent=self.exponent, colours=self.colours)
        mean = self.prior.mean.to(start.dtype).to(start.device)[:, None, None]
        images, direction, moved = start, torch.zeros_like(start), torch.zeros_like(keys, dtype=torch.bool)
        for step, (rows, columns) in enumerate(shifts):
            # The first step sees the masked image itself: its prediction and its log p(label) are asked for.
            seen = images if step == 0 else _shifted(images, rows, columns) + _part(noise, step)
            gradient, logits = _ascent_direction(classify, seen.to(masked.dtype), labels)
            if step == 0:
                first = logits
            finite = gradient.sum(dim=(1, 2, 3)).isfinite()
            moved |= finite
            gradient = torch.where(_per_image(finite), gradient, 0)
            shaped = _unit_size(shape(gradient, step) * hidden, root)
            direction = torch.lerp(shaped, direction, self.momentum)
            images = images + _unit_size(direction, root, size=self.step_size * std)
            images = self._within_contrast(images, mean, hidden, root).clamp(self.low, self.high)
            images = torch.where(visible, start, images)
        values = torch.where(_per_image(moved), images - start, torch.nan)
        log_p, predicted = answer(first, labels)
        if self.weighted:
            with torch.no_grad():
                after, _ = answer(classify(images.to(masked.dtype)).float(), labels)
            values = _unit_size(values, root, size=(after - log_p).clamp(min=0))
        return Found(values, predicted, log_p)

    def _within_contrast(self, images: Tensor, mean: Tensor, hidden: Tensor, root: Tensor) -> Tensor:
        """Images drawn towards the mean colour, as far as their hidden pixels have too much contrast."""
        deviation = (images - mean) * hidden
        allowed = self.contrast * self.prior.std * root
        size = torch.linalg.vector_norm(deviation, dim=(1, 2, 3))
        return torch.addcmul(mean, deviation, _per_image((allowed / size.clamp(min=_TINY)).clamp(max=1)))

    def _shifts(self, size: torch.Size) -> list[tuple[int, int]]:
        """Rows and columns that all images are shifted by in each step, in the first by none."""
        uniform = keyed_uniform(torch.tensor([self.seed]), 2 * self.num_steps).view(-1, 2)
        largest = torch.tensor([round(self.max_shift * side) for side in size])
        shifts = ((uniform * (2 * largest + 1)).floor().long() - largest).tolist()
        return [(0, 0), *((rows, columns) for rows, columns in shifts[1:])]


def _ascent_direction(classify: Classify, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient of log p(label), at any positive scale an image, and the logits."""
    leaf = images.detach().requires_grad_()
    logits = differentiable_logits(classify, leaf)
    (gradient,) = torch.autograd.grad(logits, leaf, grad_outputs=_towards(logits.detach(), labels))
    return gradient.to(torch.promote_types(gradient.dtype, torch.float32)), logits.detach()


def _towards(logits: Tensor, labels: Tensor) -> Tensor:
    """The gradient of log p(label) for the logits, over 1 - p(label): however sure a model is, it is not small.

    Logits that are too loud are tempered first, so that a sure network's runner-up does not stand for all others.
    """
    rows = torch.arange(len(labels), device=logits.device)
    if logits.ndim == 3:  # of independent labels each has nothing but its own "no" to leave behind
        return torch.zeros_like(logits).index_put((rows, labels), logits.new_tensor([-1.0, 1.0]))
    loudness = logits.std(dim=1, keepdim=True) / _MOST_LOUD
    others = (logits / loudness.nan_to_num(nan=1.0).clamp(min=1)).scatter_(1, labels[:, None], -torch.inf)
    return others.softmax(dim=1).neg().scatter_(1, labels[:, None], 1.0)


def _unit_size(values: Tensor, root: Tensor, size: Tensor | float = 1.0) -> Tensor:
    """Values, zero on visible pixels, at this root mean square over the hidden ones, image by image.

    Args:
        values: Shape ``(B, C, H, W)``.
        root: Root of the number of hidden values of each image, shape ``(B,)``.
        size: One number, or one an image. Values that are all zero stay so.
    """
    return values * _per_image(size * root / torch.linalg.vector_norm(values, dim=(1, 2, 3)).clamp(min=_TINY))


def _per_image(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def _part(noise: Tensor, step: int) -> Tensor:
    """An image's noise for a step, out of four copies: those of steps with the same noise in a place are far apart."""
    height, width = noise.shape[-2] // 2, noise.shape[-1] // 2
    top, left = (-17 * step) % height, (-31 * step) % width
    return noise[..., top : top + height, left : left + width]


def _shifted(images: Tensor, rows: int, columns: int) -> Tensor:
    """Images rolled by some rows and columns; torch.roll takes ten times as long for large ones."""
    rows, columns = rows % images.shape[-2], columns % images.shape[-1]
    if rows:
        images = torch.cat((images[..., -rows:, :], images[..., :-rows, :]), dim=-2)
    if columns:
        images = torch.cat((images[..., -columns:], images[..., :-columns]), dim=-1)
    return images
