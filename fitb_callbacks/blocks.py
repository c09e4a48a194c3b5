"""Work on all pairs of masks and images in blocks that fit into memory."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from fitb_callbacks.updates import Classify

__all__ = ["block_of", "in_blocks", "in_chunks", "is_out_of_memory", "usual_chunk_size"]


def in_blocks(work: Callable[[Tensor, slice], None], indices: Tensor, num_images: int, chunk_size: int) -> int:
    """Call ``work(indices, rows)`` for blocks of masks and images that together cover all pairs once.

    A block holds at most chunk_size pairs. If one runs out of memory, the chunk is halved, down to single images; what
    it was halved to is returned.

    Args:
        work: What is done with some masks, by index, and some images, by row.
        indices: Of the masks, shape ``(K,)``; may be empty.
        num_images: How many images there are.
        chunk_size: At least 1.

    Example:
        >>> import torch
        >>> in_blocks(lambda masks, rows: print(masks.tolist(), rows), torch.arange(3), 2, chunk_size=4)
        [0, 1] slice(0, 2, None)
        [2] slice(0, 2, None)
        4
    """

    def run(indices: Tensor, rows: slice) -> None:
        nonlocal chunk_size
        size = len(indices) * (rows.stop - rows.start)
        if size > chunk_size:
            step = min(chunk_size, rows.stop - rows.start)
            for start in range(rows.start, rows.stop, step):
                part = slice(start, min(start + step, rows.stop))
                for some in indices.split(max(1, chunk_size // (part.stop - part.start))):
                    run(some, part)
            return
        try:
            work(indices, rows)
            return
        except (RuntimeError, MemoryError) as error:
            if size == 1 or not is_out_of_memory(error):
                raise
        chunk_size = max(1, size // 2)  # outside the handler, so that the failed block's tensors are free by now
        run(indices, rows)

    if len(indices):  # with fewer masks than ranks, some have none
        run(indices, slice(0, num_images))
    return chunk_size


def block_of(indices: Tensor, num_images: int, chunk_size: int) -> tuple[Tensor, slice]:
    """The first block of `in_blocks`.

    Example:
        >>> import torch
        >>> block_of(torch.arange(9), 2, chunk_size=5)
        (tensor([0, 1]), slice(0, 2, None))
    """
    rows = slice(0, min(num_images, chunk_size))
    return indices[: max(1, chunk_size // rows.stop)], rows


def in_chunks(classify: Classify, images: Tensor, chunk_size: int) -> Tensor:
    """Logits of images without gradients, on the images' device, float32 at least."""
    parts: list[Tensor] = []

    def work(_: Tensor, rows: slice) -> None:
        parts.append(classify(images[rows]).float())

    with torch.no_grad():
        in_blocks(work, torch.zeros(1, dtype=torch.long), len(images), chunk_size)
        return torch.cat(parts)


def usual_chunk_size(images: Tensor) -> int:
    """Chunks of about as many pixels as a CPU's cache, or a GPU's occupancy, wants: a power of two."""
    values = 2**17 if images.device.type == "cpu" else 2**23
    wanted = min(max(values // math.prod(images.shape[1:]), 16), 1024)
    return int(2 ** math.floor(math.log2(wanted)))


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out, on any device."""
    # torch has a type of its own for accelerators only; the CPU's allocator raises a RuntimeError with these words.
    return isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)
