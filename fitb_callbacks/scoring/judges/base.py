"""The judges' base class."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

__all__ = ["Judge", "label_ranks"]


class Judge(ABC):
    """A classifier other than the model under probe.

    A judge of your own needs two methods, `check` and `scores`.

    Example:
        >>> import torch
        >>> class Brightness(Judge):
        ...     name = "brightness"
        ...     def check(self, image_shape, num_classes):
        ...         pass
        ...     def scores(self, images):
        ...         mean = images.flatten(1).mean(dim=1)
        ...         return torch.stack([1 - mean, mean], dim=1)
        >>> Brightness().classify(torch.tensor([0.2, 0.9]).view(2, 1, 1, 1)).tolist()
        [0, 1]
    """

    name: str = "judge"
    """What the judge is, for people."""

    reference: tuple[Tensor, Tensor] | None = None
    """Some images ``(N, C, H, W)`` and labels ``(N,)`` that are trusted, on which the model can be tried, too."""

    @abstractmethod
    def check(self, image_shape: tuple[int, ...], num_classes: int) -> None:
        """Raise ValueError unless the judge can judge images ``(C, H, W)`` of that many classes."""

    @abstractmethod
    def scores(self, images: Tensor) -> Tensor:
        """Score every class for each image ``(N, C, H, W)``.

        Returns:
            Floating point on the CPU, shape ``(N, classes)``; the highest is the judge's answer. A row of NaN says
            that the image looks like no class, minus infinity that the judge does not know the class.
        """

    def of_volumes(self, depth: int) -> Judge:
        """The judge for volumes of so many slices, which it gets as images ``(C * D, H, W)``; most only see pixels."""
        return self

    def classify(self, images: Tensor) -> Tensor:
        """Class of each image ``(N, C, H, W)``, integers on the CPU, shape ``(N,)``; -1 where it looks like none."""
        scores = self.scores(images)
        return scores.nan_to_num(nan=-torch.inf, neginf=-torch.inf).argmax(dim=1).where(~scores.isnan().all(dim=1), -1)


def label_ranks(scores: Tensor, labels: Tensor) -> Tensor:
    """Share of the wrong classes that score below the label, for each image.

    Unlike the judge's first choice it uses every answer, and does not depend on how the scores are scaled.

    Args:
        scores: Shape ``(N, classes)``, as of `Judge.scores`.
        labels: Integers in [0, classes), shape ``(N,)``.

    Returns:
        Values in [0, 1], shape ``(N,)``: 1 if the label comes first, 0.5 by chance and where the row is NaN. Ties count
        half.

    Example:
        >>> scores = torch.tensor([[0.1, 0.9, 0.3], [0.1, 0.9, 0.3], [0.0, 0.0, 0.0]])
        >>> label_ranks(scores, torch.tensor([1, 2, 0])).tolist()
        [1.0, 0.5, 0.5]
    """
    own = scores.gather(1, labels[:, None])
    below = (scores < own).sum(dim=1) + 0.5 * ((scores == own).sum(dim=1) - 1)
    unknown = scores.isnan().any(dim=1)
    return (below / max(1, scores.shape[1] - 1)).where(~unknown, 0.5)
