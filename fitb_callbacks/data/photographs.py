"""Four photographs of things that ImageNet has classes for, from the package scikit-image (CC0)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch.utils.data import TensorDataset

__all__ = ["load_photographs"]

_SIDE = 224
_PHOTOGRAPHS = {
    "chelsea.png": (285, "Egyptian cat"),
    "coffee.png": (967, "espresso"),
    "camera.png": (872, "tripod"),
    "rocket.jpg": (657, "missile"),
}
_NUM_CLASSES = 1000


def load_photographs() -> TensorDataset:
    """A cat, a cup of coffee, a photographer and a rocket, as networks for ImageNet take them.

    Images are ``(3, 224, 224)``, the middle of each picture, values ``(value - 127) / 128``; labels are ImageNet's. The
    data set has the 1,000 names ``classes``, of which the four have words and the others a number.

    Raises:
        ModuleNotFoundError: If scikit-image or Pillow are not installed.

    Example:
        >>> photographs = load_photographs()
        >>> photographs.tensors[0].shape, photographs.classes[967]
        (torch.Size([4, 3, 224, 224]), 'espresso')
    """
    try:
        import skimage
        from PIL import Image
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"the photographs need the package {error.name}: pip install fitb-callbacks[photos]", name=error.name
        ) from error
    folder = Path(skimage.__file__).parent / "data"
    images = []
    for name in _PHOTOGRAPHS:
        picture = Image.open(folder / name).convert("RGB")
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        box = (left, top, left + side, top + side)
        values = np.array(picture.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC, box=box))
        images.append((torch.from_numpy(values).permute(2, 0, 1).float() - 127) / 128)
    photographs = TensorDataset(torch.stack(images), torch.tensor([label for label, _ in _PHOTOGRAPHS.values()]))
    names = dict(_PHOTOGRAPHS.values())
    photographs.classes = [names.get(label, f"class {label}") for label in range(_NUM_CLASSES)]  # type: ignore[attr-defined]
    return photographs
