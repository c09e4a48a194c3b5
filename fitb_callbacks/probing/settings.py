"""The settings of a probe: their choices, and their types as keywords."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypedDict

__all__ = [
    "FillName",
    "MaskingName",
    "Normalization",
    "ProbeSettings",
    "SharedSettings",
    "TargetName",
    "UpdateName",
]

MaskingName = Literal["random", "progressive"]
UpdateName = Literal["gradient", "bfgs", "ascent", "none"]
Normalization = Literal["rms", "max_abs", "min_max", "z_score"]
FillName = Literal["ascent"]
TargetName = Literal["label", "predicted"]


class SharedSettings(TypedDict, total=False):
    """Keywords of `fitb_callbacks.probing.probe.FillInBlanks` but for ``masking``, of which the callback takes several.

    For functions that pass settings on: ``def f(**settings: Unpack[SharedSettings])``.
    """

    mask_ratio: float
    patch_size: int | None
    num_masks: int
    tolerance: float | None
    adjust: bool
    gentler: bool
    num_steps: int
    update: UpdateName
    bfgs_steps: int
    ascent_steps: int
    normalize: Normalization | None
    binarize: float | None
    fill: FillName | None
    baseline: float | Sequence[float] | Literal["low"] | None
    low: float | Sequence[float] | None
    high: float | Sequence[float] | None
    target: TargetName
    seed: int
    chunk_size: int | None


class ProbeSettings(SharedSettings, total=False):
    """Keywords of `fitb_callbacks.probing.probe.FillInBlanks`, which says what they mean; all can be left out."""

    masking: MaskingName
