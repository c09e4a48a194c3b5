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

from fitb_callbacks.probing.probe import FillInBlanks
from fitb_callbacks.probing.result import FillInBlanksResult
from fitb_callbacks.scoring.judges import StreamedJudge, judge_from_state
from fitb_callbacks.scoring.judges.base import Judge
from fitb_callbacks.utils.arrays import read_npz

__all__ = ["JUDGE_FILE", "SETTINGS_FILE", "TrainingRecord", "images_digest", "read_record", "write_record"]

SETTINGS_FILE, JUDGE_FILE = "settings.json", "judge.npz"
_FORMAT = "fitb-callbacks training 1"


@dataclass(frozen=True)
class TrainingRecord:
    """What a training run's probe was.

    Attributes:
        settings: The probe's settings as they were given.
        resolved: The same with its defaults resolved, as in a result.
        images_per_class: Most probe images of each class.
        max_images: Most probe images in all.
        images: Digest of images and labels, see `images_digest`.
        judge: The judge, if it was one that learned from images.
    """

    settings: Mapping[str, Any]
    resolved: Mapping[str, Any]
    images_per_class: int
    max_images: int
    images: str
    judge: StreamedJudge | None


def write_record(
    probe: FillInBlanks, result: FillInBlanksResult, judge: Judge | None, *, images_per_class: int, max_images: int
) -> dict[str, bytes]:
    """A training run's probe as files by name, without pickle: JSON, and the judge as an ``.npz``.

    Args:
        probe: The probe.
        result: What it found.
        judge: Its judge; only one that learned from images is kept, and no module in it.
        images_per_class: Most probe images of each class.
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
    return files


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
        return TrainingRecord(**content, judge=judge)
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
