"""Options that several commands take."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fitb_callbacks.probing.settings import MaskingName

__all__ = [
    "DATA_HELP", "AllowPickle", "ClassPath", "DataDir", "DataSet", "ImagesPerClass", "MaskRatio", "Masking",
    "MaxImages", "NumMasks", "PatchSize", "Reference", "Seed",
]  # fmt: skip

DATA_HELP = "mnist, fashion-mnist, a folder with one folder a class, an .npz file, or package.module:function"


class DataSet(StrEnum):
    """Names of `fitb_callbacks.data.datasets.LOADERS`."""

    mnist = "mnist"
    fashion_mnist = "fashion-mnist"


ClassPath = Annotated[str, typer.Option("--class", help="The checkpoint's module, as package.module:Class.")]
AllowPickle = Annotated[
    bool, typer.Option("--allow-pickle", help="Load checkpoints that hold more than tensors: runs code in them.")
]
DataDir = Annotated[Path | None, typer.Option(help="Folder of Fashion-MNIST's four .gz files.")]
Reference = Annotated[
    str | None,
    typer.Option(help=f"Images whose class means judge the prototypes, best trusted ones: {DATA_HELP}."),
]
ImagesPerClass = Annotated[
    int | None, typer.Option(min=1, help="Probe images of each class; by default 4, or as many as make 40 in all.")
]
MaxImages = Annotated[int, typer.Option(min=1, help="Most probe images in all.")]
Masking = Annotated[MaskingName, typer.Option(help="How patches are hidden.")]
NumMasks = Annotated[int, typer.Option(min=1, help="Masks an image.")]
MaskRatio = Annotated[float, typer.Option(help="Share of the patches that a random mask hides.")]
PatchSize = Annotated[int | None, typer.Option(help="In pixels; by default about 14 patches on the shorter side.")]
Seed = Annotated[int, typer.Option(help="Of the masks.")]
