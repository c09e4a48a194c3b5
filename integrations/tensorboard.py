"""Pictures in TensorBoard."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from fitb_callbacks.pictures import Picture

__all__ = ["write_picture"]


def write_picture(writer: SummaryWriter, name: str, picture: Picture, step: int) -> None:
    """Add a picture to the event file.

    TensorBoard keeps ten images a tag unless it is started with ``--samples_per_plugin images=200``.

    Args:
        writer: ``TensorBoardLogger.experiment``.
        name: Tag; what comes before the ``/`` is the section.
        picture: Height x width x 3, uint8.
        step: Global step.
    """
    writer.add_image(name, picture, step, dataformats="HWC")
