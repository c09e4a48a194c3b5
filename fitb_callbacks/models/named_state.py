"""Which variables outside of a module its forward may change: globals, and attributes of classes."""

from __future__ import annotations

import types
from collections import deque
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["FRAMEWORK", "Variables", "variables_named_by", "variables_of"]

FRAMEWORK = {
    "torch",
    "lightning",
    "lightning_fabric",
    "pytorch_lightning",
    "torchmetrics",
    "numpy",
    "builtins",
    "logging",
    "threading",
}
"""Packages whose classes and functions are no user's own."""

_STEPS = ("forward", "validation_step", "test_step")
_PLAIN = (bool, int, float, complex, str, bytes, tuple, type(None), list, dict, set, deque, Tensor)


@dataclass(frozen=True)
class Variables:
    """Some variables of a script or a class.

    Attributes:
        where: What they are, in words.
        owner: The script's globals, or the class.
        names: Of those that hold plain values.
    """

    where: str
    owner: MutableMapping[str, Any] | type
    names: tuple[str, ...]

    def values(self) -> dict[str, Any]:
        """Their values now; what does not exist any more is left out."""
        found = vars(self.owner) if isinstance(self.owner, type) else self.owner
        return {name: found[name] for name in self.names if name in found}

    def put(self, name: str, value: Any) -> None:
        """Give a variable a value."""
        if isinstance(self.owner, type):
            setattr(self.owner, name, value)
        else:
            self.owner[name] = value


def variables_named_by(module: nn.Module, seen: set[Any] | None = None) -> Iterator[Variables]:
    """Walk over the variables that a module's forward and steps name, and the functions and methods that they call.

    Args:
        module: Any module; of torch's own nothing is looked at.
        seen: Functions and classes that were looked at before, which are passed over; those of now are added.

    Example:
        >>> class Counting(nn.Module):
        ...     calls = 0
        ...     def forward(self, x):
        ...         Counting.calls += 1
        ...         return x
        >>> [(each.owner.__name__, each.names) for each in variables_named_by(Counting())]
        [('Counting', ('calls',))]
    """
    seen = set() if seen is None else seen
    for base in type(module).__mro__:
        if _is_own(base):
            yield from _of_class(base, seen)
            for name in _STEPS:
                yield from _of_function(vars(base).get(name), base, seen)
    yield from _of_function(vars(module).get("forward"), type(module), seen)


def variables_of(function: Any) -> Iterator[Variables]:
    """The same for a function, such as a hook."""
    yield from _of_function(function, None, set())


def _of_function(function: Any, owner: type | None, seen: set[Any]) -> Iterator[Variables]:
    function = getattr(function, "__func__", function)
    if not isinstance(function, types.FunctionType) or function in seen or not _is_own(function):
        return
    seen.add(function)
    names, space = set(_names_in(function.__code__)), function.__globals__
    plain = tuple(sorted(name for name in names if name in space and _is_plain(space[name])))
    if defaults := function.__defaults__:
        yield Variables(f"function {function.__qualname__}", {"default arguments": defaults}, ("default arguments",))
    if plain:
        yield Variables(f"globals that {function.__qualname__} names", space, plain)
    for name in sorted(names):
        value = space.get(name)
        if isinstance(value, type) and _is_own(value):
            yield from _of_class(value, seen)
        else:
            yield from _of_function(value, owner, seen)
        for base in owner.__mro__ if owner is not None else ():  # methods that are called by name
            yield from _of_function(vars(base).get(name), owner, seen)


def _of_class(kind: type, seen: set[Any]) -> Iterator[Variables]:
    if kind not in seen:
        seen.add(kind)
        names = [name for name, value in vars(kind).items() if not name.startswith("_abc") and _is_plain(value)]
        own = tuple(name for name in names if not (name.startswith("__") and name.endswith("__")))
        if own:
            yield Variables(f"attributes of the class {kind.__qualname__}", kind, own)


def _names_in(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names_in(constant)


def _is_own(value: Any) -> bool:
    module = getattr(value, "__module__", None)  # None: generated code, as in exported models
    return module is not None and module.split(".")[0] not in FRAMEWORK


def _is_plain(value: Any) -> bool:
    if isinstance(value, (type, nn.Module, types.ModuleType, types.FunctionType, types.MethodType, property)):
        return False
    if isinstance(value, torch.Generator) or type(value).__module__.startswith("numpy.random"):
        return True
    return isinstance(value, _PLAIN) or (hasattr(value, "__dict__") and _is_own(type(value)))
