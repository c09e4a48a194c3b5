"""The probe images of a run: chosen from its steps, or given; then the same ones to its end."""

from __future__ import annotations

import math
import zlib
from typing import Any

import torch
from torch import Tensor

from fitb_callbacks.data.selection import ImageSelection
from fitb_callbacks.utils.distributed import confirm
from fitb_callbacks.utils.validation import check_integer

__all__ = ["ProbeImages", "first_of_each", "pack", "unpack"]

_SAMPLED = 64
"""Values of an image by which it is recognised."""


class ProbeImages:
    """The probe images of a run.

    Args:
        images_per_class: Most images of each class, at least 1; None for the usual number of them.
        max_images: Most images in all, at least 1.

    Example:
        >>> chosen = ProbeImages(images_per_class=1, max_images=10)
        >>> chosen.offer(torch.rand(3, 1, 2, 2), torch.tensor([1, 1, 0]))
        >>> changed = chosen.fix(world_size=1)
        >>> chosen.labels.tolist()
        [0, 1]
    """

    def __init__(self, *, images_per_class: int | None, max_images: int) -> None:
        if images_per_class is not None:
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
        self._before: Tensor | None = None  # samples of a checkpoint's images, until the run's own data are known
        self._seen_again = False
        self._packed: tuple[Tensor, dict[str, Any]] | None = None

    def offer(self, images: Tensor, labels: Tensor) -> None:
        """Take what is wanted of a batch: images ``(B, C, H, W)``, labels ``(B,)``."""
        self._candidates.offer(images, labels)

    def give_up_images(self) -> None:
        """Choose anew, but remember what a checkpoint's images were."""
        before = self._before
        self.begin()
        self._before = before

    @property
    def wants_to_look(self) -> bool:
        """Whether it is not known yet if this run's data hold the images that a checkpoint held."""
        return self.images is not None and self._before is not None and not self._seen_again

    def look_for(self, images: Tensor, labels: Tensor) -> None:
        """See whether a checkpoint's images are in a batch of this run; `fix` chooses anew if none ever is."""
        assert self._before is not None
        samples = _sampled(images)
        if samples.shape[1] == self._before.shape[1]:
            self._seen_again = bool((samples[:, None] == self._before).all(dim=2).any())
        if self.wants_to_look:
            self.offer(images, labels)

    def offer_spare(self, images: Tensor, labels: Tensor) -> None:
        """The same, for want of others: by max_steps, a first epoch may end before its validation."""
        self._spare.offer(images, labels)

    def fix(self, world_size: int) -> bool:
        """Settle on the images, the same ones on every process, unless that is done. Every process must call this.

        Returns:
            Whether they are others than those that a checkpoint held.

        Raises:
            LookupError: If nothing was offered.
        """
        before, self._before = self._before, None
        if self.images is not None and before is not None and not self._are_here(world_size):
            self.images = None
        if self.images is None:
            self._choose(world_size)
        assert self.images is not None
        return before is not None and not torch.equal(_sampled(self.images), before)

    def _are_here(self, world_size: int) -> bool:
        """Whether a checkpoint's images are in this run's data, as far as any process looked."""
        looked: list[Any] = [(self._seen_again, len(self._candidates))]
        if world_size > 1:
            looked *= world_size
            confirm()
            torch.distributed.all_gather_object(looked, looked[0])
        return any(seen for seen, _ in looked) or not any(number for _, number in looked)

    def _choose(self, world_size: int) -> None:
        for candidates in (self._candidates, self._spare):
            candidates = _of_all_processes(candidates, world_size)
            if len(candidates):
                self.images, self.labels = candidates.images, candidates.labels
                break
        self._candidates, self._spare = self._empty(), self._empty()
        if self.images is None:
            raise LookupError("no batch has passed by yet from which to take probe images")

    def early(self, num_classes: int, world_size: int) -> tuple[Tensor, Tensor] | None:
        """Images and labels for a look before training; None unless those seen so far show every class.

        Where there may be fewer images than classes, that many are enough. Every process must call this.

        Example:
            >>> chosen = ProbeImages(images_per_class=1, max_images=10)
            >>> chosen.offer_spare(torch.rand(3, 1, 2, 2), torch.tensor([1, 1, 0]))
            >>> chosen.early(num_classes=3, world_size=1) is None
            True
            >>> chosen.early(num_classes=2, world_size=1)[1].tolist()
            [0, 1]
        """
        if self.images is not None and self.labels is not None:
            return self.images, self.labels
        seen = _of_all_processes(self._spare, world_size)
        if len(seen.classes) < num_classes and len(seen) < self.max_images:
            return None
        return seen.images, seen.labels

    def first(self, number: int) -> tuple[Tensor, Tensor]:
        """So many of the images, as evenly over the classes as possible, and their labels.

        Example:
            >>> chosen = ProbeImages(images_per_class=2, max_images=10)
            >>> chosen.offer(torch.rand(4, 1, 2, 2), torch.tensor([0, 0, 1, 1]))
            >>> changed = chosen.fix(world_size=1)
            >>> chosen.first(3)[1].tolist()
            [0, 0, 1]
        """
        assert self.images is not None
        assert self.labels is not None
        chosen = first_of_each(self.labels, number)
        return self.images[chosen], self.labels[chosen]

    def state_dict(self, room: float = math.inf) -> dict[str, Any]:
        """The images, or what was found so far, as tensors and primitives.

        Args:
            room: Bytes for them. Images that take more are left out and chosen anew after a resume. It is known then
                whether they are the same.
        """
        candidates = self._candidates.state_dict() if self.images is None else None
        if candidates is not None and candidates["images"] is not None:
            candidates["images"] = _if_small(pack(candidates["images"]), room)
            candidates = None if candidates["images"] is None else candidates
        if self.images is not None and (self._packed is None or self._packed[0] is not self.images):
            self._packed = self.images, pack(self.images)
        return {
            "images": None if self.images is None or self._packed is None else _if_small(self._packed[1], room),
            "labels": self.labels,
            "sample": self._before if self.images is None else _sampled(self.images),
            "candidates": candidates,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the same images; reads what `state_dict` gave, and passes over other keys."""
        self.begin()
        self._before = state_dict["sample"]
        if state_dict["images"] is not None:
            self.images, self.labels = unpack(state_dict["images"]), state_dict["labels"]
        if (candidates := state_dict["candidates"]) is not None:
            images = candidates["images"]
            self._candidates.load_state_dict({**candidates, "images": None if images is None else unpack(images)})

    def _empty(self) -> ImageSelection:
        return ImageSelection(per_class=self.images_per_class, max_images=self.max_images)


def _of_all_processes(candidates: ImageSelection, world_size: int) -> ImageSelection:
    if world_size == 1:
        return candidates
    parts: list[Any] = [None] * world_size
    confirm()
    torch.distributed.all_gather_object(parts, candidates)
    return candidates.merged(parts)


def first_of_each(labels: Tensor, number: int) -> Tensor:
    """Indices of so many labels, as evenly over the classes as possible, in their order.

    Example:
        >>> first_of_each(torch.tensor([0, 0, 1, 1]), 3).tolist()
        [0, 1, 2]
    """
    place = torch.tensor([int((labels[:row] == label).sum()) for row, label in enumerate(labels)])
    return torch.argsort(place, stable=True)[:number].sort().values


def _sampled(images: Tensor) -> Tensor:
    """A few values of each image, by which it is recognised, on the CPU, shape ``(N, values)``."""
    values = images.detach().flatten(1)
    return values[:, :: max(1, values.shape[1] // _SAMPLED)].float().cpu().clone()


def _if_small(packed: dict[str, Any], room: float) -> dict[str, Any] | None:
    return packed if packed["content"].nbytes <= room else None


def pack(images: Tensor) -> dict[str, Any]:
    """Images in little space, without loss, as tensors and primitives.

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
    return packed


def unpack(packed: dict[str, Any]) -> Tensor:
    """The images that `pack` was given."""
    content = torch.frombuffer(bytearray(zlib.decompress(packed["content"].numpy().tobytes())), dtype=torch.uint8)
    shape = packed["shape"]
    if packed["values"] is None:
        return content.view(packed["dtype"]).view(shape)
    indices = content.view(shape[1], -1).long()
    channels = torch.stack([values[row] for values, row in zip(packed["values"], indices, strict=True)])
    return channels.view(shape[1], shape[0], *shape[2:]).movedim(0, 1).contiguous()
