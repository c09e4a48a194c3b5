"""Describe values and errors in one line, without control characters or passwords."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

__all__ = ["describe", "mask_password", "on_one_line", "one_line"]


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
    text = on_one_line(f"{type(error).__name__}: {error}")
    return text if len(text) <= longest else text[: longest - 1] + "…"


def on_one_line(text: str) -> str:
    r"""A text without line breaks, passwords in addresses, and characters that a terminal or XML would obey.

    Example:
        >>> on_one_line("cleared:\x1b[2J\nhttps://me:secret@host/")
        'cleared:\\x1b[2J https://***@host/'
    """
    text = " ".join(mask_password(text).split())
    return "".join(c if c.isprintable() or c == " " else c.encode("unicode_escape").decode() for c in text)


def mask_password(text: str) -> str:
    """Hide user and password in every address of a text.

    Example:
        >>> mask_password("postgresql://me:p@ss@host/mlflow and http://host:5000")
        'postgresql://***@host/mlflow and http://host:5000'
    """
    return re.sub(r"(?<=://)[^\s/?#]*@", "***@", text)
