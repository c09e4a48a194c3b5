"""Where a command computes: on which device, in which precision, and together with which other processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

if TYPE_CHECKING:
    import torch

__all__ = ["Device", "Here", "Precision", "PrecisionName", "computing", "is_first_process"]


class PrecisionName(StrEnum):
    """Lightning's names for the precisions in which a model can be probed whatever its weights are stored in."""

    full = "32-true"
    half = "16-mixed"
    bfloat = "bf16-mixed"


Device = Annotated[
    str, typer.Option(help="Where models run: auto takes a CUDA device if there is one; or cpu, cuda, cuda:1, mps.")
]
Precision = Annotated[
    PrecisionName, typer.Option(help="Of the model's forward passes, as in Lightning: that of its training.")
]


class Here(NamedTuple):
    """What a process of a command needs to know of itself.

    Attributes:
        device: Where its models run.
        share: Its rank and the number of processes, as for `fitb_callbacks.FillInBlanks.probe`.
    """

    device: torch.device
    share: tuple[int, int]


def is_first_process() -> bool:
    """Whether this is the process that writes and speaks; the only one, if there are no others."""
    return _share()[0] == 0


@contextmanager
def computing(device: str = "auto", precision: str = PrecisionName.full) -> Iterator[Here]:
    """Run a block on a device and in a precision, together with the other processes that ``torchrun`` started.

    What fails in one process fails in all. They talk over gloo, whatever the device: little is exchanged, and it needs
    no device for each process.

    Args:
        device: "auto", or a device of torch.
        precision: One of `PrecisionName`.

    Raises:
        ValueError: If the device is not there.
        fitb_callbacks.utils.distributed.OtherRankError: If another process failed.

    Example:
        >>> with computing("cpu") as here:
        ...     print(here)
        Here(device=device(type='cpu'), share=(0, 1))
    """
    import torch

    from fitb_callbacks.utils.devices import device_named
    from fitb_callbacks.utils.distributed import all_or_none

    share = _share()
    number = share[1]
    if number > 1:
        torch.distributed.init_process_group("gloo")
    try:
        with all_or_none(number):
            chosen = device_named(device, place=int(os.environ.get("LOCAL_RANK", "0")))
            dtype = torch.float16 if precision == PrecisionName.half else torch.bfloat16
            with torch.autocast(chosen.type, dtype, enabled=precision != PrecisionName.full):
                yield Here(chosen, share)
    finally:
        if number > 1:
            torch.distributed.destroy_process_group()


def _share() -> tuple[int, int]:
    """Rank and number of the processes that ``torchrun`` started."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
