"""What suffices for the right answer: classify images of which little is left."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fitb_callbacks.models.chunks import in_chunks
from fitb_callbacks.models.logits import Classify
from fitb_callbacks.scoring.intervals import wilson_interval
from fitb_callbacks.scoring.nulls import permuted_patches

__all__ = ["CUES", "Cue", "cue_profile", "what_is_left"]

CUES: Mapping[str, str] = {
    "shading": "coarse shading (4 x 4 cells)",
    "colour": "the mean colour",
    "shuffled": "shuffled patches",
    "detail": "fine detail",
    "rim": "the rim",
    "centre": "the centre",
}
"""Cue to what is left of an image, in words that complete "right on 97% of the images of which only ... is left"."""

_RIM = 1 / 8  # of the shorter side
_SHUFFLED = 7  # patches on the shorter side
_SHUFFLES = 2


@dataclass(frozen=True)
class Cue:
    """How often a model is right on images of which only one cue is left.

    Attributes:
        rate: Share of the images classified as their label, in [0, 1].
        low: Lower end of its 95% interval.
        high: Upper end.
        chance: Share that would be right if the same answers were dealt at random.
    """

    rate: float
    low: float
    high: float
    chance: float

    @property
    def excess(self) -> float:
        """Rate above chance, as a share of what is possible: 0 by chance, 1 if always right."""
        return (self.rate - self.chance) / (1 - self.chance) if self.chance < 1 else 0.0


def cue_profile(
    classify: Classify, images: Tensor, labels: Tensor, *, baseline: Tensor | float = 0.0, chunk_size: int | None = None
) -> dict[str, Cue]:
    """Classify what is left of the images when all but one cue is taken away. Seven forward passes over the images.

    A shortcut that is everywhere in an image (a tint, a shading, a border) has no patch that could be pointed at, but
    it shows here: most of the image is gone and the answer stays. Whether that is a fault depends on the task, since
    fruit may well be told by colour; compare with the champion, or with the first epochs.

    Args:
        classify: Images ``(B, C, H, W)`` to logits ``(B, classes)``.
        images: Shape ``(N, C, H, W)``, at least one.
        labels: Shape ``(N,)``.
        baseline: What is put where pixels are taken away (rim, centre): a number, or ``(C, 1, 1)``.
        chunk_size: As for `fitb_callbacks.models.chunks.in_chunks`.

    Returns:
        The cues of `CUES` by name.

    Example:
        >>> images = torch.rand(8, 3, 16, 16)
        >>> labels = images.mean(dim=(2, 3)).argmax(dim=1)
        >>> by_mean_colour = lambda images: images.mean(dim=(2, 3))
        >>> profile = cue_profile(by_mean_colour, images, labels)
        >>> profile["colour"].rate, profile["shuffled"].rate
        (1.0, 1.0)
    """
    profile = {}
    for name in CUES:
        draws = range(_SHUFFLES if name == "shuffled" else 1)
        answers = [
            in_chunks(classify, what_is_left(name, images, baseline=baseline, seed=draw), chunk_size).argmax(dim=1)
            for draw in draws
        ]
        rate = sum((answer == labels).float().mean().item() for answer in answers) / len(answers)
        chance = sum(_chance(answer, labels) for answer in answers) / len(answers)
        low, high = wilson_interval(rate, len(labels))
        profile[name] = Cue(rate, low, high, chance)
    return profile


def what_is_left(cue: str, images: Tensor, *, baseline: Tensor | float = 0.0, seed: int = 0) -> Tensor:
    """Take everything but one cue away.

    Args:
        cue: One of `CUES`.
        images: Shape ``(N, C, H, W)``.
        baseline: As for `cue_profile`.
        seed: Of the shuffled patches.

    Returns:
        Images of the same shape.

    Example:
        >>> image = torch.arange(64.0).view(1, 1, 8, 8)
        >>> what_is_left("colour", image)[0, 0, 0, :2].tolist()
        [31.5, 31.5]
    """
    leave: dict[str, Callable[[], Tensor]] = {
        "shading": lambda: _blurred(images, 4),
        "colour": lambda: images.mean(dim=(2, 3), keepdim=True).expand_as(images).contiguous(),
        "shuffled": lambda: permuted_patches(images, patch_size=max(1, min(images.shape[-2:]) // _SHUFFLED), seed=seed),
        "detail": lambda: images - _blurred(images, _SHUFFLED) + images.mean(dim=(0, 2, 3), keepdim=True),
        "rim": lambda: torch.where(_inside(images, _RIM), _filling(images, baseline), images),
        "centre": lambda: torch.where(_inside(images, 1 / 4), images, _filling(images, baseline)),
    }
    return leave[cue]()


def _blurred(images: Tensor, cells: int) -> Tensor:
    height, width = images.shape[-2:]
    coarse = F.adaptive_avg_pool2d(images, (min(cells, height), min(cells, width)))
    return F.interpolate(coarse, (height, width), mode="bilinear")


def _inside(images: Tensor, share: float) -> Tensor:
    """Pixels further from the edge than this share of the shorter side, ``(H, W)``."""
    height, width = images.shape[-2:]
    margin = max(1, round(share * min(height, width)))
    inside = torch.zeros(height, width, dtype=torch.bool, device=images.device)
    inside[margin : height - margin, margin : width - margin] = True
    return inside


def _filling(images: Tensor, baseline: Tensor | float) -> Tensor:
    return torch.as_tensor(baseline, dtype=images.dtype, device=images.device).expand_as(images)


def _chance(answers: Tensor, labels: Tensor) -> float:
    classes = int(max(answers.max(), labels.max())) + 1
    shares = [torch.bincount(values, minlength=classes).double() / len(values) for values in (answers, labels)]
    return float((shares[0] * shares[1]).sum())
