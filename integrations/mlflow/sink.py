"""Scores and pictures in MLflow, through an outbox: a tracking server that is away does not hold up training."""

from __future__ import annotations

import io
import json
import logging
import re
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.version import Version

from fitb_callbacks.integrations.folder import RECORDS, record_name
from fitb_callbacks.integrations.mlflow.addresses import whole_address, without_password
from fitb_callbacks.integrations.mlflow.client import raise_if_away, server_message
from fitb_callbacks.integrations.mlflow.description import ARTIFACTS, VARIES, has_section, merged, page_entries, steady
from fitb_callbacks.integrations.mlflow.reachable import reachable_client
from fitb_callbacks.integrations.outbox import Outbox, Parcel, outbox_folder
from fitb_callbacks.utils.messages import mask_password

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from fitb_callbacks.integrations.record import Record
    from fitb_callbacks.plotting.tiles import Picture

__all__ = [
    "deliver",
    "files_parcel",
    "image_key",
    "log_picture",
    "outbox",
    "picture_parcel",
    "record_parcel",
    "scores_parcel",
]

_log = logging.getLogger(__name__)

_SLASH_WORKS_SINCE = Version("3.17")  # tested; the issue was reported for 3.10
_IMAGES = "images"
_SECTION = "A glance at"
"""Begins the section of the pictures: MLflow sorts sections by name, and in each puts pictures below all charts."""
_CARD = 350  # pixels: as wide as the line of parameters above it, or MLflow centres it in a square of that width
_THUMBNAIL = (512, 180)  # most pixels: a card shows 216 in height, less two lines of parameters; it shrinks wider ones
_WHOLE_RUN = ("at_a_glance", "timeline")
"""Pictures that tell of all epochs so far. MLflow opens a card at its first step, and compares runs at one step: so the
last one of these stands at step 0, in place of the one before."""
_NAMES = uuid.UUID("7b3ad3f6-2b3f-4f0c-9f0e-2f6c5f0d8f11")  # any constant: it makes file names repeatable


@cache
def outbox(tracking_uri: str, run_id: str) -> Outbox:
    """What waits to be sent to a run: a folder of its own in ``$FITB_OUTBOX``, by default ``fitb-outbox`` here.

    Over HTTP, a thread sends; a local store gets everything at once.
    """
    return Outbox(outbox_folder() / run_id, deliver, background=_is_remote(tracking_uri))


def scores_parcel(tracking_uri: str, run_id: str, scores: Mapping[str, float], step: int) -> Parcel:
    """Scores of one step, with the time at which they were made.

    They are linked to MLflow's active model, if there is one (``mlflow.set_active_model``).
    """
    from mlflow import get_active_model_id

    return _parcel(tracking_uri, run_id, step, {"scores": dict(scores), "model_id": get_active_model_id()})


def files_parcel(tracking_uri: str, run_id: str, folder: str, files: Mapping[str, bytes]) -> Parcel:
    """Files for a folder among the run's artifacts, which replace those of the same name."""
    return {**_parcel(tracking_uri, run_id, 0, {"artifact_path": folder}), **files}


def picture_parcel(tracking_uri: str, run_id: str, name: str, picture: Picture, step: int) -> Parcel:
    """A picture that the run page shows under Model metrics, above the charts, with a slider over the steps.

    The files are those that ``MlflowClient.log_image`` would write: the picture and its thumbnail, with key, step and
    time in their names. The names depend on nothing else, so that sending the files twice leaves one picture. The
    thumbnail is what a card shows: in the middle of a square, of which it cuts off the bottom. So it is a white square
    itself, with the picture at its top.

    "at_a_glance" and "timeline" tell of all epochs so far: each replaces the one before, at step 0, where a card opens.

    Args:
        tracking_uri: Address of the store.
        run_id: The run.
        name: What the picture is called; "fitb/prototypes" is shown as "prototypes" of "A glance at fitb".
        picture: Height x width x 3, uint8.
        step: Step of the slider.
    """
    from PIL import Image

    image = Image.fromarray(picture)
    scale = min(1.0, *(most / side for most, side in zip(_THUMBNAIL, image.size, strict=True)))
    small = image.resize([max(1, int(side * scale)) for side in image.size], Image.Resampling.LANCZOS)
    side = max(small.width, _CARD)
    thumbnail = Image.new("RGB", (side, side), "white")
    thumbnail.paste(small, ((side - small.width) // 2, 0))
    parcel = _parcel(tracking_uri, run_id, step, {})
    key, timestamp = image_key(f"{_SECTION} {name}").replace("/", "~"), json.loads(parcel[_ENTRY])["timestamp"]
    if name.rpartition("/")[2] in _WHOLE_RUN:
        step, timestamp = 0, 0
    stem = f"{key}+step+{step}+timestamp+{timestamp}+{uuid.uuid5(_NAMES, f'{run_id}/{key}/{step}')}"
    return {**parcel, f"{stem}.png": _encoded(image, "PNG"), f"{stem}+compressed.webp": _encoded(thumbnail, "WEBP")}


def log_picture(tracking_uri: str, run_id: str, name: str, picture: Picture, step: int) -> None:
    """Send such a picture at once.

    Raises:
        ConnectionError: If the server cannot be reached.
        Exception: If it refuses the picture.
    """
    with tempfile.TemporaryDirectory() as folder:
        for file, content in picture_parcel(tracking_uri, run_id, name, picture, step).items():
            Path(folder, file).write_bytes(content)
        deliver(Path(folder))


def record_parcel(tracking_uri: str, run_id: str, record: Record) -> dict[str, bytes]:
    """A record of a probe, among the run's artifacts, for ``fitb report``, and what the run's page says of it."""
    content = {"artifact_path": RECORDS, "page": page_entries(record)}
    parcel = _parcel(tracking_uri, run_id, record["step"], content)
    return {**parcel, record_name(record): json.dumps(record).encode()}


_ENTRY = "entry.json"

_tagged: set[tuple[str, str]] = set()  # runs that this process has tagged as holding images
_other_values: set[str] = set()  # runs of which it has said that their parameters are others


def _parcel(tracking_uri: str, run_id: str, step: int, content: Mapping[str, object]) -> dict[str, bytes]:
    entry = {
        "tracking_uri": without_password(tracking_uri),
        "run_id": run_id,
        "step": step,
        "timestamp": time.time_ns() // 10**6,
    }
    return {_ENTRY: json.dumps({**entry, **content}).encode()}


def deliver(parcel: Path) -> None:
    """Send a parcel. Sending it again changes nothing: metrics keep their time stamp, pictures their names.

    Args:
        parcel: Folder with ``entry.json`` and files, if any.

    Raises:
        ConnectionError: If the server cannot be reached.
        FileNotFoundError: If its store is local, and gone.
        ValueError: If it refuses this parcel.
    """
    from mlflow.exceptions import MlflowException

    entry = json.loads((parcel / _ENTRY).read_text())
    uri = whole_address(entry["tracking_uri"])
    try:
        _send(reachable_client(uri), entry, sorted(path for path in parcel.iterdir() if path.name != _ENTRY))
    except MlflowException as error:
        raise_if_away(error)
        raise ValueError(f"the tracking server {mask_password(uri)} refuses it: {server_message(error)}") from error


def _send(client: MlflowClient, entry: Mapping[str, Any], files: Sequence[Path]) -> None:
    """What `deliver` does, once it is known that the server is there."""
    from mlflow.entities import Metric
    from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_IMAGES

    uri, run_id = client.tracking_uri, entry["run_id"]
    model_id = entry.get("model_id")
    metrics = [
        Metric(key, value, entry["timestamp"], entry["step"], model_id=model_id, run_id=run_id if model_id else None)
        for key, value in entry.get("scores", {}).items()
    ]
    if metrics:
        client.log_batch(run_id, metrics=metrics)
    artifact_path = entry.get("artifact_path", _IMAGES)
    for path in files:
        client.log_artifact(run_id, str(path), artifact_path)
    if files and artifact_path == _IMAGES and (uri, run_id) not in _tagged:
        client.set_tag(run_id, MLFLOW_LOGGED_IMAGES, True)
        _tagged.add((uri, run_id))
    if "page" in entry:
        _write_page(client, run_id, entry["page"])


def _write_page(client: MlflowClient, run_id: str, page: Mapping[str, Any]) -> None:
    """Write description, tags and parameters; what others wrote there stays."""
    from mlflow.entities import Param, RunTag
    from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

    run = client.get_run(run_id)
    artifacts = f"#/experiments/{run.info.experiment_id}/runs/{run_id}/artifacts"
    text = page["text"].replace(ARTIFACTS, artifacts)
    before = run.data.tags.get(MLFLOW_RUN_NOTE, "")
    description = merged(before, page["section"], text)
    tags = {**page["tags"], MLFLOW_RUN_NOTE: description}
    params = _new_params(run_id, page, run.data.params, probed_before=has_section(before, page["section"]))
    client.log_batch(
        run_id,
        tags=[RunTag(name, value) for name, value in tags.items()],
        params=[Param(name, value) for name, value in params.items()],
    )


def _new_params(
    run_id: str, page: Mapping[str, Any], there: Mapping[str, str], *, probed_before: bool
) -> dict[str, str]:
    """The parameters to write: MLflow changes none, so a second fit with other settings is told of, once."""
    params, defaults = page.get("params", {}), page.get("defaults", {})
    others = [
        f"{name}={value} (was {there.get(name, 'the default')})"
        for name, value in {**defaults, **params}.items()
        if name in there or (probed_before and name in params)
        if steady(there.get(name, "")) != steady(value) and not name.endswith(f".{VARIES}")
    ]
    if others and run_id not in _other_values:
        _other_values.add(run_id)
        _log.warning(
            "the run's parameters stay those of its first fit, as MLflow changes none; this one probes with %s",
            ", ".join(others),
        )
    return {} if probed_before else {name: value for name, value in params.items() if name not in there}


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


def _is_remote(tracking_uri: str) -> bool:
    return tracking_uri.startswith(("http:", "https:", "databricks"))


def _encoded(image: object, file_format: str) -> bytes:
    file = io.BytesIO()
    image.save(file, format=file_format)  # type: ignore[attr-defined]
    return file.getvalue()
