"""Read ``.npz`` files that may be hostile: no pickle, and no more memory than their size explains."""

from __future__ import annotations

import io
import os
import zipfile
from typing import IO

import numpy as np
from numpy.typing import NDArray

__all__ = ["read_npz"]

_ALWAYS_ALLOWED = 2**28  # bytes: 256 MiB
_MOST_COMPRESSION = 50  # black images compress a thousandfold, photographs twofold, MNIST tenfold
_MOST_ARRAYS = 1000
_LONGEST_HEADER = 2**16  # bytes; NumPy would read what a header says it is long


def read_npz(file: str | os.PathLike[str] | IO[bytes]) -> dict[str, NDArray[np.generic]]:
    """All arrays of an ``.npz`` file.

    Args:
        file: A path, or an open binary file.

    Raises:
        ValueError: If the file would take more memory than 256 MiB and than 50 times its size, or holds an array that
            is not of plain numbers or text.
        Exception: Anything else that NumPy raises for a damaged file.

    Example:
        >>> import io
        >>> file = io.BytesIO()
        >>> np.savez_compressed(file, images=np.zeros((2, 4, 4)))
        >>> read_npz(file)["images"].shape
        (2, 4, 4)
    """
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        largest = max(_ALWAYS_ALLOWED, _MOST_COMPRESSION * sum(member.compress_size for member in members))
        if len(members) > _MOST_ARRAYS:
            raise ValueError(f"it holds {len(members)} arrays; at most {_MOST_ARRAYS} are read")
        _check_size(sum(member.file_size for member in members), largest)
        total = 0
        for member in members:
            with archive.open(member) as array:
                total += max(member.file_size, _announced_size(io.BytesIO(array.read(_LONGEST_HEADER))))
        _check_size(total, largest)
    if hasattr(file, "seek"):
        file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _check_size(total: int, largest: int) -> None:
    if total > largest:
        raise ValueError(f"it would take {total} bytes of memory, more than {largest}, which its size explains")


def _announced_size(file: IO[bytes]) -> int:
    """Bytes of an array by its header, which NumPy believes when it makes room for it."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    size = dtype.itemsize
    for side in shape:
        size *= side
    return int(size)
