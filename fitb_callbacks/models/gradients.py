"""Input gradients through models that switch gradients off."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["gradients_opened"]

_DETACHING: set[Any] = {Tensor.detach, Tensor.detach_, torch.detach, getattr(Tensor.data, "__get__")}  # noqa: B009 - typed as a tensor


class _NoDetach(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return args[0] if func in _DETACHING else func(*args, **kwargs or {})


@contextmanager
def gradients_opened() -> Iterator[None]:
    """Let gradients pass through ``torch.no_grad``, ``set_grad_enabled``, ``inference_mode`` and ``detach``.

    A network with a frozen backbone often computes its features without gradients, which saves memory in training, but
    leaves no way from the logits back to the image. Inside this context these switches do nothing, and neither does
    ``torch.utils.checkpoint`` with ``use_reentrant=True``, which knows no gradient of an input alone. They are replaced
    for the whole process, so keep the block short.

    Example:
        >>> weight, image = torch.ones(2), torch.ones(2, requires_grad=True)
        >>> with gradients_opened():
        ...     with torch.no_grad():
        ...         features = (image * weight).detach()
        >>> features.requires_grad
        True
    """
    switches: list[tuple[Any, str]] = [(torch.set_grad_enabled, "__init__")]
    for switch in (torch.no_grad, torch.inference_mode, torch.set_grad_enabled):
        switches += [(switch, "__enter__"), (switch, "__exit__")]
    own = [(switch, name, vars(switch)[name]) for switch, name in switches]
    own.append((torch.utils.checkpoint, "CheckpointFunction", torch.utils.checkpoint.CheckpointFunction))
    try:
        for switch, name in switches:
            setattr(switch, name, _do_nothing)
        torch.utils.checkpoint.CheckpointFunction = _KeepEverything  # type: ignore[assignment, misc]
        with torch.enable_grad(), _NoDetach():
            yield
    finally:
        for switch, name, method in own:
            setattr(switch, name, method)


class _KeepEverything:
    """Takes the place of the function that forgets what a part of the network computes, and computes it again."""

    @staticmethod
    def apply(run_function: Callable[..., Any], _: bool, *args: Any) -> Any:
        return run_function(*args)


def _do_nothing(*_: Any, **__: Any) -> None:
    return None
