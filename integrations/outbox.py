"""A folder in which parcels wait until they are delivered, and a thread that delivers them."""

from __future__ import annotations

import itertools
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from fitb_callbacks.utils.messages import one_line

__all__ = ["Outbox", "Parcel", "outbox_folder"]

_log = logging.getLogger(__name__)

Parcel = Mapping[str, bytes]
"""File name to content."""

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0
_MOST_REMOVALS = 100
_WAIT_AT_THE_END = 5.0
_counter = itertools.count()


class Outbox:
    """Parcels for one destination, delivered in order and kept on disk until they are.

    `put` only writes to disk. A daemon thread delivers; while it fails, it tries again after pauses of 1 to 30 seconds.
    It ends when nothing is left. What the process leaves behind is found by the next Outbox of the same folder.

    Args:
        folder: Where parcels wait; made when needed, removed when empty, with its parent.
        deliver: Called with a parcel's folder. It must tolerate a parcel that was already delivered. It raises
            ConnectionError where nothing can be delivered now, any other error where this parcel is refused.
        background: False delivers within `put`, which then raises what ``deliver`` raises.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp()) / "waiting" / "run"
        >>> box = Outbox(folder, lambda parcel: print((parcel / "note.txt").read_text()), background=False)
        >>> box.put({"note.txt": b"hello"})
        hello
        >>> box.waiting()
        []
    """

    def __init__(self, folder: Path, deliver: Callable[[Path], None], *, background: bool = True) -> None:
        self.folder = folder
        self._deliver = deliver
        self._background = background
        self._thread: threading.Thread | None = None
        self._starting_or_ending = threading.Lock()
        self._closing = threading.Event()
        self._complained = False
        self._deadline = 0.0  # of the last attempts, when closing

    def put(self, parcel: Parcel) -> None:
        """Write a parcel to disk, whole or not at all, and see that it is delivered.

        Raises:
            OSError: If it cannot be written.
        """
        unfinished = self._new_folder()
        try:
            for name, content in parcel.items():
                (unfinished / name).write_bytes(content)
            # Names sort by time, then by order within this process.
            unfinished.rename(self.folder / f"{time.time_ns():020d}-{next(_counter):06d}")
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        if self._background:
            self._closing.clear()
            self._start()
        else:
            self.deliver_all()

    def _new_folder(self) -> Path:
        for _ in range(_MOST_REMOVALS):
            with suppress(FileNotFoundError):  # whoever delivers removed the empty outbox before this is in it
                self.folder.mkdir(parents=True, exist_ok=True)
                return Path(tempfile.mkdtemp(prefix=".", dir=self.folder))
        raise FileNotFoundError(f"{self.folder} is removed as often as it is made")

    def waiting(self) -> list[Path]:
        """Parcels that are not delivered, oldest first."""
        try:
            return sorted(path for path in self.folder.iterdir() if not path.name.startswith("."))
        except FileNotFoundError:  # nothing was ever put into it, or all is delivered
            return []

    def deliver_all(self) -> None:
        """Deliver what waits, in this thread.

        Raises:
            ConnectionError: If ``deliver`` raises it: that parcel and those after it go on waiting.
            Exception: The first other error that ``deliver`` raised; what it refused goes on waiting, the rest is sent.
        """
        refusals: list[Exception] = []
        for parcel in self.waiting():
            try:
                self._deliver(parcel)
            except ConnectionError:
                raise
            except Exception as error:  # noqa: BLE001 - raised below
                if parcel.exists():  # if not, someone else has delivered it meanwhile
                    refusals.append(error)
                continue
            _remove(parcel)
        for folder in (self.folder, self.folder.parent):
            try:
                folder.rmdir()
            except OSError:  # not empty, or not there
                break
        if refusals:
            raise refusals[0]

    def settle(self, seconds: float | None = None) -> int:
        """Wait until everything is delivered or the time is up; then the thread makes at most one more attempt.

        Args:
            seconds: How long to wait, at least 0. None takes ``$FITB_OUTBOX_WAIT``, by default 5.

        Returns:
            Number of parcels that are left, which is also logged.
        """
        seconds = _wait_at_the_end() if seconds is None else seconds
        self._deadline = time.monotonic() + seconds
        self._closing.set()  # ends a pause between attempts
        if not self._background and self.waiting():
            try:
                self.deliver_all()
            except Exception as error:  # noqa: BLE001 - it goes on waiting
                self._complain(error)
        if (thread := self._thread) is not None:
            thread.join(seconds)
        left = len(self.waiting())
        if left:
            _log.warning(
                "%d parcels are not delivered yet; they wait in %s; what stays there, send with: fitb resend %s",
                left,
                self.folder,
                self.folder.parent,
            )
        return left

    def _start(self) -> None:
        with self._starting_or_ending:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="fitb-outbox", daemon=True)
                self._thread.start()

    def _work(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            with self._starting_or_ending:
                if not self.waiting():
                    self._thread = None
                    return
            closing = self._closing.is_set()
            try:
                self.deliver_all()
                pause = _FIRST_PAUSE
            except Exception as error:  # noqa: BLE001 - whatever it is, it is tried again
                self._complain(error)
                left = self._deadline - time.monotonic()
                if closing and left <= pause:
                    self._thread = None
                    return
                if closing:
                    time.sleep(pause)
                else:
                    self._closing.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)

    def _complain(self, error: Exception) -> None:
        if not self._complained:
            self._complained = True
            reason = one_line(error)  # without passwords
            _log.warning("could not deliver, will try again; meanwhile parcels wait in %s: %s", self.folder, reason)


def _wait_at_the_end() -> float:
    """Seconds that a training's end waits: ``$FITB_OUTBOX_WAIT``."""
    text = os.environ.get("FITB_OUTBOX_WAIT", "")
    try:
        seconds = float(text or _WAIT_AT_THE_END)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < threading.TIMEOUT_MAX:
        _log.warning("FITB_OUTBOX_WAIT must be a number of seconds, at least 0; got %r: 5 are taken", text)
        return _WAIT_AT_THE_END
    return seconds


def _remove(parcel: Path) -> None:
    """Remove a parcel at once, so that nobody finds half of it; someone else may have delivered and removed it, too."""
    removed = parcel.with_name(f".{parcel.name}")
    with suppress(OSError):
        parcel.rename(removed)
    shutil.rmtree(removed, ignore_errors=True)


def outbox_folder() -> Path:
    """Where outboxes are: ``$FITB_OUTBOX``, by default ``fitb-outbox`` in the working directory."""
    return Path(os.environ.get("FITB_OUTBOX", "fitb-outbox")).absolute()
