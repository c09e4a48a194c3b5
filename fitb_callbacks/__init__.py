"""Fill in the blanks: see what an image classifier learned, at every epoch of its training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fitb_callbacks._version import __version__
from fitb_callbacks.probing.probe import FillInBlanks
from fitb_callbacks.probing.result import FillInBlanksResult

if TYPE_CHECKING:
    from fitb_callbacks.callback.callback import FillInBlanksCallback

__all__ = ["FillInBlanks", "FillInBlanksCallback", "FillInBlanksResult", "__version__"]


def __getattr__(name: str) -> Any:
    # The probe works without Lightning: only the callback's own import brings it in.
    if name == "FillInBlanksCallback":
        from fitb_callbacks.callback.callback import FillInBlanksCallback

        return FillInBlanksCallback
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
