"""Pictures and records in TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fitb_callbacks.integrations import folder

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from fitb_callbacks.plotting.tiles import Picture

__all__ = ["write_picture", "write_record"]


def write_picture(writer: SummaryWriter, name: str, picture: Picture, step: int) -> None:
    """Add a picture to the event file.

    TensorBoard shows ten images per tag unless it is started with ``--samples_per_plugin images=200``.

    Args:
        writer: ``TensorBoardLogger.experiment``.
        name: Tag; what comes before the ``/`` is the section.
        picture: Height x width x 3, uint8.
        step: Global step.
    """
    writer.add_image(name, picture, step, dataformats="HWC")


def write_record(writer: SummaryWriter, record: Mapping[str, Any]) -> None:
    """Write a record beside the event files, for ``fitb report``, if they are in a local folder."""
    if "://" not in writer.log_dir:
        folder.write_record(Path(writer.log_dir), record)
