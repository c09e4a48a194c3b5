"""Record a training run's probe, so that a later probe can repeat it."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fitb_callbacks.data.sources import ImageSet
from fitb_callbacks.probing.probe import FillInBlanks
from fitb_callbacks.probing.result import FillInBlanksResult
from fitb_callbacks.scoring.judges import StreamedJudge, judge_from_state
from fitb_callbacks.scoring.judges.base import Judge
from fitb_callbacks.utils.arrays import read_npz

__all__ = [
    "IMAGES_FILE",
    "JUDGE_FILE",
    "SETTINGS_FILE",
    "TrainingRecord",
    "images_digest",
    "read_record",
    "write_record",
]

SETTINGS_FILE, JUDGE_FILE, IMAGES_FILE = "settings.json", "judge.npz", "images.npz"
_MOST_BYTES = 2**24  # of the images: a hundred in colour of 100 x 100 pixels are kept, of 224 x 224 not
_FORMAT = "fitb-callbacks training 1"


@dataclass(frozen=True)
class TrainingRecord:
    """What a training run's probe was.

    Attributes:
        settings: The probe's settings as they were given.
        resolved: The same with its defaults resolved, as in a result.
        images_per_class: Most probe images of each class; None for the usual number of them.
        max_images: Most probe images in all.
        images: Digest of images and labels, see `images_digest`.
        judge: The judge, if it was one that learned from images.
        data: The images themselves, as the model took them; None where they were too large to be kept.
    """

    settings: Mapping[str, Any]
    resolved: Mapping[str, Any]
    images_per_class: int | None
    max_images: int
    images: str
    judge: StreamedJudge | None
    data: ImageSet | None = None


def write_record(
    probe: FillInBlanks,
    result: FillInBlanksResult,
    judge: Judge | None,
    *,
    images_per_class: int | None,
    max_images: int,
) -> dict[str, bytes]:
    """A training run's probe as files by name, without pickle: JSON, and judge and images as ``.npz``.

    Images of more than 16 MiB in all are left out.

    Args:
        probe: The probe.
        result: What it found.
        judge: Its judge; only one that learned from images is kept, and no module in it.
        images_per_class: Most probe images of each class; None for the usual number of them.
        max_images: Most probe images in all.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
        >>> probe = FillInBlanks(num_masks=8)
        >>> result = probe.probe(model, torch.rand(3, 1, 4, 4), torch.arange(3))
        >>> files = write_record(probe, result, None, images_per_class=1, max_images=10)
        >>> read_record(files).settings["num_masks"]
        8
    """
    content = {
        "format": _FORMAT,
        "settings": asdict(probe),
        "resolved": dict(result.settings),
        "images_per_class": images_per_class,
        "max_images": max_images,
        "images": images_digest(result.images, result.labels),
    }
    files = {SETTINGS_FILE: json.dumps(content, indent=1).encode()}
    if isinstance(judge, StreamedJudge) and getattr(judge, "features", None) is None:
        file = io.BytesIO()
        arrays: dict[str, Any] = {name: np.asarray(value) for name, value in judge.state_dict().items()}
        np.savez(file, **arrays)
        files[JUDGE_FILE] = file.getvalue()
    if (data := _images_file(result)) is not None:
        files[IMAGES_FILE] = data
    return files


def _images_file(result: FillInBlanksResult) -> bytes | None:
    if result.images.nbytes > _MOST_BYTES:
        return None
    exact = result.images.float() if result.images.dtype == torch.bfloat16 else result.images  # NumPy has no bfloat16
    arrays = {"images": exact.numpy(), "labels": result.labels.numpy()}
    if result.class_names is not None:
        arrays["class_names"] = np.array(result.class_names)
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def _read_images(content: bytes, digest: str, *, independent: bool) -> ImageSet:
    arrays = read_npz(io.BytesIO(content))
    images, labels = torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"])
    if images_digest(images, labels) != digest:
        raise ValueError("the images are not those that were probed")
    names = tuple(arrays["class_names"].tolist()) if "class_names" in arrays else None
    return ImageSet(images, labels, names, independent)


def read_record(files: Mapping[str, bytes]) -> TrainingRecord:
    """Read what `write_record` wrote.

    Raises:
        ValueError: If it is not that.
    """
    try:
        content = json.loads(files[SETTINGS_FILE])
        if content.pop("format") != _FORMAT:
            raise ValueError("unknown format")
        judge = None
        if JUDGE_FILE in files:
            arrays = read_npz(io.BytesIO(files[JUDGE_FILE]))
            state: dict[str, Any] = {name: torch.from_numpy(array) for name, array in arrays.items()}
            judge = judge_from_state({**state, "image_shape": arrays["image_shape"].tolist()})
        data = None
        if IMAGES_FILE in files:
            independent = bool(content["resolved"].get("independent"))
            data = _read_images(files[IMAGES_FILE], content["images"], independent=independent)
        return TrainingRecord(**content, judge=judge, data=data)
    except Exception as error:  # of whatever the files hold
        raise ValueError(f"the settings stored with the training run cannot be read: {error}") from error


def images_digest(images: Tensor, labels: Tensor) -> str:
    """A hash of probe images ``(N, C, H, W)`` and labels ``(N,)``.

    Example:
        >>> images_digest(torch.zeros(1, 1, 2, 2), torch.tensor([3]))[:8]
        '27460c89'
    """
    digest = hashlib.sha256(f"{tuple(images.shape)}".encode())
    for part in (images.detach().cpu().double(), labels.detach().cpu().long()):
        digest.update(part.contiguous().numpy().tobytes())
    return digest.hexdigest()
