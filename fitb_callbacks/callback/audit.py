"""A check, in a user's own run, that a probe changed nothing that training depends on."""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from fitb_callbacks.models.attributes import own_state

__all__ = ["AuditError", "audited", "fingerprint"]


class AuditError(RuntimeError):
    """The probe changed something that training depends on."""


@contextmanager
def audited(trainer: Trainer, pl_module: LightningModule) -> Iterator[None]:
    """Compare everything before and after a block, also if it raises.

    Raises:
        AuditError: If anything changed; the message lists what. If the block raised too, that error is its cause.
    """
    before = fingerprint(trainer, pl_module)
    failure: Exception | None = None
    try:
        yield
    except Exception as error:  # noqa: BLE001 - raised below, after the comparison
        failure = error
    after = fingerprint(trainer, pl_module)
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    if changed:
        listed = ", ".join(changed[:20]) + (f" and {len(changed) - 20} more" if len(changed) > 20 else "")
        raise AuditError(f"the probe of epoch {trainer.current_epoch} changed {listed}") from failure
    if failure is not None:
        raise failure
    rank_zero_info(
        f"FillInBlanksCallback: audit of epoch {trainer.current_epoch}: {len(after)} weights, gradients, buffers, "
        "modes and states compared, none changed"
    )


def fingerprint(trainer: Trainer, pl_module: LightningModule) -> dict[str, str]:
    """What training depends on, by name, each as a hash of its bytes.

    Holds every parameter with its gradient and ``requires_grad``, every buffer, every module's mode and hooks, the
    other attributes of modules (metric states, counters, what hooks collect), the state of optimizers, schedulers and
    other callbacks, all random number generators, and torch's global switches.
    """
    parts: dict[str, Any] = {}
    for name, parameter in pl_module.named_parameters(remove_duplicate=False):
        parts[f"parameter {name}"] = parameter
        parts[f"gradient of {name}"] = parameter.grad
        parts[f"requires_grad of {name}"] = parameter.requires_grad
    for name, buffer in pl_module.named_buffers(remove_duplicate=False):
        parts[f"buffer {name}"] = buffer
    for name, module in pl_module.named_modules(remove_duplicate=False):
        parts[f"mode of {name or 'the model'}"] = module.training
        parts[f"hooks of {name or 'the model'}"] = [
            (kind, key, id(hook))
            for kind, hooks in vars(module).items()
            if kind.endswith("_hooks") and isinstance(hooks, Mapping)
            for key, hook in hooks.items()
        ]
    for where, value in own_state(pl_module):
        parts[where if where not in parts else f"{where} ({len(parts)})"] = value
    for index, optimizer in enumerate(trainer.optimizers):
        parts[f"optimizer {index}"] = optimizer.state_dict()
    for index, config in enumerate(trainer.lr_scheduler_configs):
        parts[f"scheduler {index}"] = config.scheduler.state_dict()
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if not {"FillInBlanksCallback", "Timer"} & {base.__name__ for base in type(callback).__mro__}:
            parts[f"callback {callback.state_key}"] = callback.state_dict()
    parts |= _generators() | {
        "gradient mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "default dtype": str(torch.get_default_dtype()),
        "cudnn.benchmark": torch.backends.cudnn.benchmark,
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
    }
    return {name: _digest(part) for name, part in parts.items()}


def _generators() -> dict[str, Any]:
    states: dict[str, Any] = {
        "Python's random numbers": random.getstate(),
        "torch's random numbers": torch.get_rng_state(),
    }
    if (numpy := sys.modules.get("numpy")) is not None:
        states["NumPy's random numbers"] = numpy.random.get_state()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states["CUDA's random numbers"] = torch.cuda.get_rng_state_all()
    return states


def _digest(value: Any) -> str:
    digest = hashlib.blake2b(digest_size=16)

    def feed(value: Any) -> None:
        if isinstance(value, Tensor):
            value = value.to_local() if hasattr(value, "to_local") else value  # this process's part of a sharded one
            digest.update(f"{value.dtype}{tuple(value.shape)}{value.device}".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        elif hasattr(value, "tobytes"):  # NumPy's arrays, whose repr leaves out the middle
            digest.update(value.tobytes())
        elif isinstance(value, Mapping):
            for key, item in value.items():
                digest.update(f"{key!r}:".encode())
                feed(item)
        elif isinstance(value, (list, tuple)):
            digest.update(f"{type(value).__name__}{len(value)}".encode())
            for item in value:
                feed(item)
        else:
            digest.update(repr(value).encode() + b";")

    feed(value)
    return digest.hexdigest()
