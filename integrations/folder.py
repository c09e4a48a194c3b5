"""Pictures and records in a plain folder: for loggers that keep a run in one, and for `fitb report`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fitb_callbacks.plotting.tiles import Picture

__all__ = ["RECORDS", "record_name", "write_picture", "write_record"]

RECORDS = "fitb-records"
"""The folder in a run's folder that holds its records."""


def write_picture(folder: Path, name: str, picture: Picture, step: int) -> None:
    """Write ``folder/name/step-00000007.png``, replaced if it exists.

    Args:
        folder: Of the run; made if it does not exist.
        name: What the picture is called, as ``prefix/name``.
        picture: Height x width x 3, uint8.
        step: The step at which the epoch's metrics are logged.
    """
    from PIL import Image

    path = folder / name / f"step-{step:08d}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write a record of `fitb_callbacks.integrations.record.make_record`, whole or not at all, replaced if it exists.

    Args:
        folder: Of the run; made if it does not exist.
        record: Of one probe.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_record(folder, {"prefix": "fitb", "settings": {"masking": "random"}, "step": 7})
        >>> [path.relative_to(folder).as_posix() for path in folder.rglob("*.json")]
        ['fitb-records/fitb-random-00000007.json']
    """
    path = folder / RECORDS / record_name(record)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_text(json.dumps(record), encoding="utf-8")
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def record_name(record: Mapping[str, Any]) -> str:
    """The file name of a record: the same for the same probe, so that writing it twice leaves one."""
    return f"{record['prefix'].replace('/', '~')}-{record['settings']['masking']}-{record['step']:08d}.json"
