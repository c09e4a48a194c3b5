"""Make a judge from a source of trusted images that is named on a command line."""

from __future__ import annotations

from pathlib import Path

from fitb_callbacks.data.sources import ImageSet, Standardization, open_images
from fitb_callbacks.scoring.judges.ridge import RidgeJudge

__all__ = ["open_judge"]


def open_judge(
    source: str, probed: ImageSet, *, data_dir: Path | None = None, standardization: Standardization | None = None
) -> RidgeJudge:
    """Make a ridge judge from all images in a source of trusted images.

    Args:
        source: As for `open_images`.
        probed: The probe images, for their shape and classes; the source must hold every class.
        data_dir: As for `open_images`.
        standardization: What the probe images went through, too.

    Raises:
        FileNotFoundError: If the source does not exist.
        ValueError: As for `open_images`, and if the images do not fit those that are probed.

    Example:
        >>> from fitb_callbacks.data.sources import open_images
        >>> open_judge("mnist", open_images("mnist", per_class=1)).counts.sum().item()
        1000.0
    """
    shape = tuple(probed.images.shape[1:])
    trusted = open_images(source, per_class=2**31, image_shape=shape, data_dir=data_dir)
    images = trusted.images if standardization is None else standardization(trusted.images)
    num_classes = 1 + int(max(trusted.labels.max(), probed.labels.max()))
    return RidgeJudge.from_reference((images, trusted.labels), image_shape=shape, num_classes=num_classes)
