"""Channels-last convolutions for the time of a probe."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["bytes_of_copies", "channels_last_weights"]


@contextmanager
def channels_last_weights(model: nn.Module) -> Iterator[None]:
    """Let a model's two-dimensional convolutions run in channels-last format, on copies of their weights.

    A convolution whose weights are channels-last gives channels-last activations, whatever its input is. Afterwards
    every parameter holds the very tensor that it held before: optimizers, views and other holders of it never see the
    copies. The values do not change; results do by rounding.

    Args:
        model: Any module. Weights that are no plain tensors (quantized or distributed ones) stay as they are.

    Example:
        >>> import torch
        >>> model = torch.nn.Conv2d(2, 4, 3)
        >>> held = model.weight.data_ptr()
        >>> with channels_last_weights(model):
        ...     model.weight.is_contiguous(memory_format=torch.channels_last), model.weight.data_ptr() == held
        (True, False)
        >>> model.weight.is_contiguous(), model.weight.data_ptr() == held
        (True, True)
    """
    weights = [(weight, weight.data) for weight in _convolution_weights(model)]
    try:
        for weight, data in weights:
            # not contiguous(): with one input channel, strides of both formats pass for either, and only these work
            weight.data = torch.empty_like(data, memory_format=torch.channels_last).copy_(data)
        yield
    finally:
        for weight, data in weights:
            weight.data = data


def bytes_of_copies(model: nn.Module) -> int:
    """What the copies of `channels_last_weights` would take; 0 if it would make no difference to a model.

    Example:
        >>> bytes_of_copies(torch.nn.Linear(2, 2)), bytes_of_copies(torch.nn.Conv2d(1, 2, 3))
        (0, 72)
    """
    return sum(weight.nbytes for weight in _convolution_weights(model))


def _convolution_weights(model: nn.Module) -> list[Tensor]:
    return [
        parameter
        for parameter in model.parameters()
        if parameter.ndim == 4
        and parameter.is_floating_point()
        and type(parameter.data) is Tensor
        and not parameter.is_inference()
        and max(parameter.shape[2:]) > 1
        and not _is_channels_last(parameter)
    ]


def _is_channels_last(weight: Tensor) -> bool:
    return weight.stride() == torch.empty(weight.shape, device="meta", memory_format=torch.channels_last).stride()
