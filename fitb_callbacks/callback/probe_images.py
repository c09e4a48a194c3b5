"""The probe images of a training run: chosen from the batches that pass by, then the same ones to its end."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fitb_callbacks.data.selection import ImageSelection
from fitb_callbacks.utils.distributed import confirm
from fitb_callbacks.utils.validation import check_integer

__all__ = ["ProbeImages"]


class ProbeImages:
    """The probe images of a training run.

    Args:
        images_per_class: Most images of each class, at least 1.
        max_images: Most images in all, at least 1.

    Example:
        >>> chosen = ProbeImages(images_per_class=1, max_images=10)
        >>> chosen.offer(torch.rand(3, 1, 2, 2), torch.tensor([1, 1, 0]))
        >>> chosen.fix(world_size=1)
        >>> chosen.labels.tolist()
        [0, 1]
    """

    def __init__(self, *, images_per_class: int, max_images: int) -> None:
        check_integer("images_per_class", images_per_class, at_least=1)
        check_integer("max_images", max_images, at_least=1)
        self.images_per_class, self.max_images = images_per_class, max_images
        self.images: Tensor | None = None
        """Shape ``(N, C, H, W)``, on the CPU; None until they are fixed."""
        self.labels: Tensor | None = None
        """Integers, shape ``(N,)``."""
        self._candidates, self._spare = self._empty(), self._empty()

    def offer(self, images: Tensor, labels: Tensor) -> None:
        """Take what is wanted of a batch: images ``(B, C, H, W)``, labels ``(B,)``."""
        self._candidates.offer(images, labels)

    def offer_spare(self, images: Tensor, labels: Tensor) -> None:
        """The same, for want of others: by max_steps, a first epoch may end before its validation."""
        self._spare.offer(images, labels)

    def fix(self, world_size: int) -> None:
        """Settle on the images, the same ones on every process, unless that is done. Every process must call this.

        Raises:
            RuntimeError: If nothing was offered.
        """
        if self.images is not None:
            return
        for candidates in (self._candidates, self._spare):
            if world_size > 1:
                parts: list[Any] = [None] * world_size
                confirm()
                torch.distributed.all_gather_object(parts, candidates)
                candidates = candidates.merged(parts)
            if len(candidates):
                self.images, self.labels = candidates.images, candidates.labels
                break
        self._candidates = self._spare = self._empty()
        if self.images is None:
            raise RuntimeError("no batch has passed by yet from which to take probe images")

    def state_dict(self) -> dict[str, Any]:
        """The images, or what was found so far, as tensors and primitives."""
        return {"images": self.images, "labels": self.labels, "candidates": self._candidates.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the same images; reads what `state_dict` gave, and passes over other keys."""
        self.images, self.labels = state_dict["images"], state_dict["labels"]
        self._candidates.load_state_dict(state_dict["candidates"])

    def _empty(self) -> ImageSelection:
        return ImageSelection(per_class=self.images_per_class, max_images=self.max_images)
