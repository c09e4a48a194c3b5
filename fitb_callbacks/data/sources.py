"""Read labelled images from a folder, an ``.npz`` file, a function or a known name."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fitb_callbacks.data.batches import batches_of, read_batch
from fitb_callbacks.data.datasets import LOADERS
from fitb_callbacks.data.selection import ImageSelection, one_label_each, usual_per_class
from fitb_callbacks.utils.arrays import read_npz
from fitb_callbacks.utils.imports import import_from_string
from fitb_callbacks.utils.messages import describe, one_line
from fitb_callbacks.utils.rng import isolate_rng
from fitb_callbacks.utils.validation import check_number, check_number_between

__all__ = ["ImageSet", "Standardization", "check_scale", "open_images"]

_BEYOND = 0.25  # of [0, 1]: no pixel is there by rounding or resizing
_MOST_PIXELS = 2**26  # of a picture: 8,192 x 8,192


@dataclass(frozen=True)
class ImageSet:
    """The first images of each class.

    Attributes:
        images: Shape ``(N, C, H, W)``, class by class.
        labels: Integers, ascending, shape ``(N,)``.
        class_names: One name a class, or None.
        independent: Whether an image may have several labels; ``labels`` has one of each image's own.
    """

    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...] | None
    independent: bool = False


@dataclass(frozen=True)
class Standardization:
    """What a model's training did to pixels in [0, 1]: less a mean, by a standard deviation.

    Attributes:
        mean: One value a channel, or one for all.
        std: Likewise; greater than 0.

    Raises:
        ValueError: If a value is not a number, or not greater than 0.

    Example:
        >>> Standardization((0.5,), (0.25,))(torch.ones(1, 1, 1, 1)).item()
        2.0
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        for value in self.mean:
            check_number("mean", value)
        for value in self.std:
            check_number_between("std", value, 0, math.inf)

    def __call__(self, images: Tensor) -> Tensor:
        """Standardise images ``(N, C, H, W)``.

        Raises:
            ValueError: If they have another number of channels.
        """
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, images.shape[1]):
                raise ValueError(
                    f"{name} must hold one value, or one for each of {images.shape[1]} channels; got {values}"
                )
        mean, std = (torch.tensor(values, dtype=images.dtype).view(-1, 1, 1) for values in (self.mean, self.std))
        return (images - mean) / std


def check_scale(images: Tensor, source: str, known: Tensor, owner: str) -> None:
    """Raise ValueError if one of two sets of images is pixels in [0, 1], and the other clearly is not.

    Args:
        images: Of the source, of any shape.
        source: What it is, for the error.
        known: Images as a model takes them.
        owner: Whose these are.

    Example:
        >>> pixels = torch.rand(2, 1, 4, 4)
        >>> check_scale(pixels, "photos", 0.8 * pixels, "the training")
        >>> check_scale(torch.tensor([0.0, 1.0]), "photos", torch.tensor([-1.0, 1.0]), "training")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ValueError: photos: values are from 0.00 to 1.00, those of training from -1.00 to 1.00. Add --mean and --std ...
    """
    ends = [(each.min().item(), each.max().item()) for each in (images, known)]
    pixels = [low >= 0 and high <= 1 for low, high in ends]
    beyond = [low < -_BEYOND or high > 1 + _BEYOND for low, high in ends]
    if (pixels[0] and beyond[1]) or (beyond[0] and pixels[1]):
        here, there = (f"from {low:.2f} to {high:.2f}" for low, high in ends)
        raise ValueError(
            f"{source}: values are {here}, those of {owner} {there}. Add --mean and --std as in training, or --mean 0 "
            "--std 1 if the model standardises them itself"
        )


def open_images(
    source: str,
    *,
    per_class: int | None,
    max_images: int | None = None,
    image_shape: Sequence[int] | None = None,
    data_dir: Path | None = None,
) -> ImageSet:
    """The first images of each class in a source; the same ones each time, if the source has an order.

    - **A folder** with one folder of pictures a class. Classes and files are taken in the order of their names. Values
      are in [0, 1]; pictures are grey if all are, otherwise RGB. They must be of one size, unless ``image_shape`` says
      to which they shall be resized.
    - **An .npz file** of the arrays ``images`` (or ``x``) and ``labels`` (or ``y``), and ``class_names`` if wanted.
      Images are ``(N, H, W)``, ``(N, C, H, W)`` or ``(N, H, W, C)``; bytes are divided by 255, other numbers taken as
      they are. A saved `fitb_callbacks.FillInBlanksResult` is such a file. Labels ``(N, labels)`` of 0 and 1 are
      independent of each other: each image is probed for one of its own. Where each has exactly one, they are classes.
    - **package.module:function**, called without arguments, for anything else, such as a normalisation: it returns two
      tensors, a data set or a data loader, with ``classes`` for the names if wanted. Labels may be independent, too.
    - **mnist** or **fashion-mnist**: the validation images of `fitb_callbacks.data.datasets`.

    Args:
        source: Which of these.
        per_class: Most images of one class, at least 1; None for `fitb_callbacks.data.selection.usual_per_class`.
        max_images: Most images in all; None: no limit. See `fitb_callbacks.data.selection.ImageSelection`.
        image_shape: ``(C, H, W)`` that the model takes. Pictures of a folder are converted to it; None leaves them as
            they are.
        data_dir: Folder of Fashion-MNIST's files, if it is not in the default place.

    Raises:
        FileNotFoundError: If the source does not exist.
        ValueError: If it is none of these, or holds something else than it should; the error names the file.

    Example:
        >>> chosen = open_images("mnist", per_class=2)
        >>> chosen.images.shape, chosen.labels.tolist()[:4], chosen.class_names[:2]
        (torch.Size([20, 1, 28, 28]), [0, 0, 1, 1], ('0', '1'))
    """
    if source in LOADERS:
        named = LOADERS[source](data_dir)
        opened = _Opened([named.validation.tensors[:2]], named.classes)  # type: ignore[list-item]
    elif Path(source).is_dir():
        opened = _from_folder(Path(source), per_class, image_shape)
    elif source.endswith(".npz"):
        opened = _from_npz(Path(source))
    elif ":" in source:
        opened = _from_function(source)
    else:
        raise FileNotFoundError(
            f"--data must be a folder, an .npz file, package.module:function, {' or '.join(LOADERS)}; "
            f"there is no {source!r}"
        )
    chosen = ImageSelection(per_class=per_class, max_images=max_images or 2**31)
    independent, names = opened.independent, opened.names
    for images, labels in opened.batches:
        independent = independent or (labels.ndim == 2 and bool(((labels > 0.5).sum(dim=1) != 1).any()))
        chosen.offer(*(one_label_each(images, labels) if labels.ndim == 2 else (images, labels)))
    if not len(chosen):
        raise ValueError(f"--data {source} holds no image")
    return ImageSet(chosen.images, chosen.labels, None if names is None else tuple(map(str, names)), independent)


@dataclass(frozen=True)
class _Opened:
    """What a source holds: batches of images and labels, names of the classes, and `ImageSet.independent`."""

    batches: Iterable[tuple[Tensor, Tensor]]
    names: Sequence[str] | None
    independent: bool = False


def _from_folder(folder: Path, per_class: int | None, image_shape: Sequence[int] | None) -> _Opened:
    from PIL import Image

    Image.init()
    known = set(Image.EXTENSION)
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not classes:
        raise ValueError(f"{folder} must hold one folder a class; it holds none")
    most = per_class or usual_per_class(len(classes))
    files = [
        (path, label)
        for label, part in enumerate(classes)
        for path in sorted(path for path in part.rglob("*") if path.suffix.lower() in known)[:most]
    ]
    for path, _ in files:
        if not path.resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"{path} is a link that leaves {folder}; copy the picture into the folder")
        if not path.is_file():
            raise ValueError(f"{path} is not a file")
    if empty := {part.name for part in classes} - {classes[label].name for _, label in files}:
        raise ValueError(f"{folder} must hold pictures of every class; it has none of {', '.join(sorted(empty))}")
    pictures = [_read_picture(path, image_shape) for path, _ in files]
    if any(picture.shape[0] == 3 for picture in pictures):
        pictures = [picture.expand(3, -1, -1) for picture in pictures]
    for (path, _), picture in zip(files, pictures, strict=True):
        if picture.shape != pictures[0].shape:
            (_, height, width), (_, first_height, first_width) = picture.shape, pictures[0].shape
            raise ValueError(
                f"pictures must be of one size: {files[0][0]} has {first_width} x {first_height} pixels, "
                f"{path} {width} x {height}. Resize them, or give a package.module:function that does"
            )
    labels = torch.tensor([label for _, label in files])
    return _Opened([(torch.stack(pictures), labels)], [part.name for part in classes])


def _read_picture(path: Path, image_shape: Sequence[int] | None) -> Tensor:
    """A picture as floats in [0, 1], shape ``(1, H, W)`` if it is grey, else ``(3, H, W)``."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as opened:
            if math.prod(opened.size) > _MOST_PIXELS:
                raise ValueError(f"it has {opened.width} x {opened.height} pixels; at most {_MOST_PIXELS:,} are read")
            picture: Image.Image = ImageOps.exif_transpose(opened)
            deep = picture.mode.startswith("I")  # 16 bits a pixel
            if not deep:
                picture = picture.convert("L" if picture.mode in ("1", "L", "LA", "La") else "RGB")
            if image_shape is not None:
                channels, height, width = image_shape
                if channels not in (1, 3) or (deep and channels == 3):
                    raise ValueError(f"it cannot be converted to {channels} channels")
                picture = picture if deep else picture.convert("L" if channels == 1 else "RGB")
                if picture.size != (width, height):
                    picture = picture.resize((width, height), Image.Resampling.BILINEAR)
            pixels = np.asarray(picture, dtype=np.float32) / (65535 if deep else 255)
    except Exception as error:  # decoders may raise anything
        raise ValueError(f"{path} cannot be read as a picture: {one_line(error)}") from error
    return torch.from_numpy(pixels if pixels.ndim == 3 else pixels[..., None]).permute(2, 0, 1)


def _from_npz(path: Path) -> _Opened:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        arrays = read_npz(path)
    except Exception as error:  # of zip files, arrays or pickles in it
        raise ValueError(f"{path} cannot be read as an .npz file without pickle: {one_line(error)}") from error
    pixels, labels, names = (
        next((arrays[name] for name in wanted if name in arrays), None)
        for wanted in (("images", "x"), ("labels", "y"), ("class_names", "classes"))
    )
    if pixels is None or labels is None:
        raise ValueError(
            f"{path} must hold the arrays images (or x) and labels (or y); it holds {', '.join(sorted(arrays))}"
        )
    if pixels.ndim not in (3, 4) or pixels.dtype.kind not in "uif" or not pixels.size:
        raise ValueError(
            f"images in {path} must be numbers of the shape (N, H, W), (N, C, H, W) or (N, H, W, C); "
            f"got {pixels.dtype} {pixels.shape}"
        )
    several = labels.ndim == 2 and labels.shape[1] > 1 and bool(np.isin(labels, (0, 1)).all())
    if len(labels) != len(pixels) or not (several or (labels.ndim == 1 and labels.dtype.kind in "ui")):
        raise ValueError(
            f"labels in {path} must be integers of the shape ({len(pixels)},), or 0 and 1 of the shape "
            f"({len(pixels)}, labels) where an image may have several; got {labels.dtype} {labels.shape}"
        )
    if pixels.ndim == 3:
        pixels = pixels[:, None]
    elif pixels.shape[1] not in (1, 3) and pixels.shape[3] in (1, 3):
        pixels = np.moveaxis(pixels, 3, 1)
    images = torch.from_numpy(pixels.astype(np.float32) / (255 if pixels.dtype == np.uint8 else 1))
    batch = images, torch.from_numpy(labels.astype(np.int64))
    return _Opened([batch], None if names is None else names.tolist(), _was_independent(arrays))


def _was_independent(arrays: Mapping[str, NDArray[np.generic]]) -> bool:
    """Whether the arrays are those of a saved result whose labels were independent, each image with one of its own."""
    try:
        return bool(json.loads(str(arrays["description"]))["settings"].get("independent"))
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError):  # no saved result
        return False


def _from_function(path: str) -> _Opened:
    function = import_from_string(path, argument="--data")
    if not callable(function):
        raise ValueError(f"--data must name a function; {path!r} is {describe(function)}")  # noqa: TRY004 - of the name
    try:
        with isolate_rng():
            data: Any = function()
            batches = [_read(batch) for batch in batches_of(data, name=f"what {path} returns")]
    except Exception as error:  # the user's function may raise anything
        raise ValueError(f"--data {path} gives no images: {one_line(error)}") from error
    dataset = getattr(data, "dataset", data)
    names = getattr(dataset, "classes", getattr(dataset, "class_names", None))
    return _Opened(batches, names if isinstance(names, (list, tuple)) else None)


def _read(batch: Any) -> tuple[Tensor, Tensor]:
    """Images and labels of a batch, ``(B, labels)`` where it holds images and 0 and 1 of this shape."""
    if isinstance(batch, (tuple, list)) and len(batch) == 2 and isinstance(batch[1], Tensor):
        labels = batch[1]
        if labels.ndim == 2 and labels.shape[1] > 1 and bool(((labels == 0) | (labels == 1)).all()):
            return read_batch(batch, tuple)
    return read_batch(batch)
