"""The probe images of a run: chosen from its steps, or given; then the same ones to its end."""

from __future__ import annotations

import zlib
from typing import Any

import torch
from torch import Tensor

from fitb_callbacks.data.selection import ImageSelection
from fitb_callbacks.utils.distributed import confirm
from fitb_callbacks.utils.validation import check_integer

__all__ = ["ProbeImages", "first_of_each", "pack", "unpack"]

_MOST_BYTES = 8 * 10**6
"""What the images may take in a checkpoint."""


class ProbeImages:
    """The probe images of a run.

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
        self.begin()

    def begin(self) -> None:
        """Choose anew."""
        self.images = self.labels = None
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
            LookupError: If nothing was offered.
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
        self._candidates, self._spare = self._empty(), self._empty()
        if self.images is None:
            raise LookupError("no batch has passed by yet from which to take probe images")

    def first(self, number: int) -> tuple[Tensor, Tensor]:
        """So many of the images, as evenly over the classes as possible, and their labels.

        Example:
            >>> chosen = ProbeImages(images_per_class=2, max_images=10)
            >>> chosen.offer(torch.rand(4, 1, 2, 2), torch.tensor([0, 0, 1, 1]))
            >>> chosen.fix(world_size=1)
            >>> chosen.first(3)[1].tolist()
            [0, 0, 1]
        """
        assert self.images is not None
        assert self.labels is not None
        chosen = first_of_each(self.labels, number)
        return self.images[chosen], self.labels[chosen]

    def state_dict(self) -> dict[str, Any]:
        """The images, or what was found so far, as tensors and primitives.

        Images that would take more than 8 MB are left out, and chosen anew after a resume.
        """
        candidates = self._candidates.state_dict() if self.images is None else None
        if candidates is not None and candidates["images"] is not None:
            candidates["images"] = pack(candidates["images"])
            candidates = None if candidates["images"] is None else candidates
        return {
            "images": None if self.images is None else pack(self.images),
            "labels": self.labels,
            "candidates": candidates,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the same images; reads what `state_dict` gave, and passes over other keys."""
        self.begin()
        if state_dict["images"] is not None:
            self.images, self.labels = unpack(state_dict["images"]), state_dict["labels"]
        if (candidates := state_dict["candidates"]) is not None:
            images = candidates["images"]
            self._candidates.load_state_dict({**candidates, "images": None if images is None else unpack(images)})

    def _empty(self) -> ImageSelection:
        return ImageSelection(per_class=self.images_per_class, max_images=self.max_images)


def first_of_each(labels: Tensor, number: int) -> Tensor:
    """Indices of so many labels, as evenly over the classes as possible, in their order.

    Example:
        >>> first_of_each(torch.tensor([0, 0, 1, 1]), 3).tolist()
        [0, 1, 2]
    """
    place = torch.tensor([int((labels[:row] == label).sum()) for row, label in enumerate(labels)])
    return torch.argsort(place, stable=True)[:number].sort().values


def pack(images: Tensor) -> dict[str, Any] | None:
    """Images in little space, without loss, as tensors and primitives; None if that would take more than 8 MB.

    Images that were bytes once, normalised or not, have at most 256 values a channel: these are kept with one byte a
    pixel. Then everything is deflated.

    Args:
        images: Shape ``(N, C, H, W)``.

    Example:
        >>> images = (torch.arange(64).view(1, 1, 8, 8) / 255 - 0.5) / 0.5
        >>> torch.equal(unpack(pack(images)), images)
        True
    """
    images = images.detach().cpu().contiguous()
    channels = images.movedim(1, 0).flatten(1)
    values = [channel.unique() for channel in channels]
    packed: dict[str, Any] = {"shape": list(images.shape), "values": None}
    content = images.reshape(-1).view(torch.uint8)
    if max(map(len, values)) <= 256 and not images.isnan().any():
        content = torch.stack([torch.searchsorted(*each) for each in zip(values, channels, strict=True)]).byte()
        packed["values"] = values
    else:
        packed["dtype"] = images.dtype
    deflated = zlib.compress(content.numpy().tobytes(), level=6)
    packed["content"] = torch.frombuffer(bytearray(deflated), dtype=torch.uint8)
    return packed if len(deflated) <= _MOST_BYTES else None


def unpack(packed: dict[str, Any]) -> Tensor:
    """The images that `pack` was given."""
    content = torch.frombuffer(bytearray(zlib.decompress(packed["content"].numpy().tobytes())), dtype=torch.uint8)
    shape = packed["shape"]
    if packed["values"] is None:
        return content.view(packed["dtype"]).view(shape)
    indices = content.view(shape[1], -1).long()
    channels = torch.stack([values[row] for values, row in zip(packed["values"], indices, strict=True)])
    return channels.view(shape[1], shape[0], *shape[2:]).movedim(0, 1).contiguous()
