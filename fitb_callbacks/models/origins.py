"""Where tensors come from: what of a step's batch, of a network, and of its calls they were computed from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from fitb_callbacks.utils.nested import tensors_in

__all__ = ["FROM_BATCH", "FROM_IMAGES", "GENERATED", "MADE", "Origin", "Origins", "calls_of", "has_weights"]

FROM_BATCH = "from the batch"
FROM_IMAGES = "from its images"
MADE = "made by a network"
"""A layer with weights had a part in it: a feature map, a reconstruction, an image of a generator."""
GENERATED = "generated"
"""Made by a network from something else than the batch's images, such as noise."""

Origin = frozenset[str | int]
"""Some of the words above, and the numbers of the step's calls that the images entered which it was computed from."""

_IMAGE_DIMENSIONS = 3
_FEW = 16
"""Parameters of a mean and a deviation a channel; a module with no more of them does not make images, it prepares
them."""


class Origins:
    """The origins of tensors, handed on from what goes into a function to what comes out. No tensor is kept alive.

    Args:
        batch: What the step begins with.

    Example:
        >>> import torch
        >>> batch = torch.zeros(2, 1, 4, 4), torch.tensor([0, 1])
        >>> origins = Origins(batch)
        >>> shifted = batch[0] + 1
        >>> origins.follow((batch[0], 1), shifted)
        >>> sorted(origins.of(shifted)), origins.of(torch.zeros(3))
        (['from its images', 'from the batch'], frozenset())
    """

    def __init__(self, batch: Any) -> None:
        self._known: WeakIdKeyDictionary = WeakIdKeyDictionary()
        parts = [part for _, part in tensors_in(batch)]
        images = [part for part in parts if part.ndim >= _IMAGE_DIMENSIONS]
        for part in parts:  # without any, the images may be flat
            self.add(part, FROM_BATCH, *([FROM_IMAGES] if part.ndim >= _IMAGE_DIMENSIONS or not images else []))

    def of(self, *values: Any) -> Origin:
        """What is known of tensors, together; those in lists and tuples, too."""
        known = [self._known.get(tensor) for tensor in _tensors(values)]
        return frozenset().union(*(each for each in known if each is not None))

    def add(self, tensor: Tensor, *words: str | int) -> None:
        """Note more of a tensor."""
        self._known[tensor] = self.of(tensor).union(words)

    def follow(self, arguments: Sequence[Any], result: Any) -> None:
        """Note that a function computed ``result`` from ``arguments``, the first of which it may have changed."""
        results = list(_tensors((result,)))
        if result is None:  # x[...] = y
            results = [each for each in arguments[:1] if isinstance(each, Tensor)]
        if results and (origin := self.of(arguments)):
            for tensor in results:
                self.add(tensor, *origin)

    def enter(self, image: Tensor, number: int) -> Origin:
        """Note that an image enters call ``number`` of the step; returns what was known of it.

        What comes of it counts for that call, no longer for those that prepared it. A network's feature map still
        counts for the call that made it.
        """
        origin = self.of(image)
        self._known[image] = (origin if MADE in origin else origin - calls_of(origin)) | {number}
        return origin

    def leave(self, module: nn.Module, arguments: Any, output: Any) -> None:
        """Note that a module returned ``output``."""
        results = [tensor for _, tensor in tensors_in(output)]
        origin = self.of(*(tensor for _, tensor in tensors_in(arguments)))
        if results and has_weights(module):
            origin |= {MADE} if FROM_IMAGES in origin else {MADE, GENERATED}
        for tensor in results:
            self.add(tensor, *origin)


def calls_of(origin: Origin) -> frozenset[int]:
    """The numbers of calls in an origin."""
    return frozenset(each for each in origin if isinstance(each, int))


def has_weights(module: nn.Module) -> bool:
    """Whether a module computes with weights, more than a mean and a deviation a channel.

    Example:
        >>> has_weights(nn.Conv2d(1, 1, 3)), has_weights(nn.BatchNorm2d(3))
        (True, False)
    """
    return any(
        parameter.numel() > _FEW or sum(length > 1 for length in parameter.shape) > 1
        for parameter in module.parameters()
    )


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)
