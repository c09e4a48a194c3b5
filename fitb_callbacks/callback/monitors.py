"""Keep EarlyStopping, ModelCheckpoint and schedulers from failing on a score that is not there yet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lightning.pytorch import Trainer

__all__ = ["Monitors"]


class Monitors:
    """The other callbacks and schedulers of a Trainer that monitor one of the callback's scores.

    A score that is not defined, or not there because a probe failed, is not logged at all: nothing that was made up is
    ever monitored. Lightning raises for a missing key. So EarlyStopping and schedulers are told to wait for it
    (``strict=False``), and ModelCheckpoint keeps the latest weights meanwhile, as without ``monitor=``. Everything is
    as before once the score is there.

    Args:
        trainer: Whose callbacks they are.
        prefix: What the scores' keys begin with.

    Example:
        >>> from lightning.pytorch.callbacks import EarlyStopping
        >>> stopping = EarlyStopping("fitb/structure")
        >>> monitors = Monitors(Trainer(callbacks=[stopping], logger=False, accelerator="cpu"), "fitb")
        >>> monitors.wait_for_missing()
        ['EarlyStopping waits for fitb/structure']
        >>> stopping.strict
        False
        >>> monitors.restore()
        >>> stopping.strict
        True
    """

    def __init__(self, trainer: Trainer, prefix: str) -> None:
        self._trainer, self._prefix = trainer, prefix
        self._changed: dict[tuple[int, str], tuple[Any, Any]] = {}  # watcher and attribute to its value before

    def keys(self) -> list[str]:
        """The scores that are monitored."""
        return [key for _, key in self._watching()]

    def wait_for_missing(self) -> list[str]:
        """Relax those whose score is missing now, restore the others; returns what was relaxed, in words."""
        lines = []
        for watcher, key in self._watching():
            if key in self._trainer.callback_metrics:
                self._restore(watcher)
            elif (line := self._relax(watcher, key)) is not None:
                lines.append(line)
        return lines

    def restore(self) -> None:
        """Put back all that was changed."""
        for watcher in {id(watcher): watcher for watcher, _ in self._changed.values()}.values():
            self._restore(watcher)

    def _relax(self, watcher: Any, key: str) -> str | None:
        name = type(getattr(watcher, "scheduler", watcher)).__name__
        if hasattr(watcher, "save_top_k"):
            relaxed, line = self._set(watcher, "monitor", None), f"{name} keeps the latest weights until there is {key}"
        else:
            relaxed, line = self._set(watcher, "strict", False), f"{name} waits for {key}"
        return line if relaxed else None

    def _set(self, watcher: Any, name: str, value: Any) -> bool:
        if (id(watcher), name) in self._changed or getattr(watcher, name, value) == value:
            return False
        self._changed[id(watcher), name] = watcher, getattr(watcher, name)
        setattr(watcher, name, value)
        return True

    def _restore(self, watcher: Any) -> None:
        for name in ("monitor", "strict"):
            if (found := self._changed.pop((id(watcher), name), None)) is not None:
                setattr(watcher, name, found[1])

    def _watching(self) -> Iterator[tuple[Any, str]]:
        watchers = [*self._trainer.callbacks, *self._trainer.lr_scheduler_configs]  # type: ignore[attr-defined]
        for watcher in watchers:
            _, key = self._changed.get((id(watcher), "monitor"), (watcher, getattr(watcher, "monitor", None)))
            if isinstance(key, str) and key.startswith(f"{self._prefix}/"):
                yield watcher, key
