"""Judges that learn from batches as they pass by, in bounded memory, on any number of processes."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from fitb_callbacks.data.batches import BatchAdapter, Reference, batches_of, read_batch
from fitb_callbacks.models.chunks import in_chunks
from fitb_callbacks.models.volumes import folded
from fitb_callbacks.scoring.judges.base import Judge
from fitb_callbacks.utils.messages import describe
from fitb_callbacks.utils.rng import isolate_rng

__all__ = ["StreamedJudge"]


class StreamedJudge(Judge):
    """A judge fitted from sums over labelled images, added up batch by batch and process by process.

    A subclass says what is summed (`_add`, `_merge`, `_tensors`) and how an image is scored (`_scores`).

    **A judge of the model's own training images shares their shortcuts**: where a planted mark gives the class away,
    the judge goes by the mark too. Only a judge of trusted images can tell; see `from_reference`.
    """

    def __init__(self) -> None:
        self.counts = torch.zeros(0)
        """Images seen of each class, shape ``(classes,)``."""
        self.image_shape: tuple[int, ...] | None = None
        """Shape ``(C, H, W)`` of the latest images seen; None before the first."""

    @abstractmethod
    def _add(self, images: Tensor, labels: Tensor) -> None:
        """Add a batch that has been checked, ``(B, C, H, W)`` and int64 ``(B,)``, after `_grow`."""

    @abstractmethod
    def _merge(self, other: Self) -> None:
        """Add the other's sums, before the counts are added; there is room for its classes."""

    @abstractmethod
    def _scores(self, images: Tensor) -> Tensor:
        """Scores ``(B, classes)``; NaN rows for images that look like nothing."""

    @abstractmethod
    def _tensors(self) -> dict[str, Tensor]:
        """The sums by name of their attribute, besides the counts. Those with one entry a class come first."""

    @classmethod
    def from_reference(
        cls,
        reference: Reference,
        *,
        image_shape: tuple[int, ...],
        num_classes: int,
        batch_adapter: BatchAdapter | None = None,
        **settings: Any,
    ) -> Self:
        """Make the judge of a trusted set, read once. No random number is drawn from the global generators.

        Args:
            reference: Images ``(N, C, H, W)`` and labels ``(N,)`` as a pair of tensors, a data set, or a data loader
                (anything that yields batches); prepared as for the model.
            image_shape: ``(C, H, W)`` of the images that the model takes.
            num_classes: Number of its classes.
            batch_adapter: As for the callback, where images and labels are not found in a batch.
            **settings: Of the judge.

        Raises:
            TypeError: If the reference is none of these, or images and labels are not found in it.
            ValueError: If its images have another shape, its labels are not the model's, or it lacks a class; the
                error names the classes.

        Example:
            >>> import torch
            >>> from fitb_callbacks.scoring.judges.centroid import CentroidJudge
            >>> reference = torch.rand(2, 1, 4, 4), torch.tensor([0, 2])
            >>> CentroidJudge.from_reference(reference, image_shape=(1, 4, 4), num_classes=3)
            Traceback (most recent call last):
            ...
            ValueError: reference must hold images of all 3 classes; it has none of class 1
        """
        judge = cls(**settings)
        judge.read(reference, image_shape=image_shape, num_classes=num_classes, batch_adapter=batch_adapter)
        return judge

    def read(
        self,
        reference: Reference,
        *,
        image_shape: tuple[int, ...],
        num_classes: int,
        batch_adapter: BatchAdapter | None = None,
    ) -> None:
        """Learn from a trusted set and keep some of its images; arguments and errors as for `from_reference`."""
        sample = _Sample(num_classes)
        with isolate_rng(seed=0):  # a loader that shuffles gives all processes the same sample
            for batch in batches_of(reference, name="reference"):
                images, labels = read_batch(batch, batch_adapter)
                images = folded(images)
                if tuple(images.shape[1:]) != tuple(image_shape):
                    raise ValueError(
                        f"reference must hold images of the shape {tuple(image_shape)}, as the model's; "
                        f"got {tuple(images.shape[1:])}"
                    )
                outside = labels[(labels < 0) | (labels >= num_classes)]
                if len(outside):
                    raise ValueError(
                        f"reference must hold labels from 0 to {num_classes - 1}, as the model has {num_classes} "
                        f"classes; got {int(outside[0])}"
                    )
                self.update(images, labels)
                sample.add(images, labels)
        self.reference = sample.images_and_labels()
        if absent := self.absent_classes(num_classes):
            raise ValueError(
                f"reference must hold images of all {num_classes} classes; it has none of "
                f"class {', '.join(map(str, absent[:20]))}" + (" and more" if len(absent) > 20 else "")
            )

    def update(self, images: Tensor, labels: Tensor) -> None:
        """Learn from a batch.

        Args:
            images: Shape ``(B, C, H, W)``, in the model's input space.
            labels: Integers >= 0, shape ``(B,)``.

        Raises:
            TypeError: If labels are not an integer tensor.
            ValueError: If shapes do not match, a label is negative, or the number of channels has changed.
        """
        if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.dtype == torch.bool:
            raise TypeError(f"labels must be an integer tensor, one per image; got {describe(labels)}")
        if not isinstance(images, Tensor) or images.ndim != 4 or labels.shape != images.shape[:1]:
            raise ValueError(
                "images and labels must have the shapes (B, C, H, W) and (B,); "
                f"got {describe(images)} and {describe(labels)}"
            )
        if not len(labels):
            return
        if labels.min() < 0:
            raise ValueError(f"labels must be integers >= 0; got {int(labels.min())}")
        if self.image_shape is not None and images.shape[1] != self.image_shape[0]:
            raise ValueError(f"images must have {self.image_shape[0]} channels as before; got {images.shape[1]}")
        self.image_shape = tuple(images.shape[1:])
        with torch.inference_mode(False), torch.no_grad():
            labels = labels.detach().to(images.device, torch.long)
            self.counts = self.counts.to(images.device) if not len(self.counts) else self.counts
            self._grow(int(labels.max()) + 1)
            self._add(images.detach().to(self.counts.device), labels.to(self.counts.device))

    def learns_from_more(self, num_classes: int) -> bool:
        """Whether more images of these classes would still teach it anything."""
        return True

    def merge(self, other: Self) -> None:
        """Add what another judge has seen, as if this one had seen it.

        Raises:
            TypeError: If the other is another kind of judge.
            ValueError: If the other has seen images with another number of channels, or another size of means.
        """
        if type(other) is not type(self):
            raise TypeError(f"other must be a {type(self).__name__}; got a {type(other).__name__}")
        if other.image_shape is None:
            return
        if self.image_shape is None:
            self.load_state_dict(other.state_dict())
            return
        if other.image_shape[0] != self.image_shape[0]:
            raise ValueError(
                f"other must have seen images of {self.image_shape[0]} channels; got {other.image_shape[0]}"
            )
        self._grow(len(other.counts))
        self._merge(other)

    def gathered(self) -> Self:
        """One judge of what all processes of the default process group have seen; this one is left as it is.

        Every process must call this. Without a process group it is a copy.
        """
        from fitb_callbacks.utils.distributed import from_all

        merged = self._empty()
        for state in from_all(self.state_dict()):
            part = self._empty()
            part.load_state_dict(state)
            merged.merge(part)
        return merged

    def check(self, image_shape: tuple[int, ...], num_classes: int) -> None:
        """Raise ValueError if the judge has seen images of other channels, or of classes that the model has not.

        A class that it has not seen is no error while it is still learning; `absent_classes` names these. Nor is
        another height and width, since training crops are often smaller than the images of the validation.

        Args:
            image_shape: ``(C, H, W)``.
            num_classes: Number of classes of the model under probe.

        Example:
            >>> import torch
            >>> from fitb_callbacks.scoring.judges.centroid import CentroidJudge
            >>> judge = CentroidJudge()
            >>> judge.update(torch.rand(2, 1, 4, 4), torch.tensor([0, 2]))
            >>> judge.check((1, 4, 4), num_classes=2)
            Traceback (most recent call last):
            ...
            ValueError: judge must have labels from 0 to 1, as the model has 2 classes; got 2
        """
        if self.image_shape is not None and self.image_shape[0] != image_shape[0]:
            raise ValueError(f"judge must have images of {image_shape[0]} channels; got {self.image_shape[0]}")
        if len(self.counts) > num_classes:
            raise ValueError(
                f"judge must have labels from 0 to {num_classes - 1}, as the model has {num_classes} classes; "
                f"got {len(self.counts) - 1}"
            )
        self._grow(num_classes)

    def absent_classes(self, num_classes: int) -> list[int]:
        """Classes below num_classes of which no image was seen."""
        seen = {int(index) for index in self.counts.nonzero()}
        return [index for index in range(num_classes) if index not in seen]

    def scores(self, images: Tensor) -> Tensor:
        """Score every class for each image ``(N, C, H, W)``; see `Judge.scores`.

        A class of which no image was seen has minus infinity. A picture of one flat colour looks like nothing.

        Raises:
            RuntimeError: If no image was seen yet.
            ValueError: If the number of channels differs.
        """
        if self.image_shape is None:
            raise RuntimeError(f"this {type(self).__name__} has seen no images yet: call update(images, labels) first")
        if images.ndim != 4 or images.shape[1] != self.image_shape[0]:
            raise ValueError(f"images must have the shape (N, {self.image_shape[0]}, H, W); got {tuple(images.shape)}")
        with torch.inference_mode(False), torch.no_grad():
            scores = in_chunks(
                lambda chunk: self._scores(chunk.detach().to(self.counts.device).float()), images, _CHUNK
            )
            absent = (self.counts == 0).expand_as(scores) & ~scores.isnan()
            return scores.masked_fill(absent, -torch.inf).cpu()

    def state_dict(self) -> dict[str, Any]:
        """What was seen, as tensors and primitives, for a checkpoint."""
        return {
            "image_shape": None if self.image_shape is None else list(self.image_shape),
            "counts": self.counts.cpu(),
            **{name: tensor.cpu() for name, tensor in self._tensors().items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what a `state_dict` holds."""
        self.image_shape = None if state["image_shape"] is None else tuple(state["image_shape"])
        for name in ("counts", *self._tensors()):
            setattr(self, name, state[name].clone())

    def _empty(self) -> Self:
        """A judge with the same settings that has seen nothing."""
        return type(self)()

    def _grow(self, num_classes: int) -> None:
        """Make room for more classes."""
        if (more := num_classes - len(self.counts)) > 0:
            self.counts = F.pad(self.counts, (0, more))


class _Sample:
    """The first images of each class, at most 100 in all."""

    def __init__(self, num_classes: int) -> None:
        self._per_class = max(1, _MOST_KEPT // num_classes)
        self._kept: dict[int, list[Tensor]] = {}
        self._room = _MOST_KEPT

    def add(self, images: Tensor, labels: Tensor) -> None:
        for image, label in zip(images, labels.tolist(), strict=True):
            kept = self._kept.setdefault(label, [])
            if self._room and len(kept) < self._per_class:
                kept.append(image.detach().cpu().clone())
                self._room -= 1

    def images_and_labels(self) -> tuple[Tensor, Tensor] | None:
        labels = [label for label, images in self._kept.items() for _ in images]
        if not labels:
            return None
        return torch.stack([image for images in self._kept.values() for image in images]), torch.tensor(labels)


_CHUNK = 256
_MOST_KEPT = 100
