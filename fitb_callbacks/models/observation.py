"""Watch a model at work: what goes into its modules, and what reaches which loss with which target."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fitb_callbacks.models.origins import GENERATED, Origin, Origins
from fitb_callbacks.utils.nested import Path, map_tensors, tensors_in

__all__ = ["CHOICE", "LossCall", "ModuleCall", "Observation", "Observer", "can_observe", "stop_at_loss"]

_LOSSES: dict[Any, str] = {
    F.cross_entropy: "cross_entropy",
    F.nll_loss: "nll_loss",
    F.binary_cross_entropy: "binary_cross_entropy",
    F.binary_cross_entropy_with_logits: "binary_cross_entropy_with_logits",
    F.multilabel_soft_margin_loss: "multilabel_soft_margin_loss",
    F.multi_margin_loss: "multi_margin_loss",
    F.mse_loss: "mse_loss",
    F.l1_loss: "l1_loss",
    F.smooth_l1_loss: "smooth_l1_loss",
    F.huber_loss: "huber_loss",
}
_SOFT: dict[Any, str] = {
    F.log_softmax: "log_softmax",
    torch.log_softmax: "log_softmax",
    Tensor.log_softmax: "log_softmax",
    F.softmax: "softmax",
    torch.softmax: "softmax",
    Tensor.softmax: "softmax",
    F.sigmoid: "sigmoid",
    torch.sigmoid: "sigmoid",
    Tensor.sigmoid: "sigmoid",
    F.logsigmoid: "logsigmoid",
}
CHOICE = "argmax"
"""What stands for a loss where a step only counts how often the largest logit is right."""
_CHOICES: tuple[Any, ...] = (torch.argmax, Tensor.argmax, torch.max, Tensor.max)
_COMPARISONS: tuple[Any, ...] = (torch.eq, Tensor.eq, Tensor.__eq__)
_WITH_A_FAST_PATH = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerEncoder)
_MOST_CALLS = 64
_MOST_COPIES = {False: 4, True: 2}
"""Images that are copied: of the step's own calls, and of those inside the model's forward."""


@dataclass
class ModuleCall:
    """A call of a module by the step itself, or by the ``forward`` of the watched module.

    Attributes:
        name: Dotted name of the module in the watched one, empty for that one itself.
        arguments: ``(args, kwargs)`` as they went in; images are copies, so that no in-place operation changes them.
        output: What it returned, without tensors of more than 2 dimensions.
        inside: Whether the watched module's own ``forward`` made the call.
        number: Of the calls of the step, from 0.
        entries: The images that entered: the shape of each, and where it came from, by their paths.
    """

    name: str
    arguments: tuple[tuple[Any, ...], dict[str, Any]]
    output: Any
    inside: bool
    number: int = 0
    entries: dict[Path, tuple[tuple[int, ...], Origin]] = field(default_factory=dict)

    def images(self) -> list[tuple[Path, Tensor]]:
        """Tensors of 4 or 5 dimensions among the arguments, as far as they were copied, each with its path."""
        return [(path, tensor) for path, tensor in tensors_in(self.arguments) if tensor.ndim in (4, 5)]


@dataclass(frozen=True)
class LossCall:
    """A call of one of torch's losses, or of a softmax or sigmoid, for losses written by hand (``target`` is None).

    Or the choice of the largest logit, whose target is what it was compared with, if that was seen.

    Attributes:
        function: Its name.
        input: What is compared.
        target: What it is compared with, if that was seen.
        input_origin: Where the input came from.
        target_origin: Where the target came from.
    """

    function: str
    input: Tensor
    target: Tensor | None
    input_origin: Origin = frozenset()
    target_origin: Origin = frozenset()


@dataclass
class Observation:
    """What was seen during one step."""

    calls: list[ModuleCall] = field(default_factory=list)
    losses: list[LossCall] = field(default_factory=list)
    training: bool = False
    followed: bool = False
    """Whether each function was seen, so that origins are known."""


def can_observe(model: nn.Module) -> bool:
    """Tell whether a step can be watched without changing what it computes: not if the step itself is compiled.

    Example:
        >>> can_observe(torch.nn.Linear(2, 2))
        True
    """
    return getattr(model, "_compiler_ctx", None) is None


def _closed_parts(model: nn.Module, *, training: bool) -> set[str]:
    """Names of parts that must not notice that they are watched, with all that is in them.

    Compiled parts would be compiled again, scripted ones take no hooks, and torch's own transformer layers take
    another, faster path in evaluation if nothing watches them.
    """
    closed: set[str] = set()
    for name, module in model.named_modules():
        compiled = getattr(module, "_compiled_call_impl", None) is not None
        notices = isinstance(module, torch.jit.ScriptModule) or compiled or name.endswith("_orig_mod")
        notices |= not training and isinstance(module, _WITH_A_FAST_PATH)
        if notices or (name and name.rpartition(".")[0] in closed):
            closed.add(name)
    return closed


class Observer:
    """Watch a model between `start` and `stop`. Nothing is computed beside what the model computes itself.

    Args:
        model: The module whose parts are called.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
        >>> observer = Observer(model)
        >>> observer.start()
        >>> _ = F.cross_entropy(model(torch.rand(2, 1, 4, 4)), torch.tensor([0, 2]))
        >>> seen = observer.stop()
        >>> [call.name for call in seen.calls], [loss.function for loss in seen.losses]
        (['0', '1', ''], ['cross_entropy'])
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._handles: list[Any] = []
        self._losses: _Losses | _PatchedLosses | None = None
        self._compiled: list[tuple[nn.Module, Any]] = []
        self._open: list[tuple[str, ModuleCall | None]] = []
        self._copies = {False: 0, True: 0}
        self._number = 0
        self._seen = Observation()
        self._own_forward: Any = None
        self._origins = Origins(None)

    def start(self, batch: Any = None) -> None:
        """Begin to watch a step of a batch."""
        self._seen, self._origins = Observation(training=self._model.training), Origins(batch)
        self._copies, self._number = {False: 0, True: 0}, 0
        self._own_forward = vars(self._model).get("forward")
        closed = _closed_parts(self._model, training=self._model.training)
        for name, module in self._model.named_modules():
            compiled = getattr(module, "_compiled_call_impl", None) is not None
            if compiled and (not name or name.rpartition(".")[0] not in closed):
                self._wrap_compiled(name, module)
            elif name not in closed:
                before, after = self._before(name), self._after(name)
                self._handles.append(module.register_forward_pre_hook(before, with_kwargs=True, prepend=True))
                self._handles.append(module.register_forward_hook(after, with_kwargs=True, always_call=True))
        self._seen.followed = not closed
        self._losses = (_PatchedLosses if closed else _Losses)(self._seen.losses, self._origins)
        self._losses.__enter__()

    def stop(self) -> Observation:
        """Cease to watch, and return what was seen. May be called more than once."""
        if self._losses is not None:
            self._losses.__exit__(None, None, None)
        self._losses = None
        for handle in self._handles:
            handle.remove()
        for module, call in self._compiled:
            module._compiled_call_impl = call
        self._handles, self._open, self._compiled = [], [], []
        self._origins = Origins(None)
        seen, self._seen = self._seen, Observation()
        return seen

    def _wrap_compiled(self, name: str, module: nn.Module) -> None:
        """Watch a module whose call is compiled, hooks included, from outside."""
        call: Any = module._compiled_call_impl
        before, after = self._before(name), self._after(name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            before(module, args, kwargs)
            output = None
            try:
                output = call(*args, **kwargs)
            finally:
                after(module, args, kwargs, output)
            return output

        self._compiled.append((module, call))
        module._compiled_call_impl = watched

    def _before(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if not name and vars(module).get("forward") is not self._own_forward:
                # The step itself: where a wrapper such as DDP's must see it, Lightning puts it in forward's place
                return
            self._open.append((name, self._begun(name, (args, kwargs)) if self._recorded() else None))

        return hook

    def _begun(self, name: str, arguments: Any) -> ModuleCall:
        call = ModuleCall(name, arguments, None, inside=bool(self._open), number=self._number)
        if not call.inside:
            self._number += 1
            call.entries = {
                path: (tuple(image.shape), self._origins.enter(image, call.number)) for path, image in call.images()
            }
        call.arguments = self._copied(arguments, inside=call.inside)
        return call

    def _after(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            if not self._open or self._open[-1][0] != name:  # the call began before the watch did
                return
            _, call = self._open.pop()
            self._origins.leave(module, (args, kwargs), output)
            if call is not None:
                # Feature maps are not held, as they may be large
                call.output = map_tensors(lambda _, tensor: tensor if tensor.ndim <= 2 else None, output)
                self._seen.calls.append(call)

        return hook

    def _recorded(self) -> bool:
        """Whether a call that begins now is one of the step's own, or of the model's forward."""
        open_names = [name for name, _ in self._open]
        return open_names in ([], [""]) and len(self._seen.calls) < _MOST_CALLS

    def _copied(self, arguments: Any, *, inside: bool) -> Any:
        """The arguments with copies of the first images among them, but for generated ones; no other feature maps."""

        def copy(_: Path, tensor: Tensor) -> Tensor | None:
            if tensor.ndim not in (4, 5):
                return tensor
            if GENERATED in self._origins.of(tensor) or self._copies[inside] >= _MOST_COPIES[inside]:
                return None
            self._copies[inside] += 1
            with torch.no_grad():
                return tensor.detach().clone()

        return map_tensors(copy, arguments)


class _Losses(TorchFunctionMode):
    """Note the calls of losses, and where the results of all functions come from."""

    def __init__(self, found: list[LossCall], origins: Origins) -> None:
        super().__init__()
        self._found, self._origins = found, origins
        self._chosen: Any = None  # where the largest logits were, when last asked

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        _note(self._found, func, args, kwargs, self._origins)
        result = func(*args, **kwargs)
        self._origins.follow((*args, *kwargs.values()), result)
        if func in _CHOICES:
            self._chosen = result[1] if isinstance(result, tuple) else result
        elif func in _COMPARISONS:
            self._note_comparison(args)
        return result

    def _note_comparison(self, args: Sequence[Any]) -> None:
        """Take what the largest logits' places are compared with for the target."""
        others = [arg for arg in args if arg is not self._chosen]
        if self._chosen is None or len(others) != len(args) - 1 or not isinstance(others[0], Tensor):
            return
        at = max((at for at, each in enumerate(self._found) if each.function == CHOICE), default=None)
        if at is not None and self._found[at].target is None:
            origin = self._origins.of(others[0])
            self._found[at] = replace(self._found[at], target=others[0], target_origin=origin)


class _PatchedLosses:
    """The same by other functions in the place of torch.nn.functional's, which parts of a model cannot notice."""

    def __init__(self, found: list[LossCall], origins: Origins) -> None:
        self._found, self._origins = found, origins
        watched: list[Any] = [*_LOSSES, *_SOFT]
        own = [func for func in watched if hasattr(F, func.__name__)]
        self._own = {func.__name__: func for func in own if getattr(F, func.__name__) is func}

    def __enter__(self) -> None:
        for name, func in self._own.items():
            setattr(F, name, self._noting(func))

    def __exit__(self, *_: object) -> None:
        for name, func in self._own.items():
            setattr(F, name, func)

    def _noting(self, func: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(func)
        def noting(*args: Any, **kwargs: Any) -> Any:
            if not torch.compiler.is_compiling():
                _note(self._found, func, args, kwargs, self._origins)
            return func(*args, **kwargs)

        return noting


def _name_of(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str | None:
    if func in _CHOICES:
        dim = args[1] if len(args) > 1 else kwargs.get("dim", kwargs.get("axis"))
        return CHOICE if isinstance(dim, int) else None
    return _LOSSES.get(func) or _SOFT.get(func)


def _note(found: list[LossCall], func: Any, args: Sequence[Any], kwargs: dict[str, Any], origins: Origins) -> None:
    name = _name_of(func, args, kwargs)
    if name is not None and len(found) < _MOST_CALLS:
        given = args[0] if args else kwargs.get("input")
        target = (args[1] if len(args) > 1 else kwargs.get("target")) if func in _LOSSES else None
        if isinstance(given, Tensor) and (target is None or isinstance(target, Tensor)):
            found.append(LossCall(name, given, target, origins.of(given), origins.of(target)))


class _ReachedError(BaseException):
    """Ends a step at its loss; no Exception, so that the step does not catch it."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = value


class _StopAtLoss(TorchFunctionMode):
    """Raise at a certain call of a loss."""

    def __init__(self, function: str, number: int) -> None:
        super().__init__()
        self._function, self._left = function, number

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if _name_of(func, args, kwargs) == self._function:
            if self._left == 0:
                raise _ReachedError(args[0] if args else kwargs["input"])
            self._left -= 1
        return func(*args, **kwargs)


def stop_at_loss(step: Callable[[], Any], function: str, number: int = 0) -> Tensor:
    """Run a step up to a call of a loss, and return what the loss was to take.

    Args:
        step: Any function.
        function: Name of the loss, as in `LossCall`.
        number: Which of the calls of this loss, from 0.

    Raises:
        RuntimeError: If the step ends without that call.

    Example:
        >>> stop_at_loss(lambda: F.mse_loss(torch.ones(2), torch.zeros(2)), "mse_loss")
        tensor([1., 1.])
    """
    try:
        with _StopAtLoss(function, number):
            step()
    except _ReachedError as reached:
        return reached.value
    raise RuntimeError(f"the step ended without calling {function}")
