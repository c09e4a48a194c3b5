"""Log networks to MLflow as torch.export writes them, also with versions of MLflow that cannot do that themselves."""

import inspect
import sys
from pathlib import Path

import mlflow
import numpy as np
import torch
from mlflow.models import Model, infer_signature

EXAMPLE = np.zeros((2, 1, 8, 8), np.float32)
MLFLOW_EXPORTS = "serialization_format" in inspect.signature(mlflow.pytorch.log_model).parameters  # since 3.9


def log_exported(network, **names):
    """`mlflow.pytorch.log_model` of an exported network, in whatever mode it is."""
    if MLFLOW_EXPORTS:
        return mlflow.pytorch.log_model(
            network, serialization_format="pt2", input_example=EXAMPLE, pip_requirements=["torch"], **names
        )
    return Model.log(artifact_path=None, flavor=sys.modules[__name__], network=network, **names)


def log_pickled(network, **names):
    """The same, pickled."""
    options = {"serialization_format": "pickle"} if MLFLOW_EXPORTS else {}
    return mlflow.pytorch.log_model(network, pip_requirements=["torch"], **options, **names)


def save_model(path, mlflow_model, network, **_):
    """The files that a newer MLflow would write, for an older one to read."""
    example = torch.from_numpy(EXAMPLE)
    program = torch.export.export(network, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    folder = Path(path, "data")
    folder.mkdir(parents=True)
    torch.export.save(program, folder / "model.pt2")
    mlflow_model.signature = infer_signature(EXAMPLE, network(example).detach().numpy())
    mlflow_model.add_flavor("pytorch", model_data="data", pytorch_version=str(torch.__version__))
    mlflow_model.save(Path(path, "MLmodel"))
