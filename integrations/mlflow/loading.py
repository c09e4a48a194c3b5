"""Download a model from MLflow, look at its files, and load it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from fitb_callbacks.integrations.mlflow.client import environment, raise_if_away
from fitb_callbacks.integrations.mlflow.lookup import RegistryModel
from fitb_callbacks.models.checkpoints import load_checkpoint
from fitb_callbacks.models.file_contents import PickledContentError, check_export
from fitb_callbacks.utils.messages import one_line

__all__ = ["LoadedModel", "image_shape", "load_model"]


@dataclass(frozen=True)
class LoadedModel:
    """A model ready for a probe.

    Attributes:
        module: On the CPU.
        image_shape: ``(C, H, W)`` by the model's signature; None if it says nothing.
    """

    module: nn.Module
    image_shape: tuple[int, int, int] | None


def load_model(model: RegistryModel, *, class_path: str | None = None, allow_pickle: bool = False) -> LoadedModel:
    """Download and load a model: exported or pickled by ``mlflow.pytorch``, or a Lightning checkpoint.

    Without ``allow_pickle`` nothing is loaded before its files have been looked at
    (`fitb_callbacks.models.file_contents`), whatever version of MLflow is installed.

    Args:
        model: Found by `fitb_callbacks.integrations.mlflow.lookup.find_model`, within
            `fitb_callbacks.integrations.mlflow.client.connected`.
        class_path: A checkpoint's class, as ``package.module:Class``.
        allow_pickle: Whether files may hold any Python object. Loading one runs whatever code is in it.

    Raises:
        ConnectionError: If the server does not answer.
        ValueError: If the model cannot be loaded; the error says why.
    """
    import mlflow

    with tempfile.TemporaryDirectory(prefix="fitb-model-") as folder:
        try:
            where = Path(mlflow.artifacts.download_artifacts(model.address, dst_path=folder))
        except Exception as error:  # of stores of many kinds
            raise_if_away(error)
            raise ValueError(f"{model.address} cannot be downloaded: {one_line(error)}") from error
        if not (where / "MLmodel").is_file():
            return LoadedModel(_from_checkpoint(where, model.address, class_path, allow_pickle), None)
        flavor, signature = _described(where, model.address)
        load = _load_pickled if allow_pickle else _load_exported
        try:
            return LoadedModel(load(where, flavor), image_shape(signature))
        except PickledContentError as error:
            raise ValueError(f"{model.address} holds a pickled model; if you trust it, add --allow-pickle") from error
        except Exception as error:  # of whatever the model needs
            raise ValueError(f"{model.address} cannot be loaded: {one_line(error)}") from error


def _described(where: Path, address: str) -> tuple[Mapping[str, Any], Any]:
    """The PyTorch part of the file MLmodel, and the model's signature."""
    import mlflow

    try:
        described = mlflow.models.Model.load(str(where))
    except Exception as error:  # of whatever the file holds
        raise ValueError(f"{address} has a damaged MLmodel file: {one_line(error)}") from error
    if "pytorch" not in described.flavors:
        raise ValueError(f"{address} must be a PyTorch model; it is {', '.join(described.flavors)}")
    return described.flavors["pytorch"], described.signature


def _load_exported(where: Path, flavor: Mapping[str, Any]) -> nn.Module:
    """An exported model, after a look at its files. Code that was stored with the model is not made importable."""
    data = (where / str(flavor.get("model_data", "data"))).resolve()
    if not data.is_relative_to(where.resolve()):
        raise ValueError(f"its data is outside of its folder: {flavor['model_data']!r:.80}")
    files = sorted(data.glob("*.pt2"))
    if len(files) != 1 or files[0].is_symlink() or not files[0].is_file():
        raise PickledContentError("it holds no exported network")
    check_export(files[0])
    try:
        return cast(nn.Module, torch.export.load(files[0]).module())
    except Exception as error:  # of another version of torch, or of operations that are not installed
        made_with, here = flavor.get("pytorch_version"), torch.__version__
        if made_with != here:
            raise ValueError(f"it was exported by torch {made_with}, and this is {here}: {one_line(error)}") from error
        raise


def _load_pickled(where: Path, flavor: Mapping[str, Any]) -> nn.Module:
    """Whatever it is, by MLflow's own loader."""
    import mlflow

    with environment({"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "true"}):
        return cast(nn.Module, mlflow.pytorch.load_model(str(where), map_location="cpu"))


def _from_checkpoint(where: Path, address: str, class_path: str | None, allow_pickle: bool) -> nn.Module:
    files = [where] if where.is_file() else sorted(where.rglob("*.ckpt"))
    if len(files) != 1:
        raise ValueError(f"{address} must be an MLflow model or hold one checkpoint; it holds {len(files)} of these")
    if class_path is None:
        raise ValueError(f"{address} is a checkpoint; name its class with --class package.module:Class")
    return load_checkpoint(files[0], class_path, allow_pickle=allow_pickle)


def image_shape(signature: Any) -> tuple[int, int, int] | None:
    """``(C, H, W)`` by a model's signature; None if it says nothing of the kind."""
    specs = signature.inputs.inputs if signature is not None and signature.inputs is not None else []
    shape: tuple[int, ...] = getattr(specs[0], "shape", ()) if len(specs) == 1 else ()
    if len(shape) != 4 or any(side <= 0 for side in shape[1:]):
        return None
    return (int(shape[1]), int(shape[2]), int(shape[3]))
