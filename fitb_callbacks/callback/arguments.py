"""Check the callback's arguments; each error names the argument, what it is, and what is allowed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal, cast, get_args

from fitb_callbacks.probing.settings import MaskingName
from fitb_callbacks.utils.validation import check_choice

__all__ = ["Stage", "check_callable", "check_prefix", "several_maskings", "several_stages"]

Stage = Literal["fit", "validate", "test"]
"""A call of the Trainer."""


def several_maskings(masking: MaskingName | Sequence[MaskingName]) -> tuple[MaskingName, ...]:
    """One masking or several different ones as several.

    Raises:
        ValueError: If there is none, an unknown one, or one twice.

    Example:
        >>> several_maskings("random")
        ('random',)
    """
    several = masking if isinstance(masking, (list, tuple)) else (masking,)
    maskings = tuple(cast(MaskingName, value) for value in several)
    for value in maskings:
        check_choice("masking", value, get_args(MaskingName))
    if not maskings or len(set(maskings)) < len(maskings):
        raise ValueError(f"masking must be one masking or several different ones; got {masking!r}")
    return maskings


def several_stages(probe_on: Stage | Sequence[Stage]) -> tuple[str, ...]:
    """One call of the Trainer or several as several.

    Raises:
        ValueError: If one is unknown.

    Example:
        >>> several_stages(["fit", "test"])
        ('fit', 'test')
    """
    stages = (probe_on,) if isinstance(probe_on, str) else tuple(probe_on)
    for stage in stages:
        check_choice("probe_on", stage, get_args(Stage))
    return stages


def check_callable(**functions: Any) -> None:
    """Check that each is a function or None.

    Raises:
        TypeError: Otherwise.

    Example:
        >>> check_callable(logits_fn=3)
        Traceback (most recent call last):
        ...
        TypeError: logits_fn must be callable or None; got 3
    """
    for name, function in functions.items():
        if function is not None and not callable(function):
            raise TypeError(f"{name} must be callable or None; got {function!r}")


def check_prefix(prefix: str) -> None:
    """Check that keys and file names can begin with it.

    Raises:
        ValueError: Otherwise.

    Example:
        >>> check_prefix(" ")
        Traceback (most recent call last):
        ...
        ValueError: prefix must be a string that is not empty; got ' '
    """
    if not isinstance(prefix, str) or not prefix.strip("/ "):
        raise ValueError(f"prefix must be a string that is not empty; got {prefix!r}")
    if not re.fullmatch(r"[\w\-. /]{1,100}", prefix, re.ASCII) or {"", ".", ".."} & set(prefix.split("/")):
        raise ValueError(
            "prefix must be at most 100 letters, digits, '_', '-', '.', ' ' and '/', as it is a part of keys and "
            f"file names, with no part between slashes that is empty, '.' or '..'; got {prefix!r}"
        )
