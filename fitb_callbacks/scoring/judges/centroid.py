"""The class-means judge: the class whose mean image is most like the picture."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fitb_callbacks.scoring.judges.streamed import StreamedJudge
from fitb_callbacks.utils.arithmetic import safe_divide

__all__ = ["CentroidJudge"]

_LONGEST_SIDE = 8


class CentroidJudge(StreamedJudge):
    """The class whose mean image is most like the picture. Suits centred objects of one orientation only.

    Means are streamed from batches as they pass by, as thumbnails of at most 8 pixels a side: memory is one thumbnail
    per class, however many and however large the images, and a faint texture, which a full-size mean would show
    clearly, is averaged away. Likeness is the centred cosine (Pearson correlation) of the picture's pixels with the
    class mean's, which ignores brightness and contrast.

    Example:
        >>> import torch
        >>> images = torch.stack([torch.eye(4), torch.eye(4).flip(0)]).unsqueeze(1)
        >>> judge = CentroidJudge()
        >>> judge.update(images, torch.tensor([0, 1]))
        >>> judge.classify(images.flip(0) * 0.5 + 0.1).tolist()
        [1, 0]
    """

    name = "class means"

    def __init__(self) -> None:
        super().__init__()
        self.means = torch.zeros(0)
        """Mean image of each class, shape ``(classes, C, h, w)``, h and w at most 8."""

    def _add(self, images: Tensor, labels: Tensor) -> None:
        images = F.adaptive_avg_pool2d(images.float(), self._size())
        if not self.means.numel():
            self.means = images.new_zeros((len(self.counts), *images.shape[1:]))
        # Weighting each image by what is left of its class's total keeps a running mean in one pass.
        counts = torch.bincount(labels, minlength=len(self.counts)).to(self.counts)
        sums = torch.zeros_like(self.means).index_add_(0, labels, images)
        self._mix(counts, safe_divide(sums, counts[:, None, None, None]))

    def _merge(self, other: CentroidJudge) -> None:
        means, counts = other.means.to(self.means.device), other.counts.to(self.counts.device)
        if means.shape[1:] != self.means.shape[1:]:
            raise ValueError(
                "other must have class means of the same shape; "
                f"got {tuple(means.shape[1:])} and {tuple(self.means.shape[1:])}"
            )
        missing = len(self.counts) - len(counts)
        self._mix(F.pad(counts, (0, missing)), F.pad(means, (0, 0, 0, 0, 0, 0, 0, missing)))

    def _scores(self, images: Tensor) -> Tensor:
        pooled = F.adaptive_avg_pool2d(images, self._size()).flatten(1)
        likeness = F.normalize(_centred(pooled)) @ F.normalize(_centred(self.means.flatten(1))).T
        flat = (pooled.amax(dim=1) - pooled.amin(dim=1)) <= 0
        return likeness.masked_fill(flat[:, None], torch.nan)

    def _tensors(self) -> dict[str, Tensor]:
        return {"means": self.means}

    def _size(self) -> tuple[int, int]:
        """Height and width of the class means: fixed by the first batch, so that later sizes may differ."""
        if self.means.numel():
            return self.means.shape[-2], self.means.shape[-1]
        assert self.image_shape is not None
        height, width = self.image_shape[1:]
        scale = min(1.0, _LONGEST_SIDE / max(height, width))
        return max(1, round(height * scale)), max(1, round(width * scale))

    def _grow(self, num_classes: int) -> None:
        more = num_classes - len(self.counts)
        super()._grow(num_classes)
        if more > 0 and self.means.numel():
            self.means = F.pad(self.means, (0, 0, 0, 0, 0, 0, 0, more))

    def _mix(self, counts: Tensor, means: Tensor) -> None:
        total = self.counts + counts
        share = safe_divide(counts, total)[:, None, None, None]
        self.means = self.means + (means - self.means) * share
        self.counts = total


def _centred(values: Tensor) -> Tensor:
    return values - values.mean(dim=1, keepdim=True)
