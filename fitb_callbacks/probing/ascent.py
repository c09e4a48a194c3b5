"""Fill hidden pixels by several ascent steps on log p(label), each shaped to look like the data.

One input gradient of a network for photographs is noise to anyone but that network. The paper allows any update that
locally improves the loss (section 4.5). This one takes several small steps. Each looks at the image slightly shifted,
and a large one from a little nearer or farther away, so that what it draws does not hang on single pixels. It gives the
gradient the spectrum and the colours of the data (`fitb_callbacks.probing.prior.ImagePrior`), so that it draws shapes
and not noise. What comes out is the mean over the second half of the steps: each single one also draws what only this
network sees, and the next one undoes. Independent networks recognise the result; docs/photographs.md has the figures,
with controls.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fitb_callbacks.models.answers import predicted
from fitb_callbacks.models.logits import Classify
from fitb_callbacks.probing.prior import ImagePrior
from fitb_callbacks.probing.updates import Found, answer, differentiable_logits
from fitb_callbacks.probing.zoom import Zoom
from fitb_callbacks.utils.rng import keyed_uniform

__all__ = ["AscentUpdate"]

_TINY = 1e-20
_MOST_LOUD = 4.0  # standard deviation of an image's logits over the classes
_FAR = 2.0**60  # a power of two, so that nothing is left of a difference of equals
_AT_THE_END = 1e-6  # as a share of the value range: what is nearer to its end is there, but for rounding
_PATIENCE = 3  # steps in a row without the label, after which a fill is kept within the value range
_ZOOMED_FROM = 128  # pixels of the shorter side; images of 28 to 64 gain nothing by it (docs/photographs.md)
_MOST_OF_RANGE = 0.3  # root mean square, in colour; values spread evenly over their range have 0.29


@dataclass(frozen=True)
class AscentUpdate:
    """Several ascent steps on log p(label), shaped to look like the data.

    Everything is in units of the data: the images' standard deviation, their side, their spectrum. No noise is added to
    what the network sees: some networks are wrong on nearly everything under a little of it (docs/photographs.md).

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
        max_zoom: How much nearer or farther away an image of at least 128 pixels a side is looked at in a step, as a
            logarithm: 0.1 is about a tenth. Smaller images are seen at their size.
        seed: Of the shifts and zooms, which are the same for all images.
        exponent: How strongly a gradient's spectrum is shaped, see `fitb_callbacks.probing.prior.ImagePrior.shape`.
        colours: Whether a gradient's channels are mixed as those of the images go together.
        contrast: Largest root mean square distance of an image's hidden pixels from the mean colour, in standard
            deviations of the images. Without a limit everything ends up black, white or a garish colour; so it does
            in images with white backgrounds, whose standard deviation is large: with more than one channel, it is at
            most 0.3 of the value range.
        chunk_size: How many images go through the model at a time; None for all that are given.

    Example:
        >>> import torch
        >>> images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> model = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d((1, 2)), torch.nn.Flatten())  # left or right half
        >>> rule = AscentUpdate(ImagePrior.from_images(images), low=torch.zeros(1, 1, 1), high=torch.ones(1, 1, 1))
        >>> hidden, labels = torch.zeros(4, 1, 8, 8).bool(), torch.ones(4).long()
        >>> found = rule.find(model, torch.full_like(images, 0.5), labels, hidden)
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
    max_zoom: float = 0.1
    seed: int = 0
    exponent: float = 1.0
    colours: bool = True
    contrast: float = 1.3
    chunk_size: int | None = None

    proportional_to_doubt: ClassVar[bool] = False
    single_pass: ClassVar[bool] = False

    def find(self, classify: Classify, masked: Tensor, labels: Tensor, visible: Tensor) -> Found:
        """See `fitb_callbacks.probing.updates.UpdateRule.find`.

        A step whose gradient is not finite leaves its image as it is. The update is not finite if no step's was.

        Raises:
            RuntimeError: If the logits do not depend on the images by differentiable operations.
        """
        start = masked.detach() if masked.dtype == torch.float64 else masked.detach().float()
        start = start.contiguous()
        # Masks and bounds are as large as the images, and applied by arithmetic: torch.where, and whatever has to be
        # repeated over an image's pixels, takes a CPU ten times as long.
        hidden = (~visible).to(start.dtype).expand_as(start).contiguous()
        root = hidden.flatten(1).sum(dim=1).sqrt()  # of the number of hidden values
        low, high, mean = self._bounds(start)
        shifts = self._shifts(start.shape[-2:])
        back = [(-rows, -columns) for rows, columns in shifts]
        shape = self.prior.shaping(back, like=start, exponent=self.exponent, colours=self.colours)
        zooms = self._zooms(start)
        step_size, contrast = self.step_size * self.prior.std * root, (self._contrast() * root).clamp(min=_TINY)
        weight, lowest, highest = (1 - self.momentum) * root, low - mean, high - mean
        drawn = (start - mean) * hidden  # hidden pixels, as distances from the mean colour; zero everywhere else
        rest = start - drawn
        direction, total, sizes = torch.zeros_like(start), torch.zeros_like(start), []
        averaged = (self.num_steps + 1) // 2
        margin, unseen = (high - low) * _AT_THE_END, torch.zeros_like(labels)
        for step, (rows, columns) in enumerate(shifts):
            # The first step sees the masked image itself: its prediction and its log p(label) are asked for.
            shown = start if step == 0 else (rest + drawn).roll((rows, columns), dims=(2, 3))
            zoom = None if step == 0 or zooms is None else Zoom.by(zooms[step], like=shown)
            seen = shown if zoom is None else zoom.see(shown)
            gradient, logits = self._gradients(classify, _as_given(seen, masked), labels)
            if zoom is not None:
                gradient = zoom.back(gradient)
            if step == 0:
                first = logits
            unseen = (unseen + 1) * (predicted(logits, labels) != labels)
            stuck = step + 1 >= _PATIENCE and _maybe_any(unseen >= _PATIENCE)
            if stuck:
                freedom = (unseen < _PATIENCE).to(start.dtype) * _FAR
                gradient = _inwards(gradient, shown, low + margin, high - margin, freedom)
            shaped = shape(gradient, step).mul_(hidden)
            if stuck:
                _inwards(shaped, drawn, lowest, highest, freedom)
            sizes.append(_size(shaped))  # the transform has spread what is not finite over the whole image
            shaped.nan_to_num_(0, 0, 0)
            towards = weight / sizes[-1].nan_to_num(torch.inf).clamp(min=_TINY)
            direction.mul_(self.momentum).addcmul_(shaped, _per_image(towards))
            drawn.addcmul_(direction, _per_image(step_size / _size(direction).clamp(min=_TINY)))
            drawn.mul_(_per_image(contrast / torch.maximum(_size(drawn), contrast)))
            drawn.clamp_(lowest, highest)
            if step >= self.num_steps - averaged:
                total.add_(drawn)
        images = torch.where(visible, start, (mean + total / averaged).clamp(self.low, self.high))
        moved = torch.stack(sizes).isfinite().any(dim=0)
        values = torch.where(_per_image(moved), images - start, torch.nan)
        log_p, answered = answer(first, labels)
        if self.weighted:
            with torch.no_grad():
                chunks = images.to(masked.dtype).split(self.chunk_size or len(images))
                after, _ = answer(torch.cat([classify(chunk) for chunk in chunks]).float(), labels)
            values = values * _per_image((after - log_p).clamp(min=0) * root / _size(values).clamp(min=_TINY))
        return Found(values, answered, log_p)

    def _gradients(self, classify: Classify, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The gradients and the logits of `_ascent_direction`, one chunk after the other."""
        size = self.chunk_size or len(images)
        chunks = zip(images.split(size), labels.split(size), strict=True)
        found = [_ascent_direction(classify, *chunk) for chunk in chunks]
        gradients, logits = (torch.cat(values) if len(found) > 1 else values[0] for values in zip(*found, strict=True))
        return gradients, logits

    def _bounds(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Lowest and highest value of a filled pixel, and the mean colour between them, each ``(1, C, H, W)``."""
        low, high = (bound.to(like).expand_as(like[:1]).contiguous() for bound in (self.low, self.high))
        return low, high, self.prior.mean.to(like)[:, None, None].expand_as(like[:1]).clamp(low, high)

    def _contrast(self) -> Tensor:
        """Largest root mean square distance from the mean colour, in the images' own units; a tensor of no axes."""
        most = self.contrast * self.prior.std
        if len(self.prior.mean) == 1:  # black and white is what drawings are made of
            return self.low.new_tensor(most)
        return ((self.high - self.low).mean() * _MOST_OF_RANGE).clamp(max=most)

    def _shifts(self, size: torch.Size) -> list[tuple[int, int]]:
        """Rows and columns that all images are shifted by in each step, in the first by none."""
        uniform = keyed_uniform(torch.tensor([self.seed]), 2 * self.num_steps).view(-1, 2)
        largest = torch.tensor([round(self.max_shift * side) for side in size])
        shifts = ((uniform * (2 * largest + 1)).floor().long() - largest).tolist()
        return [(0, 0), *((rows, columns) for rows, columns in shifts[1:])]

    def _zooms(self, like: Tensor) -> Tensor | None:
        """How much larger all images are seen in each step, shape ``(num_steps,)``; None if none is zoomed."""
        if self.max_zoom == 0 or min(like.shape[-2:]) < _ZOOMED_FROM:
            return None
        uniform = keyed_uniform(torch.tensor([self.seed]), 3 * self.num_steps)[0, 2 * self.num_steps :]  # after shifts
        return ((2 * uniform - 1) * self.max_zoom).exp().to(like)


def _ascent_direction(classify: Classify, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient of log p(label), at any positive scale an image, and the logits."""
    leaf = images.detach().requires_grad_()
    logits = differentiable_logits(classify, leaf)
    (gradient,) = torch.autograd.grad(logits, leaf, grad_outputs=_towards(logits.detach(), labels))
    return gradient.to(torch.promote_types(gradient.dtype, torch.float32)).contiguous(), logits.detach()


def _towards(logits: Tensor, labels: Tensor) -> Tensor:
    """The gradient of log p(label) for the logits, over 1 - p(label): however sure a model is, it is not small.

    Logits that are too loud are tempered first, so that a sure network's runner-up does not stand for all others.
    """
    if logits.ndim == 3:  # of independent labels each has nothing but its own "no" to leave behind
        rows = torch.arange(len(labels), device=logits.device)
        return torch.zeros_like(logits).index_put((rows, labels), logits.new_tensor([-1.0, 1.0]))
    loudness = logits.std(dim=1, keepdim=True) / _MOST_LOUD
    others = (logits / loudness.nan_to_num(nan=1.0).clamp(min=1)).scatter_(1, labels[:, None], -torch.inf)
    return others.softmax(dim=1).neg().scatter_(1, labels[:, None], 1.0)


def _inwards(direction: Tensor, values: Tensor, low: Tensor, high: Tensor, freedom: Tensor) -> Tensor:
    """A direction in place, less what leads out of the value range by more than an image's freedom, ``(B,)``.

    On a white background, everything that is white asks for more of it, and the shaping draws along all around it,
    until nothing else is left. Images in which the model sees the label, or has not failed to for long, do without:
    other networks recognise less in what would be drawn then.
    """
    down = torch.sub(low * _FAR, values, alpha=_FAR).clamp_(max=0).sub_(_per_image(freedom))
    up = torch.sub(high * _FAR, values, alpha=_FAR).clamp_(min=0).add_(_per_image(freedom))
    return direction.nan_to_num_(torch.nan, torch.nan, torch.nan).clamp_(down, up)


def _maybe_any(flags: Tensor) -> bool:
    """Whether any is set. Asking would make a GPU wait, so that there the answer is yes."""
    return flags.device.type != "cpu" or bool(flags.any())


def _size(values: Tensor) -> Tensor:
    """The root of the sum of the squares of each image, shape ``(B,)``."""
    norm: Tensor = torch.linalg.vector_norm(values, dim=(1, 2, 3))
    return norm


def _per_image(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


def _as_given(images: Tensor, like: Tensor) -> Tensor:
    """Images in the type and in the memory format of others."""
    if (images.dtype, images.stride()) == (like.dtype, like.stride()):
        return images
    if images.dtype == like.dtype and like.is_contiguous():  # of one channel: the formats differ in name alone
        return images.as_strided(like.shape, like.stride())
    return torch.empty_like(like).copy_(images)
