"""Pictures and records in TensorBoard."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fitb_callbacks.integrations import folder
from fitb_callbacks.integrations.record import Record
from fitb_callbacks.integrations.summary import summary_lines

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


def write_record(writer: SummaryWriter, record: Record) -> None:
    """Add what the probe found, in words, under Text, and write the record beside the event files, for ``fitb report``.

    The record is written only if the event files are in a local folder.
    """
    text = "\n".join(summary_lines(record))
    masking = record["settings"]["masking"]
    writer.add_text(f"{record['prefix']}/summary{'' if masking == 'random' else f' {masking}'}", text, record["step"])
    if "://" not in writer.log_dir:
        folder.write_record(Path(writer.log_dir), record)
