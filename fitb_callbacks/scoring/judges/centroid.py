"""The class-means judge: the class whose mean image is most like the picture."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fitb_callbacks.data.batches import BatchAdapter, Reference, batches_of, read_batch
from fitb_callbacks.utils.messages import describe
from fitb_callbacks.utils.rng import isolate_rng

__all__ = ["CentroidJudge"]

_LONGEST_SIDE = 8


class CentroidJudge:
    """The class whose mean image is most like the picture: no second model, nothing to train.

    Means are streamed from batches as they pass by, as thumbnails of at most 8 pixels a side: memory is one thumbnail
    a class, however many and however large the images, and a faint texture, which a full-size mean would show
    clearly, is averaged away. Likeness is the centred cosine (Pearson correlation) of the picture's pixels with the
    class mean's, which ignores brightness and contrast. A class of which no image was seen is never answered.

    **A judge whose means come from the model's own training data shares that data's shortcuts**: where a planted mark
    gives the class away, the class means show the mark too. Only means of trusted images can tell.

    Example:
        >>> import torch
        >>> images = torch.stack([torch.eye(4), torch.eye(4).flip(0)]).unsqueeze(1)
        >>> judge = CentroidJudge()
        >>> judge.update(images, torch.tensor([0, 1]))
        >>> judge.classify(images.flip(0) * 0.5 + 0.1).tolist()
        [1, 0]
    """

    def __init__(self) -> None:
        self.counts = torch.zeros(0)
        """Images seen of each class, shape ``(classes,)``."""
        self.means = torch.zeros(0)
        """Mean image of each class, shape ``(classes, C, h, w)``, h and w at most 8."""
        self.image_shape: tuple[int, ...] | None = None
        """Shape ``(C, H, W)`` of the latest images seen; None before the first."""

    @classmethod
    def from_reference(
        cls,
        reference: Reference,
        *,
        image_shape: tuple[int, ...],
        num_classes: int,
        batch_adapter: BatchAdapter | None = None,
    ) -> CentroidJudge:
        """The judge of a trusted set, read once. No random number is drawn from the global generators.

        Args:
            reference: Images ``(N, C, H, W)`` and labels ``(N,)`` as a pair of tensors, a data set, or a data loader
                (anything that yields batches); prepared as for the model.
            image_shape: ``(C, H, W)`` of the images that the model takes.
            num_classes: Number of its classes.
            batch_adapter: As for the callback, where images and labels are not found in a batch.

        Raises:
            TypeError: If the reference is none of these, or images and labels are not found in it.
            ValueError: If its images have another shape, its labels are not the model's, or it lacks a class; the
                error names the classes.

        Example:
            >>> import torch
            >>> reference = torch.rand(2, 1, 4, 4), torch.tensor([0, 2])
            >>> CentroidJudge.from_reference(reference, image_shape=(1, 4, 4), num_classes=3)
            Traceback (most recent call last):
            ...
            ValueError: reference must hold images of all 3 classes; it has none of class 1
        """
        judge = cls()
        with isolate_rng():
            for batch in batches_of(reference, name="reference"):
                images, labels = read_batch(batch, batch_adapter)
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
                judge.update(images, labels)
        if absent := judge.absent_classes(num_classes):
            raise ValueError(
                f"reference must hold images of all {num_classes} classes; it has none of "
                f"class {', '.join(map(str, absent[:20]))}" + (" and more" if len(absent) > 20 else "")
            )
        return judge

    def update(self, images: Tensor, labels: Tensor) -> None:
        """Let a batch pass by.

        Args:
            images: Shape ``(B, C, H, W)``, in the model's input space.
            labels: Integers >= 0, shape ``(B,)``.

        Raises:
            TypeError: If labels are not an integer tensor.
            ValueError: If shapes do not match, a label is negative, or the number of channels has changed.
        """
        if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.dtype == torch.bool:
            raise TypeError(f"labels must be an integer tensor, one an image; got {describe(labels)}")
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
        size = self._size()
        with torch.inference_mode(False), torch.no_grad():
            images = F.adaptive_avg_pool2d(images.detach().float(), size)
            labels = labels.detach().long()
            self._grow(int(labels.max()) + 1, images)
            # Weighting each image by what is left of its class's total keeps a running mean in one pass.
            counts = torch.bincount(labels, minlength=len(self.counts)).to(self.counts)
            sums = torch.zeros_like(self.means).index_add_(0, labels, images)
            self._merge(counts, sums / counts.clamp(min=1)[:, None, None, None])

    def merge(self, other: CentroidJudge) -> None:
        """Add what another judge has seen, as if this one had seen it.

        Raises:
            ValueError: If the other has seen images with another number of channels or another size of means.
        """
        if other.image_shape is None:
            return
        if self.image_shape is None:
            self.image_shape = other.image_shape
        means = other.means.to(self.means.device if len(self.counts) else other.means.device)
        if len(self.counts) and means.shape[1:] != self.means.shape[1:]:
            raise ValueError(
                "other must have class means of the same shape; "
                f"got {tuple(means.shape[1:])} and {tuple(self.means.shape[1:])}"
            )
        self._grow(len(other.counts), means)
        missing = len(self.counts) - len(other.counts)
        counts = F.pad(other.counts.to(self.counts.device), (0, missing))
        self._merge(counts, F.pad(means, (0, 0, 0, 0, 0, 0, 0, missing)))

    def gathered(self) -> CentroidJudge:
        """One judge of what all processes of the default process group have seen; this one is left as it is.

        Every process must call this. Without a process group it is a copy.
        """
        import torch.distributed as dist

        from fitb_callbacks.utils.distributed import confirm

        judges = [self.state_dict()]
        if dist.is_available() and dist.is_initialized():
            confirm()
            judges = [{} for _ in range(dist.get_world_size())]
            dist.all_gather_object(judges, self.state_dict())
        merged = CentroidJudge()
        for state in judges:
            part = CentroidJudge()
            part.load_state_dict(state)
            merged.merge(part)
        return merged

    def check(self, image_shape: tuple[int, ...], num_classes: int) -> None:
        """Raise ValueError if the judge has seen images of other channels, or of classes that the model has not.

        A class that it has not seen is no error while its means are being streamed; `absent_classes` names these. Nor
        is another height and width, since training crops are often smaller than the images of the validation.

        Args:
            image_shape: ``(C, H, W)``.
            num_classes: Number of classes of the model under probe.

        Example:
            >>> import torch
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

    def absent_classes(self, num_classes: int) -> list[int]:
        """Classes below num_classes of which no image was seen."""
        seen = {int(index) for index in self.counts.nonzero()}
        return [index for index in range(num_classes) if index not in seen]

    def classify(self, images: Tensor) -> Tensor:
        """Class of each image.

        Args:
            images: Shape ``(N, C, H, W)``, any size, as many channels as those seen.

        Returns:
            Integers on the CPU, shape ``(N,)``. A picture of one flat colour is like nothing: -1.

        Raises:
            RuntimeError: If no image was seen yet.
            ValueError: If the number of channels differs.
        """
        if self.image_shape is None:
            raise RuntimeError("this CentroidJudge has seen no images yet: call update(images, labels) first")
        if images.ndim != 4 or images.shape[1] != self.image_shape[0]:
            raise ValueError(f"images must have the shape (N, {self.image_shape[0]}, H, W); got {tuple(images.shape)}")
        pooled = F.adaptive_avg_pool2d(images.detach().float(), self._size()).flatten(1)
        means = self.means.to(pooled.device).flatten(1)
        likeness = F.normalize(_centred(pooled)) @ F.normalize(_centred(means.to(pooled))).T
        likeness = likeness.masked_fill((self.counts == 0).to(pooled.device), -torch.inf)
        flat = (pooled.amax(dim=1) - pooled.amin(dim=1)) <= 0
        return likeness.argmax(dim=1).where(~flat, -1).cpu()

    def state_dict(self) -> dict[str, object]:
        """What was seen, as tensors and primitives, for a checkpoint."""
        shape = None if self.image_shape is None else list(self.image_shape)
        return {"counts": self.counts.cpu(), "means": self.means.cpu(), "image_shape": shape}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Take over what a `state_dict` holds."""
        counts, means, shape = state["counts"], state["means"], state["image_shape"]
        assert isinstance(counts, Tensor)
        assert isinstance(means, Tensor)
        self.counts, self.means = counts.clone(), means.clone()
        self.image_shape = None if shape is None else tuple(shape)  # type: ignore[arg-type]

    def _size(self) -> tuple[int, int]:
        """Height and width of the class means: fixed by the first batch, so that later sizes may differ."""
        if len(self.counts):
            return self.means.shape[-2], self.means.shape[-1]
        assert self.image_shape is not None
        height, width = self.image_shape[1:]
        scale = min(1.0, _LONGEST_SIDE / max(height, width))
        return max(1, round(height * scale)), max(1, round(width * scale))

    def _grow(self, num_classes: int, like: Tensor) -> None:
        """Room for more classes; on the device of the first images."""
        if not len(self.counts):
            self.counts = torch.zeros(num_classes, device=like.device)
            self.means = torch.zeros((num_classes, *like.shape[1:]), device=like.device)
        more = max(0, num_classes - len(self.counts))
        self.counts = F.pad(self.counts, (0, more))
        self.means = F.pad(self.means, (0, 0, 0, 0, 0, 0, 0, more))

    def _merge(self, counts: Tensor, means: Tensor) -> None:
        total = self.counts + counts
        share = (counts / total.clamp(min=1))[:, None, None, None]
        self.means = self.means + (means - self.means) * share
        self.counts = total


def _centred(values: Tensor) -> Tensor:
    return values - values.mean(dim=1, keepdim=True)
