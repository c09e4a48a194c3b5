"""Arrays to small uint8 pictures: an image, a prototype, an update over an image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["BLANK", "Cell", "Picture", "cell_tiles", "main_tile", "overlay", "prototype_tile", "to_rgb"]

Picture = npt.NDArray[np.uint8]
"""Height x width x 3, values 0 to 255."""

BLANK = (225, 225, 225)
_UP, _DOWN = np.array([230.0, 97.0, 1.0]), np.array([5.0, 80.0, 160.0])  # orange and blue, for any colour vision
_FULL_COLOUR_AT = 3.0
_PALEST = 0.55  # of the image under a map, so that both of its colours show on black, too


@dataclass(frozen=True, eq=False)
class Cell:
    """One probe image with what pictures show of it. Images are in the model's input space, on the CPU.

    Attributes:
        name: Name of the class it was filled for.
        image: Shape ``(C, H, W)``.
        visible: Pixels that the first random mask, or each mask of the first partition, leaves visible; boolean,
            shape ``(S, H, W)``.
        update: Mean update, shape ``(C, H, W)``.
        prototype: Shape ``(C, H, W)``; None if no mask was kept.
        answer: Name of the class that the model takes the prototype for; None if no mask was kept.
        right: Whether that is the image's own class.
        low: Value of each channel that is shown as black, shape ``(C, 1, 1)``.
        high: Value of each channel that is shown as white, shape ``(C, 1, 1)``.
        baseline: Value of masked pixels, shape ``(C, 1, 1)``.
        steps: The image after each step of the first partition, shape ``(S, C, H, W)``; None for random masks.
        filled: The image filled in until no original pixel is left, shape ``(C, H, W)``; None without a fill.
        reliance: What hiding each patch costs in log p(label), shape ``(rows, columns)``; None if not measured.
        gentler: Whether its update is from masks that hide less than the usual ones.
        is_volume: Whether pictures are three slices of a volume, side by side.
    """

    name: str
    image: Tensor
    visible: Tensor
    update: Tensor
    prototype: Tensor | None
    answer: str | None
    right: bool
    low: Tensor
    high: Tensor
    baseline: Tensor
    steps: Tensor | None = None
    filled: Tensor | None = None
    reliance: Tensor | None = None
    gentler: bool = False
    is_volume: bool = False

    @property
    def masked(self) -> Tensor:
        """The image under its first mask, shape ``(C, H, W)``."""
        return torch.where(self.visible[0], self.image, self.baseline.to(self.image))


def cell_tiles(cell: Cell) -> list[Picture]:
    """The image, the map over it, and what the model fills in; without a prototype or fill, the last two are blank.

    The map shows how much the model relies on each patch, or if that was not measured, where the update acts.
    """
    image = to_rgb(cell.image, cell.low, cell.high)
    main = main_tile(cell)
    if cell.reliance is not None:
        return [image, overlay(cell.image, cell.reliance[None], cell.low, cell.high), main]
    if cell.prototype is None:
        return [image, np.full_like(image, BLANK), main]
    return [image, overlay(cell.masked, cell.update, cell.low, cell.high), main]


def main_tile(cell: Cell) -> Picture:
    """The filled-in image in its own colours; without a fill, the prototype."""
    return prototype_tile(cell) if cell.filled is None else to_rgb(cell.filled, cell.low, cell.high)


def prototype_tile(cell: Cell) -> Picture:
    """The prototype; light grey all over if no mask was kept."""
    if cell.prototype is None:
        return np.full((*cell.image.shape[-2:], 3), BLANK, dtype=np.uint8)
    return to_rgb(cell.prototype, cell.low, cell.high)


def to_rgb(image: Tensor, low: Tensor, high: Tensor) -> Picture:
    """An image of any number of channels as a picture.

    One channel is grey, three are RGB, of four the first three are RGB; of any other number the mean is grey.

    Args:
        image: Shape ``(C, H, W)``.
        low: Value of each channel that is shown as 0, shape ``(C, 1, 1)``.
        high: Value of each channel that is shown as 255, shape ``(C, 1, 1)``.

    Returns:
        Height x width x 3, uint8.

    Example:
        >>> import torch
        >>> to_rgb(torch.tensor([[[-1.0, 1.0]]]), low=torch.tensor(-1.0), high=torch.tensor(1.0))[0].tolist()
        [[0, 0, 0], [255, 255, 255]]
    """
    image, low, high = image.float().cpu(), low.float().cpu(), high.float().cpu()
    share = ((image - low) / torch.where(high > low, high - low, 1)).clamp(0, 1)
    channels = share[:3] if share.shape[0] in (3, 4) else share.mean(dim=0, keepdim=True).expand(3, -1, -1)
    return (channels * 255).round().byte().permute(1, 2, 0).numpy()


def overlay(image: Tensor, values: Tensor, low: Tensor, high: Tensor) -> Picture:
    """Lay signed values over a pale grey image: orange where they are positive, blue where negative.

    Args:
        image: Shape ``(C, H, W)``.
        values: Shape ``(C, h, w)``, of the image's size or coarser; the channels' mean is shown. For an update,
            orange is brighter and blue darker; for reliance, orange speaks for the class and blue against it.
        low: As for `to_rgb`.
        high: As for `to_rgb`.

    Returns:
        Height x width x 3, uint8. Colour is in proportion to the value in units of the root mean square, and full
        from three of them on.

    Example:
        >>> import torch
        >>> picture = overlay(torch.zeros(1, 1, 2), torch.tensor([[[1.0, -1.0]]]), torch.zeros(1, 1, 1),
        ...                   torch.ones(1, 1, 1))
        >>> picture[0].tolist()
        [[170, 126, 94], [95, 120, 147]]
    """
    grey = to_rgb(image, low, high).astype(np.float32).mean(axis=2, keepdims=True)
    pale = 255 * _PALEST + (1 - _PALEST) * grey
    signed = F.interpolate(values.float().cpu().mean(dim=0)[None, None], size=image.shape[-2:], mode="nearest")[0, 0]
    scale = signed.square().mean().sqrt()
    strength = (signed / (scale * _FULL_COLOUR_AT) if scale > 0 else signed).clamp(-1, 1).numpy()[..., None]
    mixed: Picture = (pale + (np.where(strength > 0, _UP, _DOWN) - pale) * np.abs(strength)).round().astype(np.uint8)
    return mixed
