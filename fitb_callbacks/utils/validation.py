"""Checks of arguments: each names the argument, the value it got and what is allowed."""

from __future__ import annotations

import difflib
import functools
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import fields
from typing import Any, TypeVar

__all__ = [
    "check_choice",
    "check_integer",
    "check_known",
    "check_number",
    "check_number_between",
    "per_channel",
    "suggest_settings",
]

_Class = TypeVar("_Class", bound=type)


def check_known(names: Iterable[str], allowed: Collection[str]) -> None:
    """Raise TypeError if one of the names is not an allowed setting, and suggest the nearest that is.

    Example:
        >>> check_known(["num_mask"], ["num_masks", "mask_ratio"])
        Traceback (most recent call last):
        ...
        TypeError: unknown setting 'num_mask'; did you mean 'num_masks'?
        >>> check_known(["colour"], ["num_masks", "mask_ratio"])
        Traceback (most recent call last):
        ...
        TypeError: unknown setting 'colour'; the settings are num_masks, mask_ratio
    """
    for name in names:
        if name not in allowed:
            nearest = difflib.get_close_matches(name, allowed, n=1)
            hint = f"did you mean {nearest[0]!r}?" if nearest else f"the settings are {', '.join(allowed)}"
            raise TypeError(f"unknown setting {name!r}; {hint}")


def suggest_settings(cls: _Class) -> _Class:
    """Decorate a dataclass so that an unknown keyword is answered with the nearest field, see `check_known`."""
    allowed = [field.name for field in fields(cls) if field.init]
    build = cls.__init__  # type: ignore[misc]

    @functools.wraps(build)
    def checked(self: Any, *arguments: Any, **settings: Any) -> None:
        check_known(settings, allowed)
        build(self, *arguments, **settings)

    cls.__init__ = checked  # type: ignore[misc]
    return cls


def check_choice(name: str, value: object, allowed: Collection[object]) -> None:
    """Raise ValueError unless the value is one of those allowed.

    Example:
        >>> check_choice("target", "guess", ("label", "predicted"))
        Traceback (most recent call last):
        ...
        ValueError: target must be one of 'label', 'predicted'; got 'guess'
    """
    if not any(value == choice and type(value) is type(choice) for choice in allowed):
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}; got {value!r}")


def check_integer(name: str, value: object, *, at_least: int, at_most: int | None = None) -> None:
    """Raise TypeError unless the value is an integer, ValueError unless it is in range.

    Example:
        >>> check_integer("num_masks", 0, at_least=1)
        Traceback (most recent call last):
        ...
        ValueError: num_masks must be an integer >= 1; got 0
    """
    allowed = f"an integer >= {at_least}" + (f" and <= {at_most}" if at_most is not None else "")
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be {allowed}; got {value!r}")
    if value < at_least or (at_most is not None and value > at_most):
        raise ValueError(f"{name} must be {allowed}; got {value!r}")


def check_number(name: str, value: object) -> None:
    """Raise TypeError unless the value is a real number, ValueError unless it is finite.

    Example:
        >>> check_number("binarize", float("nan"))
        Traceback (most recent call last):
        ...
        ValueError: binarize must be a finite number; got nan
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a finite number; got {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number; got {value!r}")


def check_number_between(name: str, value: object, low: float, high: float) -> None:
    """Raise unless ``low < value < high``, both ends excluded.

    Example:
        >>> check_number_between("mask_ratio", 1.5, 0, 1)
        Traceback (most recent call last):
        ...
        ValueError: mask_ratio must be a number greater than 0 and less than 1; got 1.5
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number greater than {low} and less than {high}; got {value!r}")
    if not low < value < high:
        raise ValueError(f"{name} must be a number greater than {low} and less than {high}; got {value!r}")


def per_channel(name: str, value: object) -> float | tuple[float, ...] | None:
    """A number, or a sequence of one number a channel as a tuple, or None; anything else raises.

    Example:
        >>> per_channel("baseline", [0.0, 0.5])
        (0.0, 0.5)
        >>> per_channel("baseline", "black")
        Traceback (most recent call last):
        ...
        TypeError: baseline must be a finite number, a sequence of one number a channel, or None; got 'black'
    """
    if value is None:
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        check_number(name, value)
        return float(value)
    if isinstance(value, str) or not isinstance(value, Sequence) or not value:
        raise TypeError(f"{name} must be a finite number, a sequence of one number a channel, or None; got {value!r}")
    for number in value:
        check_number(f"every value in {name}", number)
    return tuple(float(number) for number in value)
