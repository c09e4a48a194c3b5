"""Short descriptions of values and errors, for messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

__all__ = ["describe", "one_line"]


def describe(value: Any) -> str:
    """A short description of nested tensors for error messages: types, shapes and dtypes, no values.

    Example:
        >>> import torch
        >>> describe((torch.zeros(2, 3), "a"))
        'a tuple of (float32 tensor (2, 3), str)'
    """
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} tensor {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return "a dict of {" + ", ".join(f"{key!r}: {describe(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of ({', '.join(describe(item) for item in value)})"
    return type(value).__name__


def one_line(error: BaseException, longest: int = 300) -> str:
    """An error in one line: its type, and the beginning of what it says.

    Example:
        >>> one_line(KeyError("weight"))
        "KeyError: 'weight'"
    """
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= longest else text[: longest - 1] + "…"
