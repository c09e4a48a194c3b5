"""Save and restore what a module keeps beside parameters and buffers: counters, lists, metric states, and so on."""

from __future__ import annotations

import copy
import functools
import random
import types
from collections import deque
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

import torch
from torch import Tensor, nn

from fitb_callbacks.models.named_state import FRAMEWORK, Variables, variables_named_by, variables_of

__all__ = ["own_state", "saved_attributes"]

_REGISTRIES = {"_parameters", "_buffers", "_modules", "training"}
_DEEPEST = 4
_MOST_ITEMS = 1000
_MOST_BYTES = 2**26

Restore = Callable[[], None]


def saved_attributes(model: nn.Module) -> Restore:
    """Save the state of a user's own that a forward pass may change; return a function that puts it back.

    That is every module's attributes (counters, temperatures, caches, memory banks, metric states), with the lists,
    dicts, sets, queues, tensors and plain objects in them, what forward hooks collect into, and the globals and class
    attributes that ``forward`` names. Containers and tensors stay the same objects. Tensors of more than 64 MiB, and
    items of containers with more than 1,000, are not copied.

    Args:
        model: Any module.

    Example:
        >>> model = nn.Linear(2, 2)
        >>> model.steps, model.seen = 0, []
        >>> restore = saved_attributes(model)
        >>> model.steps += 1
        >>> model.seen.append("image")
        >>> restore()
        >>> model.steps, model.seen
        (0, [])
    """
    saver = _Saver()
    for _, holder in _roots(model):
        saver.save(holder, depth=0)
    return saver.restore


def own_state(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Walk over the same state for a comparison: names in words, and plain values, tensors and containers.

    Example:
        >>> model = nn.Linear(2, 2)
        >>> model.steps = 3
        >>> dict(own_state(model))["attribute steps of the model"]
        3
    """
    for where, holder in _roots(model):
        if isinstance(holder, nn.Module):
            for name, value in vars(holder).items():
                if name not in _REGISTRIES and not _is_hooks(name) and not _is_foreign(value):
                    yield f"attribute {name} of {where}", _plain(value)
        elif isinstance(holder, Variables):
            for name, value in holder.values().items():
                yield f"{name} of the {holder.where}", _plain(value)
        else:
            yield where, _plain(holder)


def _roots(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Every module, what its hooks hold, and the variables that its forward names."""
    seen: set[Any] = set()
    for name, module in model.named_modules():
        if type(module).__name__ == "FullyShardedDataParallel":  # keeps books of its own
            continue
        where = name or "the model"
        yield where, module
        for kind, hooks in vars(module).items():
            if _is_hooks(kind) and isinstance(hooks, dict):
                for hook in hooks.values():
                    for held in _held_by(hook):
                        yield f"what a hook of {where} holds", held
        for variables in variables_named_by(module, seen):
            yield variables.where, variables


def _is_hooks(name: str) -> bool:
    return name.startswith("_") and ("_hooks" in name)


def _held_by(function: Any) -> Iterator[Any]:
    while isinstance(function, functools.partial):
        yield from (each for each in (*function.args, *function.keywords.values()) if _is_state(each))
        function = function.func
    if (owner := getattr(function, "__self__", None)) is not None and not isinstance(owner, (nn.Module, type)):
        yield owner
    if not isinstance(function, (types.FunctionType, types.MethodType)) and hasattr(function, "__dict__"):
        yield function
    function = getattr(function, "__func__", function)
    for cell in getattr(function, "__closure__", None) or ():
        try:
            if _is_state(cell.cell_contents):
                yield cell.cell_contents
        except ValueError:  # an empty cell
            continue
    yield from (each for each in getattr(function, "__defaults__", None) or () if _is_state(each))
    yield from variables_of(function)


def _is_state(value: Any) -> bool:
    return isinstance(value, (list, dict, set, deque, Tensor)) or _is_plain_object(value)


def _is_plain_object(value: Any) -> bool:
    if isinstance(value, (type, nn.Module, types.ModuleType, types.FunctionType, types.MethodType)):
        return False
    packages = {base.__module__.split(".")[0] for base in type(value).__mro__ if base is not object}
    return hasattr(value, "__dict__") and not packages & FRAMEWORK


def _is_foreign(value: Any) -> bool:
    """Whether a value belongs to a framework, such as a module's trainer."""
    return (hasattr(value, "__dict__") and not _is_plain_object(value)) or callable(value) or _is_freed(value)


def _is_freed(value: Any) -> bool:
    """Whether a value is a view of memory that FSDP has given back, which must not be read."""
    strided = isinstance(value, Tensor) and value.layout == torch.strided and value.numel() > 0
    return strided and value.untyped_storage().size() == 0


class _Saver:
    """Remembers values, each once, and puts them back."""

    def __init__(self) -> None:
        self._undo: list[Restore] = []
        self._seen: set[int] = set()
        self._kept_alive: list[Any] = []

    def restore(self) -> None:
        with torch.no_grad():
            for undo in reversed(self._undo):
                undo()

    def save(self, value: Any, depth: int) -> None:
        if depth > _DEEPEST or id(value) in self._seen:
            return
        self._seen.add(id(value))
        self._kept_alive.append(value)
        if isinstance(value, Variables):
            self._save_variables(value, depth)
        elif isinstance(value, nn.Module):
            self._save_namespace(vars(value), depth, skip=_REGISTRIES)
        elif isinstance(value, Tensor):
            self._save_tensor(value)
        elif (generator := _generator_state(value)) is not None:
            self._undo.append(generator[1])
        else:
            self._save_container(value, depth)

    def _save_container(self, value: Any, depth: int) -> None:
        if isinstance(value, (list, deque)):
            self._save_sequence(value, depth)
        elif isinstance(value, set):
            self._save_set(value)
        elif isinstance(value, MutableMapping):
            self._save_namespace(value, depth)
        elif isinstance(value, tuple):
            self._save_items(value, depth)
        elif _is_plain_object(value):
            self._save_namespace(vars(value), depth)

    def _save_items(self, items: Any, depth: int) -> None:
        if len(items) <= _MOST_ITEMS:
            for item in items:
                if not isinstance(item, (int, float, str, bool, type(None))):
                    self.save(item, depth + 1)

    def _save_namespace(
        self, namespace: MutableMapping[Any, Any], depth: int, skip: frozenset[str] | set[str] = frozenset()
    ) -> None:
        saved = {key: value for key, value in namespace.items() if key not in skip}
        self._save_items(list(saved.values()), depth)
        for key, value in saved.items():
            if isinstance(value, Tensor) and value.is_inference():  # of validation: a forward could not update it
                namespace[key] = value.clone()

        def undo() -> None:
            for key in [key for key in namespace if key not in saved and key not in skip]:
                del namespace[key]
            for key, value in saved.items():
                if key not in namespace or namespace[key] is not value:
                    namespace[key] = value

        self._undo.append(undo)

    def _save_variables(self, variables: Variables, depth: int) -> None:
        saved = variables.values()
        self._save_items(list(saved.values()), depth)

        def undo() -> None:
            now = variables.values()
            for name, value in saved.items():
                if name not in now or now[name] is not value:
                    variables.put(name, value)

        self._undo.append(undo)

    def _save_sequence(self, items: list[Any] | deque[Any], depth: int) -> None:
        saved = list(items)
        self._save_items(saved, depth)

        def undo() -> None:
            if len(items) != len(saved) or any(one is not other for one, other in zip(items, saved, strict=True)):
                items.clear()
                items.extend(saved)

        self._undo.append(undo)

    def _save_set(self, items: set[Any]) -> None:
        saved = set(items)

        def undo() -> None:
            items.clear()
            items.update(saved)

        self._undo.append(undo)

    def _save_tensor(self, tensor: Tensor) -> None:
        if tensor.is_meta or isinstance(tensor, nn.Parameter) or tensor.nbytes > _MOST_BYTES or _is_freed(tensor):
            return
        saved = tensor.detach().clone()

        def undo() -> None:
            if tensor.shape != saved.shape or not torch.equal(tensor.detach(), saved):
                tensor.data.copy_(saved)

        self._undo.append(undo)


def _generator_state(value: Any) -> tuple[Any, Restore] | None:
    """The state of a generator of random numbers, of any of the three libraries, and how to put it back."""
    if isinstance(value, torch.Generator):
        state = value.get_state()
        put_back: Callable[..., Any] = value.set_state
        return state, functools.partial(put_back, state)
    if isinstance(value, random.Random):
        drawn = value.getstate()
        return drawn, lambda: value.setstate(drawn)
    bits = getattr(value, "bit_generator", getattr(value, "_bit_generator", None))  # of NumPy's two kinds
    if type(value).__module__.startswith("numpy.random") and bits is not None:
        whole = copy.deepcopy(bits.state)
        return whole, lambda: setattr(bits, "state", whole)
    return None


def _plain(value: Any, depth: int = 0) -> Any:
    """A value with plain objects as dicts of what they hold, for a digest."""
    if depth > _DEEPEST:
        return None
    if isinstance(value, (Tensor, int, float, str, bool, type(None))):
        return value
    if (generator := _generator_state(value)) is not None:
        return generator[0]
    if isinstance(value, MutableMapping):
        return {str(key): _plain(item, depth + 1) for key, item in list(value.items())[:_MOST_ITEMS]}
    if isinstance(value, (list, tuple, deque)):
        return [len(value), *(_plain(item, depth + 1) for item in list(value)[:_MOST_ITEMS])]
    if isinstance(value, set):
        return sorted(map(repr, value))
    if _is_plain_object(value):
        return {name: _plain(item, depth + 1) for name, item in vars(value).items()}
    return type(value).__name__
