"""Pictures in MLflow."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from packaging.version import Version

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

    from fitb_callbacks.pictures import Picture

__all__ = ["image_key", "write_picture"]

_SLASH_WORKS_SINCE = Version("3.17")  # tested; the issue was reported for 3.10


def image_key(name: str) -> str:
    """A name as an MLflow image key, which holds letters, digits, ``_``, ``-``, ``.``, ``/`` and space.

    What comes before a ``/`` is the section of the run page, which puts the picture beside the scores. Older versions
    of MLflow write such keys under names that they cannot read again (mlflow issue 22165): they get a space instead.

    Example:
        >>> image_key('probe "1"')
        'probe 1'
    """
    import mlflow

    allowed = r"[^A-Za-z0-9_\-. /]+" if Version(mlflow.__version__) >= _SLASH_WORKS_SINCE else r"[^A-Za-z0-9_\-. ]+"
    return re.sub(r" *([/ ]) *", r"\1", re.sub(allowed, " ", name)).strip(" /")[:100]


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
