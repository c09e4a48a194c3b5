"""Run a model on many images in chunks that fit into memory, and halve the chunk when they do not."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from fitb_callbacks.models.logits import Classify

__all__ = ["in_blocks", "in_chunks", "is_out_of_memory", "usual_chunk_size"]

_OUT_OF_MEMORY = (  # in lower case
    "out of memory",  # CUDA, HIP, XPU and MPS, their runtimes and drivers
    "allocate memory",  # torch's allocator on a CPU, Linux
    "not enough memory",  # the same on Windows
    "status_alloc_failed",  # cuBLAS, cuDNN, cuSOLVER and the like
    "out_of_device_memory",  # XPU
    "invalid buffer size",  # MPS, for a single tensor that is too large
    "memoryerror",  # of another process
)


def in_blocks(work: Callable[[slice, slice], None], num_rows: int, num_columns: int, chunk_size: int) -> int:
    """Call ``work(rows, columns)`` for blocks that together cover all pairs of rows and columns once.

    A block holds at most ``chunk_size`` pairs, as many rows as possible and few columns. In a probe rows are masks and
    columns images, so that what has to be done once an image and block is done seldom. When a block runs out of
    memory, the chunk size is halved, down to single pairs.

    Args:
        work: What is done with some rows and some columns.
        num_rows: May be 0: then nothing is done.
        num_columns: At least 1.
        chunk_size: At least 1.

    Returns:
        The chunk size that the last blocks had.

    Example:
        >>> in_blocks(lambda rows, columns: print(rows, columns), 3, 2, chunk_size=4)
        slice(0, 3, None) slice(0, 1, None)
        slice(0, 3, None) slice(1, 2, None)
        4
    """

    def run(rows: slice, columns: slice) -> None:
        nonlocal chunk_size
        size = (rows.stop - rows.start) * (columns.stop - columns.start)
        if size > chunk_size:
            for some_rows in _cut(rows, chunk_size):
                for some_columns in _cut(columns, max(1, chunk_size // (some_rows.stop - some_rows.start))):
                    run(some_rows, some_columns)
            return
        try:
            work(rows, columns)
            return
        except (RuntimeError, MemoryError) as error:
            if size == 1 or not is_out_of_memory(error):
                raise
        chunk_size = max(1, size // 2)  # outside the handler, so that the failed block's tensors are free by now
        run(rows, columns)

    if num_rows:
        run(slice(0, num_rows), slice(0, num_columns))
    return chunk_size


def _cut(whole: slice, step: int) -> Iterator[slice]:
    for start in range(whole.start, whole.stop, step):
        yield slice(start, min(start + step, whole.stop))


def in_chunks(classify: Classify, images: Tensor, chunk_size: int | None = None) -> Tensor:
    """Logits of images, without gradients.

    The chunk size is halved when memory runs out, as in `in_blocks`.

    Args:
        classify: Images ``(B, C, H, W)`` to logits ``(B, classes)``.
        images: Shape ``(N, C, H, W)``, at least one.
        chunk_size: Images at once, at least 1. None takes `usual_chunk_size`.

    Returns:
        Logits ``(N, classes)``, float32.

    Example:
        >>> in_chunks(torch.nn.Flatten(), torch.zeros(5, 1, 1, 3), chunk_size=2).shape
        torch.Size([5, 3])
    """
    parts: list[Tensor] = []

    def work(_: slice, rows: slice) -> None:
        parts.append(classify(images[rows]).float())

    with torch.no_grad():
        in_blocks(work, 1, len(images), chunk_size or usual_chunk_size(images))
        return torch.cat(parts)


def usual_chunk_size(images: Tensor) -> int:
    """A chunk size for images ``(..., C, H, W)`` of this size: a power of two from 16 to 1,024.

    It suits a CPU's cache or a GPU's occupancy.
    """
    values = 2**17 if images.device.type == "cpu" else 2**23
    wanted = min(max(values // math.prod(images.shape[-3:]), 16), 1024)
    return int(2 ** math.floor(math.log2(wanted)))


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out, on any device.

    Example:
        >>> is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))
        True
        >>> is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied (1x3 and 4x5)"))
        False
    """
    # Only accelerators' own allocators raise torch's type for it; libraries and drivers raise others.
    said = str(error).lower()
    return isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)) or any(
        words in said for words in _OUT_OF_MEMORY
    )
