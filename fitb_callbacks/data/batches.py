"""Find images and labels in a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fitb_callbacks.utils.messages import describe

__all__ = ["BatchAdapter", "Reference", "batches_of", "read_batch"]

BatchAdapter = Callable[[Any], tuple[Tensor, Tensor]]
"""A batch to images ``(B, C, H, W)`` and integer labels ``(B,)``, or 0 and 1 for independent labels ``(B, labels)``."""

Reference = tuple[Tensor, Tensor] | Dataset[Any] | Iterable[Any]
"""Trusted images with their labels: two tensors, a data set, or batches."""

_IMAGE_KEYS = ("image", "images", "pixel_values", "img", "x", "input", "inputs", "data")
_LABEL_KEYS = ("label", "labels", "y", "target", "targets", "class")


def read_batch(batch: Any, batch_adapter: BatchAdapter | None = None) -> tuple[Tensor, Tensor]:
    """Images and labels of a batch.

    Images are the first tensor of shape ``(B, C, H, W)``, or ``(B, C, D, H, W)`` for volumes, labels the first tensor
    of whole numbers of shape ``(B,)`` or ``(B, 1)``, in a tuple or list or among a dict's values; a dict's usual names
    (``image``, ``pixel_values``, ``label``, ``target``, ...) go first. Labels may also be within a dict in these, under
    one of the usual names.

    Args:
        batch: What the data loader yields.
        batch_adapter: ``batch_adapter(batch)`` returns ``(images, labels)``, for any other kind of batch. Only it can
            give independent labels: 0 and 1, shape ``(B, labels)``.

    Returns:
        Images of shape ``(B, C, H, W)`` and int64 labels of shape ``(B,)``, or ``(B, labels)`` if they are independent.

    Raises:
        TypeError: If they cannot be found; the error says what the batch is and names ``batch_adapter``.

    Example:
        >>> import torch
        >>> images, labels = read_batch({"label": torch.tensor([3, 1]), "image": torch.zeros(2, 3, 8, 8)})
        >>> images.shape, labels.tolist()
        (torch.Size([2, 3, 8, 8]), [3, 1])
    """
    if batch_adapter is not None:
        adapted = batch_adapter(batch)
        if not (isinstance(adapted, (tuple, list)) and len(adapted) == 2):
            raise TypeError(f"batch_adapter must return (images, labels); it returned {describe(adapted)}")
        image_candidates, label_candidates = [adapted[0]], [adapted[1]]
    elif isinstance(batch, Mapping):
        image_candidates = [*(batch[key] for key in _IMAGE_KEYS if key in batch), *batch.values()]
        label_candidates = [*_named(batch), *batch.values(), *_named_within(batch.values())]
    elif isinstance(batch, (tuple, list)):
        image_candidates = list(batch)
        label_candidates = [*batch, *_named_within(batch)]
    else:
        image_candidates = label_candidates = []
    images = _first(image_candidates, _is_images)
    if batch_adapter is not None and images is not None and _are_independent(label_candidates[0], len(images)):
        return images.detach(), (label_candidates[0].detach() > 0.5).long()
    labels = None if images is None else _first(label_candidates, lambda value: _is_labels(value, len(images)))
    if images is None or labels is None:
        missing = "images: a tensor (B, C, H, W)" if images is None else "labels: a tensor of whole numbers (B,)"
        source = "what batch_adapter returned" if batch_adapter is not None else "the batch"
        found = (image_candidates[0], label_candidates[0]) if batch_adapter is not None else batch
        raise TypeError(
            f"found no {missing} in {source}, which is {describe(found)}. "
            "Pass batch_adapter=, a function that takes a batch and returns (images, labels)"
        )
    return images.detach(), labels.detach().reshape(-1).long()


def _named(values: Mapping[Any, Any]) -> list[Any]:
    return [values[key] for key in _LABEL_KEYS if key in values]


def _named_within(values: Iterable[Any]) -> list[Any]:
    return [label for value in values if isinstance(value, Mapping) for label in _named(value)]


def _first(values: Iterable[Any], fits: Callable[[Any], bool]) -> Tensor | None:
    return next((value for value in values if fits(value)), None)


def _is_images(value: object) -> bool:
    return isinstance(value, Tensor) and value.ndim in (4, 5) and not value.is_complex() and 0 not in value.shape


def _is_labels(value: object, batch_size: int) -> bool:
    if not isinstance(value, Tensor) or value.shape not in ((batch_size,), (batch_size, 1)) or value.is_complex():
        return False
    return not value.is_floating_point() or bool((value == value.round()).all())


def _are_independent(value: object, batch_size: int) -> bool:
    return isinstance(value, Tensor) and value.ndim == 2 and value.shape[1] > 1 and len(value) == batch_size


_CHUNK = 256


def batches_of(data: Any, *, name: str) -> Iterable[Any]:
    """Batches of a pair of tensors, of a data set in its order, or of a data loader.

    Args:
        data: One of these; anything else that can be iterated is taken for batches.
        name: What the data is called in errors.

    Raises:
        TypeError: If it is none of them.

    Example:
        >>> import torch
        >>> [len(labels) for _, labels in batches_of((torch.zeros(300, 1, 2, 2), torch.zeros(300)), name="data")]
        [256, 44]
    """
    if isinstance(data, (tuple, list)) and len(data) == 2 and all(isinstance(part, Tensor) for part in data):
        images, labels = data
        return zip(images.split(_CHUNK), labels.split(_CHUNK), strict=True)
    if isinstance(data, Dataset):
        return DataLoader(data, batch_size=_CHUNK)
    if isinstance(data, Iterable) and not isinstance(data, (str, bytes, Tensor)):
        return data
    raise TypeError(
        f"{name} must be a pair of tensors (images, labels), a data set or a data loader; got {describe(data)}"
    )
