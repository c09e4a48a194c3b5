"""Put a model into the state for a probe, and restore it afterwards."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from fitb_callbacks.models.attributes import saved_attributes
from fitb_callbacks.utils.rng import isolate_rng

__all__ = ["preserve_model_state"]


@contextmanager
def preserve_model_state(model: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode for input gradients, and undo every change afterwards, errors included.

    Inside, every module is in evaluation mode, no parameter requires a gradient (so nothing is computed or kept for
    them), gradients are enabled even under ``torch.inference_mode()``, and compiled modules run eagerly, since other
    flags would recompile them. Afterwards each module's own mode, each parameter's ``requires_grad``, the buffers, all
    other attributes of modules (see `fitb_callbacks.models.attributes.saved_attributes`) and all random number
    generators (Python, NumPy, torch on CPU and on the model's device) are as before. ``.grad`` is never touched.

    Flags are set one by one rather than through ``eval()`` and ``train()``: a frozen BatchNorm stays frozen, and
    exported graph modules, which refuse these methods, work.

    Args:
        model: Any module.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout())
        >>> with preserve_model_state(model):
        ...     model.training, model[0].weight.requires_grad
        (False, False)
        >>> model.training, model[0].weight.requires_grad
        (True, True)
    """
    modes = [(module, module.training) for module in model.modules()]
    # Of sharded models it is left alone: what FSDP gathers from the parameters takes over the flag, and keeps it
    sharded = any(getattr(module, "_is_fsdp_managed_module", False) for module in model.modules())
    whole = [each for each in model.parameters() if not sharded and not hasattr(each, "device_mesh")]
    required = [(each, each.requires_grad) for each in whole]
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    owned = [(module, dict(module._buffers)) for module in model.modules()]
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers()) if tensor.device.type != "cpu"}
    with ExitStack() as stack:
        stack.enter_context(isolate_rng(devices))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.callback(saved_attributes(model))
        # Nothing can be compiled before dynamo is imported, and importing it is slow. Stances came with torch 2.6.
        if "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance"):
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        try:
            for module, _ in modes:
                module.training = False
            for parameter, _ in required:
                parameter.requires_grad_(False)
            yield
        finally:
            for parameter, flag in required:
                parameter.requires_grad_(flag)
            for module, mode in modes:
                module.training = mode
            for module, held in owned:
                if list(map(id, module._buffers.values())) != list(map(id, held.values())):  # replaced in forward
                    module._buffers.clear()
                    module._buffers.update(held)
            with torch.no_grad():
                for buffer, saved in buffers:
                    if not torch.equal(buffer, saved):
                        buffer.copy_(saved)
