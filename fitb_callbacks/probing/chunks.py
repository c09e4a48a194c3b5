"""Work on all pairs of masks and images in blocks that fit into memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from fitb_callbacks.models.logits import Classify

__all__ = ["block_of", "in_blocks", "in_chunks", "is_out_of_memory", "masks_together", "usual_chunk_size"]

_MASKS_TOGETHER = 64


def in_blocks(work: Callable[[slice, slice], None], num_masks: int, num_images: int, chunk_size: int) -> int:
    """Call ``work(masks, rows)`` for blocks of masks and images that together cover all pairs once.

    A block holds at most chunk_size pairs, of as many masks as there are and few images: what is done for an image
    rather than for a pair is then done seldom. If a block runs out of memory, the chunk is halved, down to single
    pairs; what it was halved to is returned.

    Args:
        work: What is done with some masks and some images.
        num_masks: How many masks there are; may be 0.
        num_images: How many images there are.
        chunk_size: At least 1.

    Example:
        >>> in_blocks(lambda masks, rows: print(masks, rows), 3, 2, chunk_size=4)
        slice(0, 3, None) slice(0, 1, None)
        slice(0, 3, None) slice(1, 2, None)
        4
    """

    def run(masks: slice, rows: slice) -> None:
        nonlocal chunk_size
        size = (masks.stop - masks.start) * (rows.stop - rows.start)
        if size > chunk_size:
            for some in _cut(masks, chunk_size):
                for part in _cut(rows, max(1, chunk_size // (some.stop - some.start))):
                    run(some, part)
            return
        try:
            work(masks, rows)
            return
        except (RuntimeError, MemoryError) as error:
            if size == 1 or not is_out_of_memory(error):
                raise
        chunk_size = max(1, size // 2)  # outside the handler, so that the failed block's tensors are free by now
        run(masks, rows)

    if num_masks:  # with fewer masks than ranks, some have none
        run(slice(0, num_masks), slice(0, num_images))
    return chunk_size


def _cut(whole: slice, step: int) -> Iterator[slice]:
    for start in range(whole.start, whole.stop, step):
        yield slice(start, min(start + step, whole.stop))


def block_of(indices: Tensor, num_images: int, chunk_size: int) -> tuple[Tensor, slice]:
    """The first block of `in_blocks`.

    Example:
        >>> import torch
        >>> block_of(torch.arange(2), 9, chunk_size=5)
        (tensor([0, 1]), slice(0, 2, None))
    """
    masks = indices[:chunk_size]
    return masks, slice(0, min(num_images, max(1, chunk_size // len(masks))))


def masks_together(num_images: int, chunk_size: int) -> int:
    """How many masks are made at a time: few enough to take little memory, enough to take little time."""
    return max(_MASKS_TOGETHER, chunk_size // num_images)


def in_chunks(classify: Classify, images: Tensor, chunk_size: int) -> Tensor:
    """Logits of images without gradients, on the images' device, float32 at least."""
    parts: list[Tensor] = []

    def work(_: slice, rows: slice) -> None:
        parts.append(classify(images[rows]).float())

    with torch.no_grad():
        in_blocks(work, 1, len(images), chunk_size)
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
