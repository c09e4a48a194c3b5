"""Masking strategies: what is hidden from the model, and how the updates that it finds are put together.

A strategy is a small class. To add one, write it, name it in `fitb_callbacks.probing.settings.MaskingName`, and make it
in `FillInBlanks`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fitb_callbacks.models.chunks import in_blocks
from fitb_callbacks.probing.masks import hidden_patches, masks_per_round, step_of_patch
from fitb_callbacks.probing.updates import UpdateFinder
from fitb_callbacks.utils.arithmetic import safe_divide
from fitb_callbacks.utils.patch_grid import PatchGrid

__all__ = ["Masking", "ProgressiveMasking", "RandomMasking", "Targets", "Updates"]


@dataclass(frozen=True)
class Targets:
    """What is masked, and what it is to be seen as; all on the model's device.

    Attributes:
        images: Shape ``(N, C, H, W)``.
        labels: The label each image is filled for, integers, shape ``(N,)``.
        baseline: Value of a masked pixel, shape ``(C, 1, 1)``.
        grid: The images' patches.
        seed: Of the masks, an integer in [0, 2**32).
    """

    images: Tensor
    labels: Tensor
    baseline: Tensor
    grid: PatchGrid
    seed: int


@dataclass(frozen=True)
class Updates:
    """The updates of R images under K masks, or over K partitions.

    Attributes:
        values: Shape ``(K, R, C, H, W)``, zero where nothing was masked.
        kept: Which of them count: those of masked images that the model predicts as their label, boolean, ``(K, R)``.
        log_p: log p(label) of each masked image, shape ``(K, R)``; with partitions, under their first mask.
        steps: With partitions, each image after every step of the first of them, shape ``(R, S, C, H, W)``.
    """

    values: Tensor
    kept: Tensor
    log_p: Tensor
    steps: Tensor | None = None


class Masking(Protocol):
    """A way to mask images.

    Masks are drawn for many indices at once, and put to use on blocks of some of them and some images: updates depend
    on the index of mask and image alone.
    """

    @property
    def targets(self) -> Targets:
        """What is masked."""
        ...

    @property
    def masks_per_update(self) -> int:
        """How many masks an update takes."""
        ...

    @property
    def num_steps(self) -> int:
        """How many images each image becomes on its way to being filled; 0 if it is not filled."""
        ...

    @property
    def round_length(self) -> int:
        """How many consecutive updates depend on each other."""
        ...

    def draw(self, indices: Tensor) -> Tensor:
        """The masks with some indices ``(K,)``, as a value for each patch, shape ``(K, P)``."""
        ...

    def hidden(self, drawn: Tensor) -> Tensor:
        """Which patches of the original image `Updates.log_p` did without, boolean, shape ``(K, P)``."""
        ...

    def find(self, finder: UpdateFinder, drawn: Tensor, indices: Tensor, images: Tensor) -> Updates:
        """Find the updates of some images, by index ``(R,)``, under masks that were drawn for some indices ``(K,)``."""
        ...


@dataclass(frozen=True)
class RandomMasking:
    """Random masks that are independent of each other, but for their rounds (paper, section 4.1).

    Attributes:
        targets: What is masked.
        mask_ratio: Share of the patches that is hidden, in (0, 1).
    """

    targets: Targets
    mask_ratio: float

    masks_per_update = 1
    num_steps = 0

    @property
    def round_length(self) -> int:
        """See `Masking`."""
        return masks_per_round(self.targets.grid, self.mask_ratio)

    def draw(self, indices: Tensor) -> Tensor:
        """See `Masking`: which patches are hidden, boolean."""
        return hidden_patches(indices, self.targets.grid, mask_ratio=self.mask_ratio, seed=self.targets.seed)

    def hidden(self, drawn: Tensor) -> Tensor:
        """See `Masking`."""
        return drawn

    def find(self, finder: UpdateFinder, drawn: Tensor, indices: Tensor, images: Tensor) -> Updates:
        """See `Masking`."""
        targets, block = self.targets, (len(drawn), len(images))
        originals, labels = targets.images[images], targets.labels[images]
        visible = targets.grid.to_pixels(~drawn)[:, None, None]
        # Exact where the weight is 0 or 1, and faster than a choice.
        masked = torch.lerp(targets.baseline, originals, visible.to(originals.dtype))
        found = finder.find(
            masked.flatten(0, 1),
            labels.repeat(block[0]),
            visible.expand(-1, block[1], -1, -1, -1).flatten(0, 1),
        )
        kept = found.predicted.view(block) == labels
        return Updates(found.values.unflatten(0, block), kept, found.log_p.view(block))


@dataclass(frozen=True)
class ProgressiveMasking:
    """Partitions of masks that fill one part of the image after the other (paper, section 4.2).

    Each step masks one part of the current image, finds the update on it, and puts the fill there; the next step sees
    that as part of the image. After the last step no original pixel is left.

    Each step's update is divided by the root mean square of its values, so that the parts of the whole weigh alike, as
    they do in the filled image, where every step is normalised by itself.

    Only under its first mask does an image hold nothing but original pixels, so whether the model knows the label is
    decided there; afterwards the model is fed its own fills.

    Attributes:
        targets: What is masked.
        num_steps: Masks in a partition, from 1 to the number of patches.
        fill: What an update puts in place of masked pixels: updates to images, both ``(B, C, H, W)``.

    Example:
        >>> import torch
        >>> from fitb_callbacks.probing.autotune import Plan
        >>> from fitb_callbacks.probing.updates import GradientUpdate
        >>> grid, baseline = PatchGrid(height=1, width=2, patch_size=1), torch.zeros(1, 1, 1)
        >>> targets = Targets(torch.rand(3, 1, 1, 2), torch.tensor([0, 1, 1]), baseline, grid, seed=0)
        >>> masking = ProgressiveMasking(targets, num_steps=2, fill=lambda update: torch.full_like(update, 9.0))
        >>> steps = masking.fill_images(UpdateFinder(GradientUpdate(), torch.nn.Flatten(), Plan(chunk_size=2)))
        >>> steps.shape, steps[0, -1].tolist()
        (torch.Size([3, 2, 1, 1, 2]), [[[9.0, 9.0]]])
    """

    targets: Targets
    num_steps: int
    fill: Callable[[Tensor], Tensor]

    round_length = 1

    @property
    def masks_per_update(self) -> int:
        """See `Masking`."""
        return self.num_steps

    def draw(self, indices: Tensor) -> Tensor:
        """See `Masking`: which step hides each patch, integers."""
        return step_of_patch(indices, self.targets.grid, num_steps=self.num_steps, seed=self.targets.seed)

    def hidden(self, drawn: Tensor) -> Tensor:
        """See `Masking`."""
        return drawn == 0

    def find(self, finder: UpdateFinder, drawn: Tensor, indices: Tensor, images: Tensor) -> Updates:
        """See `Masking`. All images and partitions take a step at once."""
        targets, block = self.targets, (len(drawn), len(images))
        current, labels = targets.images[images].repeat(block[0], 1, 1, 1), targets.labels[images].repeat(block[0])
        step_of_pixel = targets.grid.to_pixels(drawn)[:, None, None].expand(-1, block[1], -1, -1, -1).flatten(0, 1)
        total, steps, founds = torch.zeros_like(current), [], []
        for step in range(self.num_steps):
            visible = step_of_pixel != step
            found = finder.find(torch.where(visible, current, targets.baseline), labels, visible)
            current = torch.where(visible, current, self.fill(found.values))
            total = total + _unit_size(found.values)
            steps.append(current[: block[1]])
            founds.append(found)
        kept = (founds[0].predicted == labels).view(block)
        return Updates(total.unflatten(0, block), kept, founds[0].log_p.view(block), torch.stack(steps, dim=1))

    def fill_images(self, finder: UpdateFinder) -> Tensor:
        """Fill all images over the first partition; the images after every step, shape ``(N, S, C, H, W)``.

        Memory is bounded by the finder's chunk size, which is halved when memory runs out.
        """
        images = self.targets.images
        steps = images.new_zeros(len(images), self.num_steps, *images.shape[1:])
        first = torch.zeros(1, dtype=torch.long, device=images.device)
        drawn = self.draw(first)

        def fill(_: slice, rows: slice) -> None:
            found = self.find(finder, drawn, first, torch.arange(rows.start, rows.stop, device=images.device))
            assert found.steps is not None
            steps[rows] = found.steps.to(steps.dtype)

        in_blocks(fill, 1, len(images), finder.plan.chunk_size)
        return steps


def _unit_size(update: Tensor) -> Tensor:
    """Each update over the root mean square of its values that are not zero."""
    values = update.flatten(1)
    mean_square = safe_divide(values.square().sum(dim=1), values.count_nonzero(dim=1))
    return safe_divide(update, mean_square.sqrt()[:, None, None, None])
