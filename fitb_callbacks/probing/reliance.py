"""Where a model looks: what the absence of each patch costs, by forward passes alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fitb_callbacks.models.answers import margin
from fitb_callbacks.models.chunks import in_chunks, usual_chunk_size
from fitb_callbacks.models.logits import Classify
from fitb_callbacks.probing.masks import hidden_patches, masks_per_round
from fitb_callbacks.utils.arithmetic import safe_divide
from fitb_callbacks.utils.patch_grid import PatchGrid

__all__ = [
    "MOST_MASKS",
    "Reliance",
    "block_masks",
    "class_patches",
    "margins",
    "reliance",
    "reliance_summary",
    "spot_around",
    "top_patches",
]

MOST_MASKS = 192
"""Masks of which reliance is told; more make hardly any difference to where its top patch is."""

_MASK_RATIO = 0.25
_BLOCK = 2  # patches on a block's side: a mark seldom fits one patch, and what is left of it is enough for a model
_NOISE = 3.0  # standard errors below which a patch counts as noise
_RIDGE = 0.1  # as a share of the number of masks
_FEWEST = 3  # masks
_CLASS_SHARE = 1 / 16  # of the patches
_TIE = 1e-4  # of the largest value: patches that few masks tell apart matter alike, but for rounding


def block_masks(number: int, grid: PatchGrid, *, seed: int) -> Tensor:
    """Which patches masks hide that are made of blocks of 2 x 2 patches, at four offsets in turn.

    Each hides a quarter of the blocks. Mask i is a pure function of the seed and i.

    Returns:
        Boolean tensor of shape ``(number, num_patches)``; True is hidden.

    Example:
        >>> block_masks(4, PatchGrid(8, 8, 2), seed=0).float().mean().item() > 0.1
        True
    """
    coarse = PatchGrid(grid.rows // _BLOCK + 1, grid.columns // _BLOCK + 1, 1)
    indices = torch.arange(number)
    blocks = coarse.to_grid(hidden_patches(indices, coarse, mask_ratio=_MASK_RATIO, seed=seed))
    patches = blocks.repeat_interleave(_BLOCK, dim=1).repeat_interleave(_BLOCK, dim=2)
    shifted = torch.stack(
        [patches[:, y : y + grid.rows, x : x + grid.columns] for y in range(_BLOCK) for x in range(_BLOCK)]
    )
    offset = indices // masks_per_round(coarse, _MASK_RATIO) % len(shifted)
    return shifted[offset, indices].flatten(1)


def margins(  # noqa: PLR0913 - what to look at, and how
    classify: Classify,
    images: Tensor,
    labels: Tensor,
    hidden: Tensor,
    *,
    grid: PatchGrid,
    baseline: Tensor,
    chunk_size: int | None = None,
) -> Tensor:
    """By how much the label's logit is above the highest other one, for images under masks, without gradients.

    Args:
        classify: Images ``(B, C, H, W)`` to logits ``(B, classes)``, at least two.
        images: Shape ``(N, C, H, W)``.
        labels: Shape ``(N,)``.
        hidden: Which patches each mask hides, boolean, shape ``(K, P)``.
        grid: The patches.
        baseline: Value of a hidden pixel, shape ``(C, 1, 1)``.
        chunk_size: As for `fitb_callbacks.models.chunks.in_chunks`.

    Returns:
        Shape ``(K, N)``, on the CPU.
    """
    visible = grid.to_pixels(~hidden.to(images.device))[:, None, None]
    together = max(1, (chunk_size or usual_chunk_size(images)) // len(images))
    found = []
    for some in visible.split(together):
        masked = torch.where(some, images, baseline.to(images.dtype)).flatten(0, 1)
        logits = in_chunks(classify, masked, chunk_size).float().cpu()
        found.append(margin(logits, labels.cpu().repeat(len(some))).view(len(some), -1))
    return torch.cat(found) if found else torch.zeros(0, len(images))


def reliance(hidden: Tensor, values: Tensor) -> Tensor:
    """How much each patch's absence takes from the answer, by ridge regression.

    An image's margins are standardised over the masks, so the map does not depend on the scale of the logits. Effects
    of less than three standard errors count as none.

    Args:
        hidden: Which patches each mask hides, boolean, shape ``(K, P)``.
        values: How sure the model is of each image's label under each mask, shape ``(K, N)``, as of `margins`. NaN
            counts as the lowest.

    Returns:
        Values >= 0, shape ``(N, P)``; each image's sum to 1, or are all 0 where no patch matters.

    Example:
        >>> hidden = torch.rand(200, 9, generator=torch.Generator().manual_seed(0)) < 0.25
        >>> margin = -4.0 * hidden[:, 5:6].float()
        >>> reliance(hidden, margin)[0].round(decimals=2).tolist()
        [0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]
    """
    if len(hidden) < _FEWEST:
        return torch.zeros(values.shape[1], hidden.shape[1], dtype=torch.float32)
    with torch.autocast("cpu", enabled=False):  # whatever precision the model is run in
        return _maps(hidden.cpu().float(), _standardised(values.cpu().float()))


def _maps(hidden: Tensor, margin: Tensor) -> Tensor:
    number, size = hidden.shape
    design = hidden - hidden.mean(dim=0)
    gram = design.T @ design
    penalty = _RIDGE * number * hidden.var(dim=0, correction=0).mean().clamp(min=1e-12)
    inverse = torch.linalg.inv(gram + penalty * torch.eye(size, dtype=gram.dtype))
    effects = inverse @ (design.T @ margin)
    left = margin - design @ effects
    freedom = max(1.0, number - 1 - float((inverse * gram).sum()))
    variance = left.square().sum(dim=0) / freedom
    error = (inverse @ gram @ inverse).diagonal().clamp(min=0).sqrt()[:, None] * variance.sqrt()
    costs: Tensor = (-effects).where(-effects > _NOISE * error, 0).T
    return safe_divide(costs, costs.sum(dim=1, keepdim=True))


def _standardised(margin: Tensor) -> Tensor:
    """Centred and of variance 1 within each column; columns of one value are 0."""
    lowest = margin.where(margin.isfinite(), torch.inf).amin(dim=0)
    known = margin.where(margin.isfinite(), lowest.where(lowest.isfinite(), 0))
    centred = known - known.mean(dim=0)
    deviation = centred.square().mean(dim=0).sqrt()
    return torch.where(deviation > 1e-6 * known.abs().amax(dim=0), safe_divide(centred, deviation), 0)


@dataclass(frozen=True)
class Reliance:
    """What the maps of all images have in common.

    Attributes:
        share: Mean share of an image's reliance within a spot of 3 x 3 patches around its top patch, in [0, 1].
        area: Smallest share of the image's area that holds half of its reliance, the mean over images, in (0, 1].
        same_place: Largest share of the images whose top patch lies within one spot of 3 x 3 patches, in [0, 1].
        row: Row of the middle of that spot, in [0, rows).
        column: Its column, in [0, columns).
        class_place: How often an image's top patch lies within one step of that of another image of its class, in
            [0, 1]; 0 where each class has one image.
        chance: What ``same_place`` would be if top patches were anywhere.
    """

    share: float
    area: float
    same_place: float
    row: int
    column: int
    chance: float
    class_place: float = 0.0

    def place(self, grid: PatchGrid) -> str:
        """Where that spot is, in words.

        Example:
            >>> Reliance(0.9, 0.02, 0.95, row=12, column=13, chance=0.05).place(PatchGrid(28, 28, 2))
            'at the lower right'
        """
        vertical = ("upper", "", "lower")[min(2, 3 * self.row // grid.rows)]
        horizontal = ("left", "", "right")[min(2, 3 * self.column // grid.columns)]
        words = {"upper": "top", "lower": "bottom"}
        if not vertical or not horizontal:
            return f"at the {words.get(vertical) or horizontal}" if vertical or horizontal else "in the middle"
        return f"at the {vertical} {horizontal}"


def reliance_summary(maps: Tensor, grid: PatchGrid, labels: Tensor | None = None) -> Reliance:
    """Concentration of reliance, and whether it sits at one place in all images.

    Args:
        maps: As of `reliance`, shape ``(N, P)``. Images without any reliance have no spot, and so none at a place.
        grid: The patches.
        labels: Shape ``(N,)``. None leaves out ``class_place``.

    Example:
        >>> maps = torch.zeros(4, 196)
        >>> maps[:, 20] = 1.0
        >>> found = reliance_summary(maps, PatchGrid(28, 28, 2))
        >>> found.share, found.same_place, (found.row, found.column)
        (1.0, 1.0, (1, 6))
    """
    number, some = len(maps), maps.sum(dim=1) > 0
    maps, labels = maps[some], None if labels is None else labels[some]
    spots = _spots(grid)
    chance = float(spots.float().mean(dim=0).max())
    if not len(maps):
        return Reliance(0.0, 1.0, 0.0, 0, 0, chance)
    tops = top_patches(maps)
    share = (maps * spots[tops]).sum(dim=1).mean().item()
    held = maps.sort(dim=1, descending=True).values.cumsum(dim=1)
    area = ((held < 0.5).sum(dim=1) + 1).double().mean().item() / maps.shape[1]
    votes = torch.bincount(tops, minlength=maps.shape[1]).float() @ spots.float()
    best = int(votes.argmax())
    # Among equally good spots the one around the most frequent top patch is meant
    counts = torch.bincount(tops, minlength=maps.shape[1])
    best = int(torch.where(votes == votes.max(), counts + 1, 0).argmax()) if votes[best] > 0 else best
    return Reliance(
        share=share,
        area=area,
        same_place=votes.max().item() / number,
        row=best // grid.columns,
        column=best % grid.columns,
        chance=chance,
        class_place=0.0 if labels is None else _agreement(spots[tops][:, tops], labels) * len(maps) / number,
    )


def top_patches(maps: Tensor) -> Tensor:
    """The patch of the largest value in each map ``(N, P)``, shape ``(N,)``; of patches that matter alike, the first.

    Example:
        >>> top_patches(torch.tensor([[0.2, 0.39999, 0.4], [0.0, 0.3, 0.7]])).tolist()
        [1, 2]
    """
    largest = maps.amax(dim=1, keepdim=True)
    return (maps >= (1 - _TIE) * largest).int().argmax(dim=1)


def spot_around(patches: Tensor, grid: PatchGrid) -> Tensor:
    """The 3 x 3 patches around each of some patches ``(N,)``, boolean, shape ``(N, P)``."""
    return _spots(grid)[patches]


def class_patches(maps: Tensor, labels: Tensor) -> Tensor:
    """The few patches that matter most in each image's class, told by the other images of that class.

    An object that stands elsewhere in each image has none in common; a mark at a place of its class's own has.

    Args:
        maps: As of `reliance`, shape ``(N, P)``.
        labels: Shape ``(N,)``.

    Returns:
        Boolean tensor of shape ``(N, P)``: up to a sixteenth of the patches, fewer if fewer matter. An image without a
        classmate has its own.

    Example:
        >>> maps = torch.zeros(3, 32)
        >>> maps[:, 5] = 1.0
        >>> maps[0, 7] = 2.0
        >>> class_patches(maps, torch.zeros(3).long()).nonzero()[:, 1].tolist()
        [5, 5, 7, 5, 7]
    """
    classmates = (labels[:, None] == labels) & ~torch.eye(len(labels), dtype=torch.bool)
    alone = ~classmates.any(dim=1)
    classmates |= torch.diag(alone)
    means = safe_divide(classmates.float() @ maps, classmates.sum(dim=1, keepdim=True))
    # Patches that matter alike, but for rounding, count in the order of their numbers
    steps = (safe_divide(means, means.amax(dim=1, keepdim=True)) / _TIE).round()
    largest = steps.sort(dim=1, descending=True, stable=True).indices[:, : max(1, round(_CLASS_SHARE * maps.shape[1]))]
    return torch.zeros_like(maps, dtype=torch.bool).scatter_(1, largest, True) & (steps > 0)


def _agreement(near: Tensor, labels: Tensor) -> float:
    """How often two images of a class are near each other, the mean over images that have a classmate."""
    classmates = (labels[:, None] == labels) & ~torch.eye(len(labels), dtype=torch.bool)
    number = classmates.sum(dim=1)
    agreeing = (near & classmates).sum(dim=1)[number > 0] / number[number > 0]
    return agreeing.mean().item() if len(agreeing) else 0.0


def _spots(grid: PatchGrid) -> Tensor:
    """Whether each patch lies within one step of each other patch, boolean, ``(P, P)``."""
    rows = torch.arange(grid.num_patches) // grid.columns
    columns = torch.arange(grid.num_patches) % grid.columns
    return ((rows[:, None] - rows).abs() <= 1) & ((columns[:, None] - columns).abs() <= 1)
