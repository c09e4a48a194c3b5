"""What to do when something goes wrong: warn once, switch the callback off, or raise."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lightning.pytorch.utilities import rank_zero_warn

from fitb_callbacks.utils.messages import one_line
from fitb_callbacks.utils.validation import check_choice

__all__ = ["ErrorPolicy", "ProbeOffError"]

_log = logging.getLogger(__name__)


class ProbeOffError(RuntimeError):
    """The callback cannot probe this run, and ``on_error="raise"`` asks to hear of it."""


class ErrorPolicy:
    """Warn once per topic and run, however often it happens.

    Args:
        on_error: What an error does that training can survive: "warn" or "raise".

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
        >>> errors.topics, errors.off
        ({'batch'}, False)
        >>> errors.switch_off("there is no image in the batches")
        >>> errors.off
        True
    """

    def __init__(self, on_error: str) -> None:
        check_choice("on_error", on_error, ("warn", "raise"))
        self.on_error = on_error
        self.spares_parts = False
        """For a diagnosis with "raise": what costs only a part, such as the judge, is a warning all the same."""
        self.topics: set[str] = set()
        """What has been warned of in this run."""
        self.off = False
        """Whether nothing is probed in this run any more."""

    def begin(self) -> None:
        """Start a run: every topic may warn again."""
        self.topics.clear()
        self.off = False

    def warn_once(self, topic: str, message: str, *, trace: bool = False) -> None:
        """Warn, unless there was a warning on the same topic in this run.

        Args:
            topic: What it is about.
            message: In full, without the callback's name.
            trace: Whether to log the traceback of the error being handled, too.
        """
        if topic in self.topics:
            return
        self.topics.add(topic)
        rank_zero_warn(f"FillInBlanksCallback: {message}")
        if trace:
            _log.error("FillInBlanksCallback: %s", message, exc_info=True)

    def switch_off(self, reason: str) -> None:
        """Probe no more in this run, and say why in one warning.

        Raises:
            ProbeOffError: With ``on_error="raise"``.
        """
        if self.off:
            return
        self.off = True
        if self.on_error == "raise":
            raise ProbeOffError(f"FillInBlanksCallback: {reason}")
        self.warn_once("off", f"off for this run: {reason}")

    @contextmanager
    def degrade(self, topic: str, what: str) -> Iterator[None]:
        """Run a block; an error in it is said in one line, or raised with ``on_error="raise"``."""
        try:
            yield
        except ProbeOffError:
            raise
        except Exception as error:
            if self.on_error == "raise" and not self.spares_parts:
                raise
            self.warn_once(topic, f"{what}: {one_line(error)}")

    @contextmanager
    def ends_all(self, reason: Callable[[Exception], str]) -> Iterator[None]:
        """Run a block; an error in it switches the callback off, or is raised with ``on_error="raise"``."""
        try:
            yield
        except Exception as error:
            if self.on_error == "raise" and not self.spares_parts:
                raise
            self.switch_off(reason(error))

    @contextmanager
    def survive(self, topic: str, message: str) -> Iterator[None]:
        """Run a block; warn of an error in it, or raise it with ``on_error="raise"``."""
        try:
            yield
        except Exception:
            if self.on_error == "raise":
                raise
            self.warn_once(topic, message, trace=True)
