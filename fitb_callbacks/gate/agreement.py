"""Whether two models go by the same things: to which of two images they lean where a picture is made of both.

Nothing has to be known of what a model may wrongly go by. A mark, a tint or a ghost is in the part of a picture that it
comes from, and a model that follows it leans to that part's image; one that looks at things leans elsewhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fitb_callbacks.gate.bootstrap import interval
from fitb_callbacks.gate.rules import PEER_AGREEMENT
from fitb_callbacks.models.answers import log_probability
from fitb_callbacks.models.logits import LogitsFn
from fitb_callbacks.probing.cues import of_another_class
from fitb_callbacks.probing.result import FillInBlanksResult
from fitb_callbacks.scoring.judges.module import ModuleJudge

__all__ = ["LEAST_RIGHT", "Leanings", "agreement", "agreement_with_interval", "as_judge", "leanings"]

LEAST_RIGHT = 0.75
"""Share of the whole images that a champion has to tell from others to judge another model; by chance, it is a half."""

_CELLS = 3  # on a side: large enough for shapes to be seen, whatever the network's own patches are
_PICTURES = 24  # of each image
_MOST = 6.0  # log odds from which a model is simply sure


@dataclass(frozen=True, eq=False)
class Leanings:
    """To which of two images a model leans.

    Attributes:
        mixed: Log odds of an image's label against the other's, in pictures of which half is either's, shape
            ``(D, N)``: above 0 where the model leans to the image.
        right: Share of the whole images for which the model holds the own label more probable than the other's.
    """

    mixed: Tensor
    right: float


def as_judge(model: nn.Module, result: FillInBlanksResult, logits_fn: LogitsFn | None) -> ModuleJudge:
    """A model as judge of images as they are in a result, which folds volumes."""
    judge = ModuleJudge(model, logits_fn)
    return judge if result.depth is None else judge.of_volumes(result.depth)


def leanings(judge: ModuleJudge, images: Tensor, labels: Tensor, *, seed: int = 0) -> Leanings:
    """Show a model pictures of which half of the cells are an image's, and half another's of another class.

    Args:
        judge: The model.
        images: Shape ``(N, C, H, W)``.
        labels: Integers, shape ``(N,)``.
        seed: Of the cells. Two models can be compared on the same ones.

    Returns:
        Log odds and share; all 0 where there is only one class.

    Example:
        >>> images = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> labels = images.mean(dim=(2, 3)).argmax(dim=1)
        >>> by_mean_colour = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
        >>> found = leanings(ModuleJudge(by_mean_colour), images, labels)
        >>> found.mixed.shape, found.right
        (torch.Size([24, 8]), 1.0)
    """
    generator = torch.Generator().manual_seed(seed)
    whole = judge.logits(images)
    mixed, right = [], []
    for draw in range(_PICTURES):
        others = of_another_class(labels, draw)
        pictures = torch.where(_cells(images, generator, first=draw // 4 % 2), images, images[others])
        mixed.append(_log_odds(judge.logits(pictures), labels, labels[others]))
        right.append(_log_odds(whole, labels, labels[others]) > 0)
    return Leanings(torch.stack(mixed), torch.stack(right).double().mean().item())


def agreement(first: Leanings, second: Leanings, rows: Tensor) -> Tensor:
    """How alike two models lean, in selections of the images.

    The cosine of the angle between the two models' log odds: 1 if they lean alike, 0 if they go by unrelated things, -1
    if one leans to what the other doesn't. Pictures about which a model is unsure count less.

    Args:
        first: Of one model.
        second: Of the other, on the same pictures.
        rows: Row numbers of the images, shape ``(R, n)``.

    Returns:
        Values in [-1, 1], shape ``(R,)``; NaN where a model leans nowhere.

    Example:
        >>> sure, unsure = (Leanings(torch.tensor([[3.0, -3.0]]) * scale, 1.0) for scale in (1, 0.1))
        >>> agreement(sure, unsure, torch.tensor([[0, 1], [1, 1]])).tolist()
        [1.0, 1.0]
    """
    one, other = first.mixed.double(), second.mixed.double()
    pairs = ((one, other), (one, one), (other, other))
    together, of_one, of_other = ((a * b).mean(dim=0)[rows].sum(dim=1) for a, b in pairs)
    return together / (of_one * of_other).sqrt()


def agreement_with_interval(
    first: Leanings, second: Leanings, labels: Tensor, rows: Tensor
) -> tuple[float, tuple[float, float]]:
    """How alike two models lean over all images, and the ends of the 95% interval, NaN where there is none.

    Args:
        first: Of one model.
        second: Of the other, on the same pictures.
        labels: Of the images, shape ``(N,)``.
        rows: Resamples of the images, of `fitb_callbacks.gate.bootstrap.resamples`.
    """
    value = agreement(first, second, torch.arange(len(labels))[None]).item()
    low, high = interval(PEER_AGREEMENT, value, agreement(first, second, rows), labels)
    return value, (low, high) if math.isnan(low + high) else (max(-1.0, low), min(1.0, high))


def _cells(images: Tensor, generator: torch.Generator, *, first: int) -> Tensor:
    """For each image other cells, four or five of the nine in turn, ``(N, 1, H, W)``."""
    order = torch.rand(len(images), _CELLS**2, generator=generator).argsort(dim=1)
    chosen = (order < (_CELLS**2 + first) // 2).view(-1, 1, _CELLS, _CELLS).float()
    return F.interpolate(chosen, images.shape[-2:], mode="nearest") > 0.5


def _log_odds(logits: Tensor, labels: Tensor, others: Tensor) -> Tensor:
    odds = log_probability(logits, labels) - log_probability(logits, others)
    return odds.nan_to_num(0.0).clamp(-_MOST, _MOST)
