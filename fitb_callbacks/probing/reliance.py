"""Where a model looks: what each patch's absence costs, by regression over the masks of a probe."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fitb_callbacks.utils.patch_grid import PatchGrid

__all__ = ["Reliance", "reliance", "reliance_summary"]

_NOISE = 3.0  # standard errors below which a patch counts as noise
_RIDGE = 0.1  # as a share of the number of masks


def reliance(hidden: Tensor, log_p: Tensor, tried: Tensor | None = None) -> Tensor:
    """How much each patch's absence lowers the probability of the label, by ridge regression.

    Within an image, log p is replaced by its rank among the masks, so the map does not depend on the scale of the
    logits. Effects of less than three standard errors count as none.

    Args:
        hidden: Which patches each mask hides, boolean, shape ``(K, P)``.
        log_p: Log probability of each image's label under each mask, shape ``(K, N)``. NaN counts as the lowest.
        tried: How many masks each image had, shape ``(N,)``: only the first that many rows are read. None: all.

    Returns:
        Values >= 0, shape ``(N, P)``; each image's sum to 1, or are all 0 where no patch matters.

    Example:
        >>> hidden = torch.rand(200, 9, generator=torch.Generator().manual_seed(0)) < 0.25
        >>> log_p = -4.0 * hidden[:, 5:6].float()
        >>> reliance(hidden, log_p)[0].round(decimals=2).tolist()
        [0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]
    """
    rows = torch.full((log_p.shape[1],), len(log_p)) if tried is None else tried.clamp(max=len(log_p)).cpu()
    # Whatever precision the model is run in, a training in 16 or 64 bits, too
    maps = torch.zeros(log_p.shape[1], hidden.shape[1], dtype=torch.float32)
    for number in rows.unique().tolist():
        images = (rows == number).nonzero().flatten()
        if number >= 3:
            seen = log_p[:number, images.to(log_p.device)].cpu().float()
            with torch.autocast("cpu", enabled=False):
                maps[images] = _maps(hidden[:number].cpu().float(), seen)
    return maps


def _maps(hidden: Tensor, log_p: Tensor) -> Tensor:
    number, size = hidden.shape
    ranks = _ranks(log_p.nan_to_num(nan=-torch.inf))
    design = hidden - hidden.mean(dim=0)
    gram = design.T @ design
    penalty = _RIDGE * number * hidden.var(dim=0, correction=0).mean().clamp(min=1e-12)
    inverse = torch.linalg.inv(gram + penalty * torch.eye(size, dtype=gram.dtype))
    effects = inverse @ (design.T @ ranks)
    left = ranks - design @ effects
    freedom = max(1.0, number - 1 - float((inverse * gram).sum()))
    variance = left.square().sum(dim=0) / freedom
    error = (inverse @ gram @ inverse).diagonal().clamp(min=0).sqrt()[:, None] * variance.sqrt()
    costs: Tensor = (-effects).where(-effects > _NOISE * error, 0).T
    return costs / costs.sum(dim=1, keepdim=True).clamp(min=1e-12)


def _ranks(values: Tensor) -> Tensor:
    """Ranks within each column, ties averaged, centred and of variance 1; columns of one value are 0."""
    order = values.sort(dim=0).values
    low = torch.searchsorted(order.T.contiguous(), values.T.contiguous())
    high = torch.searchsorted(order.T.contiguous(), values.T.contiguous(), right=True)
    ranks = ((low + high) / 2).T.to(values.dtype)
    ranks = ranks - ranks.mean(dim=0)
    return ranks / ranks.square().mean(dim=0).sqrt().clamp(min=1e-12)


@dataclass(frozen=True)
class Reliance:
    """What the maps of all images have in common.

    Attributes:
        share: Mean share of an image's reliance within a spot of 3 x 3 patches around its top patch, in [0, 1].
        area: Smallest share of the image's area that holds half of its reliance, the mean over images, in (0, 1].
        same_place: Largest share of the images whose top patch lies within one spot of 3 x 3 patches, in [0, 1].
        row: Row of the middle of that spot, in [0, rows).
        column: Its column, in [0, columns).
        chance: What ``same_place`` would be if top patches were anywhere.
    """

    share: float
    area: float
    same_place: float
    row: int
    column: int
    chance: float

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


def reliance_summary(maps: Tensor, grid: PatchGrid) -> Reliance:
    """Concentration of reliance, and whether it sits at one place in all images.

    Args:
        maps: As of `reliance`, shape ``(N, P)``. Images without any reliance are left out.
        grid: The patches.

    Example:
        >>> maps = torch.zeros(4, 196)
        >>> maps[:, 20] = 1.0
        >>> found = reliance_summary(maps, PatchGrid(28, 28, 2))
        >>> found.share, found.same_place, (found.row, found.column)
        (1.0, 1.0, (1, 6))
    """
    maps = maps[maps.sum(dim=1) > 0]
    spots = _spots(grid)
    chance = float(spots.float().mean(dim=0).max())
    if not len(maps):
        return Reliance(0.0, 1.0, 0.0, 0, 0, chance)
    tops = maps.argmax(dim=1)
    share = (maps * spots[tops]).sum(dim=1).mean().item()
    held = maps.sort(dim=1, descending=True).values.cumsum(dim=1)
    area = ((held < 0.5).sum(dim=1) + 1).double().mean().item() / maps.shape[1]
    votes = torch.bincount(tops, minlength=maps.shape[1]).float() @ spots.float()
    best = int(votes.argmax())
    # Among equally good spots the one around the most frequent top patch is meant
    counts = torch.bincount(tops, minlength=maps.shape[1])
    best = int(torch.where(votes == votes.max(), counts + 1, 0).argmax()) if votes[best] > 0 else best
    return Reliance(share, area, votes.max().item() / len(maps), best // grid.columns, best % grid.columns, chance)


def _spots(grid: PatchGrid) -> Tensor:
    """Whether each patch lies within one step of each other patch, boolean, ``(P, P)``."""
    rows = torch.arange(grid.num_patches) // grid.columns
    columns = torch.arange(grid.num_patches) % grid.columns
    return ((rows[:, None] - rows).abs() <= 1) & ((columns[:, None] - columns).abs() <= 1)
