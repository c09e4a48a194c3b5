"""Choose a fixed number of images of each class from batches that pass by."""

from __future__ import annotations

import math
from bisect import insort
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["ImageSelection", "every_label", "one_label_each", "usual_per_class"]

_USUAL_PER_CLASS, _USUAL_IN_ALL = 4, 40


class ImageSelection:
    """The first images of each class, as many of each as possible, gathered batch by batch.

    Args:
        per_class: Most images of one class; None for `usual_per_class` of the classes that have passed by.
        max_images: Most images in all. Where it does not allow ``per_class`` of every class, all classes get their
            first image before any gets a second, lower labels first.

    Example:
        >>> import torch
        >>> chosen = ImageSelection(per_class=1, max_images=10)
        >>> chosen.offer(torch.zeros(3, 1, 2, 2), torch.tensor([1, 1, 0]))
        >>> chosen.labels.tolist()
        [0, 1]
    """

    def __init__(self, *, per_class: int | None, max_images: int) -> None:
        self.per_class = per_class
        self.max_images = max_images
        self._seen: Counter[int] = Counter()
        self._offered = 0
        self._held: list[_Held] = []

    def __len__(self) -> int:
        return len(self._held)

    def offer(self, images: Tensor, labels: Tensor) -> None:
        """Keep the images of a batch that are still needed: images ``(B, C, H, W)``, labels ``(B,)``.

        The images are copied to the CPU. Those of another size than the first are passed over.
        """
        for image, label in zip(images, labels.tolist(), strict=True):
            self._offered += 1
            if self._seen[label] < self._most(label) and (not self._held or image.shape == self._held[0].image.shape):
                with torch.inference_mode(False):
                    copy = image.detach().to("cpu", copy=True)
                self._hold(_Held(self._seen[label], label, self._offered, copy))

    def _most(self, label: int) -> int:
        """How many images of a class there may be, now that one of this class has passed by."""
        return self.per_class or usual_per_class(len(self._seen.keys() | {label}))

    def _hold(self, image: _Held) -> None:
        self._seen[image.label] += 1
        if self.per_class is None and image.place == 0:  # with another class, there are fewer of each
            self._held = [held for held in self._held if held.place < self._most(image.label)]
        if len(self._held) < self.max_images or image.order < self._held[-1].order:
            insort(self._held, image, key=lambda held: held.order)
            del self._held[self.max_images :]

    def merged(self, others: Sequence[ImageSelection]) -> ImageSelection:
        """Merge processes' selections into the one that a single process would have made.

        Args:
            others: What every process holds, by rank.
        """
        merged = ImageSelection(per_class=self.per_class, max_images=self.max_images)
        by_arrival = [(held.arrival, rank, held) for rank, part in enumerate(others) for held in part._held]
        for _, _, held in sorted(by_arrival, key=lambda item: item[:2]):
            merged.offer(held.image.unsqueeze(0), torch.tensor([held.label]))
        return merged

    def state_dict(self) -> dict[str, Any]:
        """Everything held and counted, as tensors and numbers."""
        return {
            "held": [(held.place, held.label, held.arrival) for held in self._held],
            "images": torch.stack([held.image for held in self._held]) if self._held else None,
            "seen": dict(self._seen),
            "offered": self._offered,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        images = state_dict["images"] if state_dict["held"] else ()
        self._held = [
            _Held(place, label, arrival, image)
            for (place, label, arrival), image in zip(state_dict["held"], images, strict=True)
        ]
        self._seen = Counter(state_dict["seen"])
        self._offered = state_dict["offered"]

    @property
    def images(self) -> Tensor:
        """All images, class by class, shape ``(N, C, H, W)``, on the CPU."""
        return torch.stack([held.image for held in self._by_class()])

    @property
    def classes(self) -> set[int]:
        """The classes of which there is an image."""
        return {held.label for held in self._held}

    @property
    def labels(self) -> Tensor:
        """Their labels, ascending, shape ``(N,)``."""
        return torch.tensor([held.label for held in self._by_class()], dtype=torch.long)

    def _by_class(self) -> list[_Held]:
        return sorted(self._held, key=lambda held: (held.label, held.place))


def usual_per_class(num_classes: int) -> int:
    """How many images of each class a probe takes by default: four, or as many as make 40 where classes are few.

    Example:
        >>> [usual_per_class(number) for number in (2, 6, 10, 1000)]
        [20, 7, 4, 4]
    """
    return max(_USUAL_PER_CLASS, math.ceil(_USUAL_IN_ALL / max(1, num_classes)))


def every_label(images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Each image once for each label that is true of it.

    Args:
        images: Shape ``(B, ...)``.
        targets: Which labels are true of it, shape ``(B, labels)``: true is what is above a half.

    Returns:
        Images and integer labels, one for each pair.

    Example:
        >>> images, labels = every_label(torch.zeros(2, 1, 2, 2), torch.tensor([[1, 1, 0], [0, 0, 1]]))
        >>> len(images), labels.tolist()
        (3, [0, 1, 2])
    """
    rows, labels = (targets > 0.5).nonzero(as_tuple=True)
    return images[rows.to(images.device)], labels


def one_label_each(images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Each image once, for one of the labels that are true of it, so that all labels get about as many images.

    Args:
        images: Shape ``(B, ...)``.
        targets: As for `every_label`. Images without any label are left out.

    Returns:
        Images and integer labels.

    Example:
        >>> one_label_each(torch.zeros(3, 1, 2, 2), torch.tensor([[1, 1, 0], [1, 0, 0], [0, 0, 0]]))[1].tolist()
        [1, 0]
    """
    true = (targets > 0.5).cpu()
    rare, taken = true.sum(dim=0).tolist(), Counter[int]()
    rows, labels = [], []
    for row, of_image in enumerate(true):
        if of_image.any():
            label = min(of_image.nonzero().flatten().tolist(), key=lambda each: (taken[each], rare[each]))
            taken[label] += 1
            rows.append(row)
            labels.append(label)
    return images[rows], torch.tensor(labels, dtype=torch.long, device=targets.device)


@dataclass(frozen=True)
class _Held:
    place: int  # how many images of the class came before it
    label: int
    arrival: int  # how many images of any class came before it
    image: Tensor

    @property
    def order(self) -> tuple[int, int]:
        return self.place, self.label
