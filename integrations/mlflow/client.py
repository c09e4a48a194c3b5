"""Connect to MLflow's tracking server with short timeouts and one-line errors."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fitb_callbacks.integrations.mlflow.reachable import reachable_client
from fitb_callbacks.utils.messages import one_line

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["connected", "environment", "raise_if_away", "server_message"]


@contextmanager
def connected(tracking_uri: str | None = None) -> Iterator[MlflowClient]:
    """Connect to a tracking server for the block; afterwards the process's own tracking server is set again.

    By default MLflow's calls wait for minutes for a server that is down. Here each call is tried twice, unless
    ``MLFLOW_HTTP_REQUEST_MAX_RETRIES`` says otherwise.

    Args:
        tracking_uri: Address of the server; None takes the process's own (``MLFLOW_TRACKING_URI``).

    Raises:
        ConnectionError: If the server does not answer.
        FileNotFoundError: If it is a local store that is not there.
        ValueError: If it is no address of a server.
    """
    import mlflow

    before = mlflow.get_tracking_uri()
    address = tracking_uri or before
    defaults = {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    }
    with environment({name: value for name, value in defaults.items() if name not in os.environ}):
        client = reachable_client(address)
        mlflow.set_tracking_uri(address)
        try:
            yield client
        finally:
            mlflow.set_tracking_uri(before)


def raise_if_away(error: Exception) -> None:
    """Raise ConnectionError if an error means that the server cannot be reached; otherwise do nothing."""
    import requests

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, (ConnectionError, requests.ConnectionError, requests.Timeout)):
            raise ConnectionError(f"the tracking server does not answer: {one_line(error)}") from error
        cause = cause.__cause__ or cause.__context__


def server_message(error: Exception) -> str:
    """Return the server's answer in one line of at most 300 characters."""
    message = " ".join(str(getattr(error, "message", error)).split())
    return message[:300]


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
