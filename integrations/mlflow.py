"""Pictures in MLflow."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

    from fitb_callbacks.pictures import Picture

__all__ = ["image_key", "write_picture"]


def image_key(name: str) -> str:
    """A name as an MLflow image key, which holds letters, digits, ``_``, ``-``, ``.`` and space.

    A ``/`` is allowed by MLflow but becomes a ``~`` in the file's name, so it is replaced here.

    Example:
        >>> image_key("fitb/prototypes")
        'fitb prototypes'
    """
    return re.sub(r"[^A-Za-z0-9_\-. ]+", " ", name).strip()[:100]


def write_picture(client: MlflowClient, run_id: str, name: str, picture: Picture, step: int) -> None:
    """Log a picture that the run page shows under Model metrics, with a slider over the steps.

    The call waits for the store: MLflow's asynchronous image logging can hang when the run ends.

    Args:
        client: ``MLFlowLogger.experiment``.
        run_id: The run.
        name: What the picture is called; see `image_key`.
        picture: Height x width x 3, uint8.
        step: Step of the slider.
    """
    client.log_image(run_id, picture, key=image_key(name), step=step, synchronous=True)
