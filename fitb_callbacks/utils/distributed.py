"""Keep processes that probe together in step: an error on one is raised on all, so that none hangs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch.distributed as dist

__all__ = ["OtherRankError", "all_or_none", "all_reduce_max", "check_same", "confirm", "from_all"]

_Value = TypeVar("_Value")


class OtherRankError(RuntimeError):
    """Another process failed; its own log has the traceback."""


@contextmanager
def all_or_none(world_size: int) -> Iterator[None]:
    """Run a block on every process so that it either succeeds on all or raises on all.

    Inside, every collective operation must come after a `confirm`. A process that fails tells the others in place of
    its next `confirm`, wherever that is: they raise instead of entering a collective operation that it will never
    join. The end of the block is a `confirm`, too.

    Args:
        world_size: Number of processes in the default group; with one, nothing is done.

    Raises:
        OtherRankError: If the block failed on another process only.

    Example:
        >>> with all_or_none(world_size=1):
        ...     1 / 0
        Traceback (most recent call last):
        ...
        ZeroDivisionError: division by zero
    """
    if world_size == 1:
        yield
        return
    try:
        yield
    except OtherRankError:
        raise
    except Exception as error:
        _exchange(f"{type(error).__name__}: {error}")
        raise
    confirm()


def confirm() -> None:
    """Exchange with the other processes whether all is well.

    Raises:
        OtherRankError: If a process failed.
    """
    failures = {rank: failure for rank, failure in enumerate(_exchange(None)) if failure is not None}
    if failures:
        raise OtherRankError("; ".join(f"rank {rank} failed with {failure}" for rank, failure in failures.items()))


def from_all(value: _Value) -> list[_Value]:
    """Return what each process gives, in the order of their ranks; without a process group, only this one's.

    Args:
        value: Anything that can be pickled.

    Raises:
        OtherRankError: If a process failed.

    Example:
        >>> from_all("mine")
        ['mine']
    """
    if not (dist.is_available() and dist.is_initialized()):
        return [value]
    confirm()
    values = [value] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def all_reduce_max(values: Sequence[float], world_size: int) -> tuple[float, ...]:
    """Return the elementwise maximum over all processes.

    Args:
        values: This process's, as many as on every other.
        world_size: Number of processes in the default group.

    Raises:
        OtherRankError: If a process failed.

    Example:
        >>> all_reduce_max([1.0, 2.0], world_size=1)
        (1.0, 2.0)
    """
    return tuple(values) if world_size == 1 else tuple(map(max, zip(*from_all(values), strict=True)))


def check_same(what: str, value: object, world_size: int) -> None:
    """Raise ValueError on every process unless all have the same value.

    Args:
        what: What it is, for the error.
        value: Anything that can be pickled and compared.
        world_size: Number of processes in the default group.

    Raises:
        OtherRankError: If a process failed.

    Example:
        >>> check_same("the model", "models:/digits/1", world_size=1)
    """
    if world_size == 1:
        return
    values = from_all(value)
    if any(other != values[0] for other in values):
        raise ValueError(f"{what} must be the same for all processes; got {values}")


def _exchange(failure: str | None) -> list[str | None]:
    reports: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(reports, failure)
    return reports
