"""Models from checkpoint files, without pickle unless it is asked for."""

from __future__ import annotations

import os
import re
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast

import torch
from torch import nn

from fitb_callbacks.models.file_contents import PickledContentError, check_checkpoint, check_hyperparameters
from fitb_callbacks.utils.imports import import_from_string
from fitb_callbacks.utils.messages import describe, one_line

__all__ = ["load_checkpoint"]


def load_checkpoint(path: str | os.PathLike[str] | None, class_path: str, *, allow_pickle: bool = False) -> nn.Module:
    """The model of a checkpoint, on the CPU and in evaluation mode.

    Args:
        path: A Lightning checkpoint, or a ``state_dict`` as ``torch.save`` writes it. None for a model that comes with
            its weights.
        class_path: Its class, as ``package.module:Class``. A LightningModule is built from the hyperparameters in the
            checkpoint; any other ``nn.Module``, or function that returns one, is called without arguments.
        allow_pickle: Whether a checkpoint may hold any Python object. Loading one runs whatever code is in the file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the class cannot be imported or built, or the file is not a checkpoint of it.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save(torch.nn.Flatten().state_dict(), f"{folder}/weights.pt")
        ...     load_checkpoint(f"{folder}/weights.pt", "torch.nn:Flatten")
        Flatten(start_dim=1, end_dim=-1)
    """
    build = import_from_string(class_path, argument="--class")
    if not callable(build) or (isinstance(build, type) and not issubclass(build, nn.Module)):
        raise ValueError(  # noqa: TRY004 - of the name
            f"--class must name a LightningModule, another torch.nn.Module, or a function that returns one; "
            f"{class_path!r} is {build!r}"
        )
    if path is None:
        return _built(build, class_path)
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no checkpoint {os.fspath(path)}")
    try:
        model = _loaded(path, build, weights_only=not allow_pickle)
    except PickledContentError as error:
        raise ValueError(f"{os.fspath(path)}: {error}; if you trust the file, add --allow-pickle") from error
    except UnpicklingError as error:
        found = re.search(r"Unsupported global: GLOBAL (\S+)", str(error))
        reason = (
            f"holds {found[1]}, which only pickle loads" if found else "is no checkpoint of tensors and plain values"
        )
        hint = "" if allow_pickle else "; if you trust the file, add --allow-pickle"
        raise ValueError(f"{os.fspath(path)} {reason}{hint}") from error
    except Exception as error:  # the file and the user's class may raise anything
        raise ValueError(f"{os.fspath(path)} is not a checkpoint of {class_path}: {one_line(error)}") from error
    return model.eval()


def _built(build: Any, class_path: str) -> nn.Module:
    try:
        model = build()
    except Exception as error:  # the user's class may raise anything
        raise ValueError(f"--class {class_path} gives no model without a checkpoint: {one_line(error)}") from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"--class {class_path} must return a torch.nn.Module; got {describe(model)}")  # noqa: TRY004
    return model.eval()


def _loaded(path: str | os.PathLike[str], build: Any, *, weights_only: bool) -> nn.Module:
    if weights_only:
        check_checkpoint(Path(path))
    content = torch.load(path, map_location="cpu", weights_only=weights_only)
    if not isinstance(content, dict):
        raise TypeError(f"it holds {describe(content)}, not a state_dict")
    if weights_only:
        check_hyperparameters(content)
    if "pytorch-lightning_version" in content and hasattr(build, "load_from_checkpoint"):
        return cast(nn.Module, build.load_from_checkpoint(path, map_location="cpu", weights_only=weights_only))
    model = build()
    if not isinstance(model, nn.Module):
        raise TypeError(f"{build!r} returned {describe(model)}, not a torch.nn.Module")
    model.load_state_dict(content.get("state_dict", content))
    return model
