"""Find, read and replace the tensors in nested lists, tuples, dicts and data classes, such as batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor

__all__ = ["Path", "at_path", "in_words", "map_tensors", "tensors_in"]

Path = tuple[Any, ...]
"""Keys, indices and field names that lead from a nested value to a part of it."""

_DEEPEST = 6


def tensors_in(value: Any, _path: Path = ()) -> Iterator[tuple[Path, Tensor]]:
    """Walk over the tensors in a nested value, in order, each with its path.

    Example:
        >>> import torch
        >>> [path for path, _ in tensors_in({"x": torch.zeros(2), "rest": ["a", torch.ones(1)]})]
        [('x',), ('rest', 1)]
    """
    if isinstance(value, Tensor):
        yield _path, value
    elif len(_path) < _DEEPEST:
        for key, part in _parts(value):
            yield from tensors_in(part, (*_path, key))


def at_path(value: Any, path: Path) -> Any:
    """Follow a path of `tensors_in`.

    Raises:
        LookupError: If the value has no such part.

    Example:
        >>> at_path({"rest": ["a", "b"]}, ("rest", 1))
        'b'
    """
    for key in path:
        value = getattr(value, key) if dataclasses.is_dataclass(value) else value[key]
    return value


def map_tensors(change: Callable[[Path, Tensor], Any], value: Any, _path: Path = ()) -> Any:
    """Rebuild a nested value with every tensor replaced by ``change(path, tensor)``; other parts are kept.

    Example:
        >>> import torch
        >>> map_tensors(lambda path, tensor: path, [torch.zeros(1), {"a": torch.zeros(1), "b": 3}])
        [(0,), {'a': (1, 'a'), 'b': 3}]
    """
    if isinstance(value, Tensor):
        return change(_path, value)
    parts = list(_parts(value)) if len(_path) < _DEEPEST else []
    if not parts:
        return value
    new = {key: map_tensors(change, part, (*_path, key)) for key, part in parts}
    if isinstance(value, Mapping):
        return _with_items(value, new)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.replace(value, **{key: part for key, part in new.items() if isinstance(key, str)})
    items = list(new.values())
    return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)


def _with_items(value: Mapping[Any, Any], items: dict[Any, Any]) -> Any:
    try:
        return type(value)(items)  # type: ignore[call-arg]
    except Exception:  # noqa: BLE001 - a mapping of someone's own may need other arguments
        return items


def _parts(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        yield from value.items()
    elif isinstance(value, (list, tuple)):
        yield from enumerate(value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))


def in_words(path: Path, root: str = "batch") -> str:
    """Write a path as Python code.

    Example:
        >>> in_words(("rest", 1))
        "batch['rest'][1]"
    """
    return root + "".join(f"[{key!r}]" for key in path)
