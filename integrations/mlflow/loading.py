"""Download a model from MLflow, look at its files, and load it."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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

__all__ = ["LoadedModel", "download_model", "files_digest", "image_shape", "load_model"]

_LARGEST_DESCRIPTION = 2**24  # bytes
_NOT_THE_MODEL = ("registered_model_meta",)
_NO_FILES = "has no files: they are gone from the store of its artifacts, or never got there"


@dataclass(frozen=True)
class LoadedModel:
    """A model ready for a probe.

    Attributes:
        module: On the CPU.
        image_shape: ``(C, H, W)`` by the model's signature; None if it says nothing.
        digest: SHA-256 over its files; see `files_digest`.
    """

    module: nn.Module
    image_shape: tuple[int, int, int] | None
    digest: str


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
    with download_model(model) as where:
        digest = files_digest(where)
        if not (where / "MLmodel").is_file():
            return LoadedModel(_from_checkpoint(where, model.address, class_path, allow_pickle), None, digest)
        flavor, signature = _described(where, model.address, allow_pickle=allow_pickle)
        load = _load_anything if allow_pickle else _load_exported
        try:
            return LoadedModel(load(where, flavor), image_shape(signature), digest)
        except PickledContentError as error:
            raise ValueError(f"{model.address} holds a pickled model; if you trust it, add --allow-pickle") from error
        except Exception as error:  # of whatever the model needs
            raise ValueError(f"{model.address} cannot be loaded: {one_line(error)}") from error


@contextmanager
def download_model(model: RegistryModel) -> Iterator[Path]:
    """Download a model's files for the block.

    Raises:
        ConnectionError: If the server does not answer.
        ValueError: If they cannot be downloaded.
    """
    import mlflow

    with tempfile.TemporaryDirectory(prefix="fitb-model-") as folder:
        try:
            where = Path(mlflow.artifacts.download_artifacts(model.address, dst_path=folder))
        except Exception as error:  # of stores of many kinds
            raise_if_away(error)
            if isinstance(error, TypeError):  # of MLflow 3.0, from a path that is None
                raise ValueError(f"{model.address} {_NO_FILES}") from error  # noqa: TRY004 - of the server
            raise ValueError(f"{model.address} cannot be downloaded: {one_line(error)}") from error
        yield where


def files_digest(where: Path) -> str:
    """SHA-256 over a model's files: their names and contents, without what MLflow writes about the registration."""
    files = [where] if where.is_file() else sorted(path for path in where.rglob("*") if path.is_file())
    digest = hashlib.sha256()
    for path in files:
        if path.name in _NOT_THE_MODEL:
            continue
        name = path.name if path == where else path.relative_to(where).as_posix()
        digest.update(f"{name}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while part := file.read(2**20):
                digest.update(part)
    return digest.hexdigest()


def _described(where: Path, address: str, *, allow_pickle: bool) -> tuple[Mapping[str, Any], Any]:
    """The PyTorch part of the file MLmodel, and the model's signature."""
    import mlflow

    try:
        if (where / "MLmodel").stat().st_size > _LARGEST_DESCRIPTION:
            raise ValueError(f"it is larger than {_LARGEST_DESCRIPTION} bytes")
        described = mlflow.models.Model.load(str(where))
    except Exception as error:  # of whatever the file holds
        raise ValueError(f"{address} has a damaged MLmodel file: {one_line(error)}") from error
    if "pytorch" not in described.flavors and not allow_pickle:
        raise ValueError(
            f"{address} must be a PyTorch model; it is {', '.join(described.flavors)}. If you trust it, add "
            "--allow-pickle, and --logits to say how it is called"
        )
    return described.flavors.get("pytorch", {}), described.signature


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


def _load_anything(where: Path, flavor: Mapping[str, Any]) -> nn.Module:
    """An exported model as such, since MLflow before 3.9 cannot load it; everything else by MLflow."""
    try:
        return _load_exported(where, flavor)
    except PickledContentError:
        return _load_pickled(where, flavor)


def _load_pickled(where: Path, flavor: Mapping[str, Any]) -> nn.Module:
    """Whatever it is, by MLflow's own loader: a PyTorch model, or the network inside of another flavor's."""
    import mlflow

    with environment({"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "true"}):
        if flavor:
            return cast(nn.Module, mlflow.pytorch.load_model(str(where), map_location="cpu"))
        loaded = mlflow.pyfunc.load_model(str(where))
    try:
        inner = loaded.unwrap_python_model()  # of mlflow.pyfunc
    except mlflow.MlflowException:
        inner = loaded.get_raw_model()  # of any other flavor
    for found in (inner, *getattr(inner, "__dict__", {}).values()):
        if isinstance(found, nn.Module):
            return found
    raise ValueError(f"there is no torch.nn.Module in it; it is a {type(inner).__name__}")


def _from_checkpoint(where: Path, address: str, class_path: str | None, allow_pickle: bool) -> nn.Module:
    if not where.is_file() and {path.name for path in where.rglob("*") if path.is_file()} <= set(_NOT_THE_MODEL):
        raise ValueError(f"{address} {_NO_FILES}")
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
