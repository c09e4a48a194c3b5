"""Pictures in TensorBoard, through an outbox when the disk of the event files is full."""

from __future__ import annotations

import io
import json
import re
import shutil
import time
import uuid
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from fitb_callbacks.integrations import folder
from fitb_callbacks.integrations.outbox import Outbox, Parcel, outbox_folder

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from fitb_callbacks.plotting.prototypes import Picture

__all__ = ["deliver", "lay_out_scores", "outbox", "write_picture", "write_record"]

_ROOM_TO_LEAVE = 2**20  # bytes, for the event file's own scalars
_ENTRY, _PICTURE = "entry.json", "picture.png"
_CHARTS = {
    "as a judge sees it": ("structure", "judge_accuracy", "judge_ceiling", "null_accuracy"),
    "as the model itself sees it": ("accuracy", "accuracy_all", "f1_macro", "coverage"),
    "breadth and reliability": ("area", "reliability"),
    "change since the last probe": ("carryover_accuracy", "drift"),
}
_laid_out: WeakKeyDictionary[SummaryWriter, set[str]] = WeakKeyDictionary()


def write_picture(writer: SummaryWriter, name: str, picture: Picture, step: int) -> None:
    """Add a picture to the event file, or keep it for later if the disk is as good as full.

    A write that fails breaks the writer for good, and with it the run at the next thing that Lightning logs: it is
    better not tried. What is kept is added with the next picture for which there is room, or by ``fitb resend``.

    TensorBoard keeps ten images a tag unless it is started with ``--samples_per_plugin images=200``.

    Args:
        writer: ``TensorBoardLogger.experiment``.
        name: Tag; what comes before the ``/`` is the section.
        picture: Height x width x 3, uint8.
        step: Global step.

    Raises:
        ConnectionError: If there is no room, and the picture is kept.
        OSError: If there is no room to keep it either.
    """
    box = outbox(writer)
    if _has_room(writer, picture.nbytes) and not box.waiting():
        writer.add_image(name, picture, step, dataformats="HWC")
    else:
        box.put(_parcel(writer, name, picture, step))


def write_record(writer: SummaryWriter, record: Mapping[str, Any]) -> None:
    """Write a record beside the event files, for ``fitb report``, if that is a folder and there is room."""
    if "://" not in writer.log_dir and _has_room(writer, len(json.dumps(record))):
        folder.write_record(Path(writer.log_dir), record)


def lay_out_scores(writer: SummaryWriter, prefix: str) -> None:
    """Group the scores in four charts on TensorBoard's page Custom Scalars, once a writer and prefix.

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
                title: ["Multiline", [f"^{re.escape(f'{each}/{name}')}$" for name in names]]
                for title, names in _CHARTS.items()
            }
            for each in sorted(prefixes)
        }
    )


def outbox(writer: SummaryWriter) -> Outbox:
    """What waits for room on the disk of the event files."""
    run = uuid.uuid5(uuid.NAMESPACE_URL, str(Path(writer.log_dir).absolute())).hex
    return Outbox(outbox_folder() / f"tensorboard-{run}", partial(deliver, writer=writer), background=False)


def deliver(parcel: Path, writer: SummaryWriter | None = None) -> None:
    """Add a picture that waited to the event files.

    Args:
        parcel: Folder with ``entry.json`` and the picture.
        writer: Of the run, if it still goes on.

    Raises:
        ConnectionError: If there is still no room.
    """
    import numpy as np
    from PIL import Image
    from torch.utils.tensorboard import SummaryWriter

    entry = json.loads((parcel / _ENTRY).read_text())
    picture = np.array(Image.open(parcel / _PICTURE))
    own = None if writer is not None else SummaryWriter(entry["log_dir"], filename_suffix=".fitb")
    into = writer or own
    assert into is not None
    try:
        if not _has_room(into, picture.nbytes):
            raise ConnectionError(f"no room for pictures on the disk of {entry['log_dir']}")
        into.add_image(entry["name"], picture, entry["step"], walltime=entry["time"], dataformats="HWC")
    finally:
        if own is not None:
            own.close()


def _has_room(writer: SummaryWriter, size: int) -> bool:
    folder = Path(writer.log_dir)
    return not folder.is_dir() or shutil.disk_usage(folder).free >= _ROOM_TO_LEAVE + size  # no folder: in a cloud


def _parcel(writer: SummaryWriter, name: str, picture: Picture, step: int) -> Parcel:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    entry = {"log_dir": str(Path(writer.log_dir).absolute()), "name": name, "step": step, "time": time.time()}
    return {_ENTRY: json.dumps(entry).encode(), _PICTURE: file.getvalue()}
