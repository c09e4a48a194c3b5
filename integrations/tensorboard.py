"""Pictures, records and grouped charts in TensorBoard."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from fitb_callbacks.integrations import folder
from fitb_callbacks.scoring.catalogue import GROUPS, group_of

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from fitb_callbacks.plotting.tiles import Picture

__all__ = ["lay_out_scores", "write_picture", "write_record"]

_laid_out: WeakKeyDictionary[SummaryWriter, set[str]] = WeakKeyDictionary()


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


def lay_out_scores(writer: SummaryWriter, prefix: str) -> None:
    """Chart the scores, one chart a group, on TensorBoard's page Custom Scalars, once a writer and prefix.

    A run has one layout there, the last one written: one of your own has to be written after the first probe.

    Args:
        writer: ``TensorBoardLogger.experiment``.
        prefix: Of the keys.
    """
    prefixes = _laid_out.setdefault(writer, set())
    if prefix in prefixes:
        return
    prefixes.add(prefix)
    writer.add_custom_scalars(
        {
            each: {
                title: ["Multiline", [f"^{re.escape(f'{each}/{name}')}$" for name in group_of(title)]]
                for title in GROUPS
            }
            for each in sorted(prefixes)
        }
    )
