"""Forward passes of a model whose parameters are spread over processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from lightning.pytorch import Trainer
from torch import Tensor, nn

from fitb_callbacks.callback.trainer import has_base
from fitb_callbacks.models.logits import LogitsFn
from fitb_callbacks.utils.nested import tensors_in

__all__ = ["apart_from_training", "is_sharded", "scatter_parameters", "through_the_root"]


def is_sharded(trainer: Trainer) -> bool:
    """Whether every process holds a part of the parameters, so that all must take part in each forward pass.

    Between the forward and the backward pass of a training step, the model may not be called then.

    Example:
        >>> is_sharded(Trainer(logger=False, accelerator="cpu"))
        False
    """
    return _is_wrapped(trainer) or has_base(trainer.strategy, "ModelParallelStrategy")


def through_the_root(trainer: Trainer, logits_fn: LogitsFn | None) -> LogitsFn | None:
    """Let a model be called as ``FSDPStrategy`` calls it: by the module around it, which gathers the parameters.

    Under any other strategy, ``logits_fn`` is returned as it is.

    Args:
        trainer: Of the run.
        logits_fn: What computes the logits from the model and images ``(B, C, H, W)``; None for its own ``forward``.

    Example:
        >>> through_the_root(Trainer(logger=False, accelerator="cpu"), None) is None
        True
    """
    if not _is_wrapped(trainer):
        return logits_fn
    compute: Callable[[Any, Tensor], Any] = logits_fn or (lambda model, images: model(images))

    def logits(model: nn.Module, images: Tensor) -> Tensor:
        output = _called_by(trainer.strategy.model, model, compute, images)
        if not any(tensor.requires_grad for _, tensor in tensors_in(output)):  # else the backward pass does it
            scatter_parameters(trainer)
        return output  # type: ignore[no-any-return]

    return logits


def _called_by(root: Any, model: nn.Module, compute: Callable[[Any, Tensor], Any], images: Tensor) -> Any:
    """What ``compute(model, images)`` returns, called by ``root`` in the place of the model's ``forward``."""
    if root is model:
        return compute(model, images)
    own = vars(model).get("forward")

    def put_back() -> None:
        if own is None:
            vars(model).pop("forward", None)
        else:
            vars(model)["forward"] = own

    def forward(images: Tensor) -> Any:
        put_back()
        return compute(model, images)

    vars(model)["forward"] = forward
    try:
        return root(images)
    finally:
        put_back()


def scatter_parameters(trainer: Trainer) -> None:
    """Leave every process its own part of the parameters, under ``FSDPStrategy``.

    A forward pass without gradients leaves parameters gathered, until the next backward pass. Gathered ones are no
    parameters of the model, but attributes, so what a probe compares and puts back would not be the same before it and
    after.
    """
    if not _is_wrapped(trainer) or trainer.strategy.model is None:
        return
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.fsdp._runtime_utils import _reshard  # torch has no public way

    for part in FullyShardedDataParallel.fsdp_modules(trainer.strategy.model):
        handle = part._handle
        if part._is_root is not None and handle is not None and not handle.needs_unshard():
            _reshard(part, handle, handle.uses_sharded_strategy)


@contextmanager
def apart_from_training(trainer: Trainer) -> Iterator[None]:
    """Keep the training's gradients from the passes in a block, under ``FSDPStrategy``.

    At the end of any backward pass, FSDP takes gradients that are there for that pass's, and drops or moves them.
    """
    scatter_parameters(trainer)
    if not _is_wrapped(trainer):
        yield
        return
    from torch.distributed.fsdp import FullyShardedDataParallel

    model = trainer.strategy.model
    assert model is not None
    handles = [part._handle for part in FullyShardedDataParallel.fsdp_modules(model)]
    flat = [handle.flat_param for handle in handles if handle is not None]
    # Those of a pass without synchronisation have the whole parameter's size: FSDP leaves them alone by itself
    whole = [each for each in flat if each.grad is not None and each.grad.shape == each.shape]
    kept = [(part, part.grad) for each in whole for part in (each, *(each._params or ()))]
    with ExitStack() as stack:
        for root in FullyShardedDataParallel.fsdp_modules(model, root_only=True):
            stack.enter_context(root.no_sync())
        for parameter, _ in kept:
            parameter.grad = None
        try:
            yield
        finally:
            scatter_parameters(trainer)
            for parameter, gradient in kept:
                parameter.grad = gradient


def _is_wrapped(trainer: Trainer) -> bool:
    return has_base(trainer.strategy, "FSDPStrategy")
