"""What goes wrong in the course of a training: said once, and survived or raised."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from lightning.pytorch.utilities import rank_zero_warn

from fitb_callbacks.utils.validation import check_choice

__all__ = ["ErrorPolicy"]

_log = logging.getLogger(__name__)


class ErrorPolicy:
    """Says each thing once in a training run, however often it happens.

    Args:
        on_error: What an error does that training could survive: "warn" or "raise".

    Example:
        >>> errors = ErrorPolicy(on_error="raise")
        >>> with errors.survive("batch", "a batch was left out"):
        ...     1 / 0
        Traceback (most recent call last):
        ...
        ZeroDivisionError: division by zero
        >>> errors.on_error = "warn"
        >>> with errors.survive("batch", "a batch was left out"):
        ...     1 / 0
        >>> errors.topics
        {'batch'}
    """

    def __init__(self, on_error: str) -> None:
        check_choice("on_error", on_error, ("warn", "raise"))
        self.on_error = on_error
        self.topics: set[str] = set()
        """What has been warned of."""

    def warn_once(self, topic: str, message: str, *, trace: bool = False) -> None:
        """Say it, unless something was said on the same topic before; with the traceback of the error in hand."""
        if topic in self.topics:
            return
        self.topics.add(topic)
        rank_zero_warn(f"FillInBlanksCallback: {message}")
        if trace:
            _log.error("FillInBlanksCallback: %s", message, exc_info=True)

    @contextmanager
    def survive(self, topic: str, message: str) -> Iterator[None]:
        """Run a block; an error in it is said, or raised if that was asked for."""
        try:
            yield
        except Exception:
            if self.on_error == "raise":
                raise
            self.warn_once(topic, message, trace=True)
