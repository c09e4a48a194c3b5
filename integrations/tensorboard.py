"""Pictures in TensorBoard."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from fitb_callbacks.pictures import Picture

__all__ = ["write_picture"]

_ROOM_TO_LEAVE = 2**20  # bytes, for the event file's own scalars


def write_picture(writer: SummaryWriter, name: str, picture: Picture, step: int) -> None:
    """Add a picture to the event file.

    TensorBoard keeps ten images a tag unless it is started with ``--samples_per_plugin images=200``.

    Args:
        writer: ``TensorBoardLogger.experiment``.
        name: Tag; what comes before the ``/`` is the section.
        picture: Height x width x 3, uint8.
        step: Global step.

    Raises:
        OSError: If the disk is as good as full. A write that fails breaks the writer for good, and with it the run at
            the next thing that Lightning logs: it is better not tried.
    """
    folder = Path(writer.log_dir)
    if folder.is_dir() and shutil.disk_usage(folder).free < _ROOM_TO_LEAVE + picture.nbytes:  # else it is in a cloud
        raise OSError(errno.ENOSPC, "no room for pictures on the disk of the event files", str(folder))
    writer.add_image(name, picture, step, dataformats="HWC")
