"""From a Lightning logger to how it takes a picture: one open function."""

from __future__ import annotations

from functools import singledispatch

from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger

from fitb_callbacks.pictures import Picture

__all__ = ["log_picture"]


@singledispatch
def log_picture(logger: Logger, name: str, picture: Picture, step: int) -> bool:
    """Give a picture to a logger. For a logger of your own, register a function of these arguments.

    Args:
        logger: Any Lightning logger, on the process that writes.
        name: What the picture is called, as ``prefix/name``.
        picture: Height x width x 3, uint8.
        step: The step at which the epoch's metrics are logged.

    Returns:
        Whether the logger took it. This function, for loggers that nobody registered, returns False.

    Example:
        >>> import numpy as np
        >>> from lightning.pytorch.loggers import CSVLogger
        >>> class FolderLogger(CSVLogger):
        ...     pass
        >>> @log_picture.register
        ... def _(logger: FolderLogger, name, picture, step):
        ...     print(f"{name} at step {step}: {picture.shape}")
        ...     return True
        >>> log_picture(FolderLogger("."), "fitb/prototypes", np.zeros((2, 3, 3), np.uint8), step=7)
        fitb/prototypes at step 7: (2, 3, 3)
        True
    """
    return False


@log_picture.register
def _(logger: TensorBoardLogger, name: str, picture: Picture, step: int) -> bool:
    from fitb_callbacks.integrations.tensorboard import write_picture

    write_picture(logger.experiment, name, picture, step)
    return True


@log_picture.register
def _(logger: MLFlowLogger, name: str, picture: Picture, step: int) -> bool:
    from fitb_callbacks.integrations.mlflow import write_picture

    assert logger.run_id is not None  # it is None only on ranks that do not write
    write_picture(logger.experiment, logger.run_id, name, picture, step)
    return True
