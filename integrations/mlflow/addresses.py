"""Addresses of tracking servers on disk: without user and password, which come back when they are needed."""

from __future__ import annotations

import os

from fitb_callbacks.utils.messages import mask_password

__all__ = ["whole_address", "without_password"]

_HIDDEN = "://***@"
_known: dict[str, str] = {}  # what this process has hidden


def without_password(address: str) -> str:
    """An address that can be written down; `whole_address` gives it back in the same process.

    Example:
        >>> without_password("https://me:secret@host:5000")
        'https://***@host:5000'
    """
    masked = mask_password(address)
    _known[masked] = address
    return masked


def whole_address(address: str) -> str:
    """An address that was written down, with what was hidden: as this process knows it, or ``MLFLOW_TRACKING_URI``.

    Raises:
        ValueError: If neither knows it.

    Example:
        >>> whole_address(without_password("https://me:secret@host:5000"))
        'https://me:secret@host:5000'
    """
    if _HIDDEN not in address:
        return address
    for whole in (_known.get(address), os.environ.get("MLFLOW_TRACKING_URI")):
        if whole is not None and mask_password(whole) == address:
            return whole
    raise ValueError(f"the password of {address} is not kept: set MLFLOW_TRACKING_URI to the whole address")
