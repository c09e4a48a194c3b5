"""Say at once, in one line, that there is no MLflow server or database at an address."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fitb_callbacks.utils.messages import mask_password, on_one_line

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["check_health", "check_store", "reachable_client"]

_HINT = "name your tracking server with --tracking-uri or MLFLOW_TRACKING_URI"
_HEALTH_TIMEOUT = 2.0  # seconds


def reachable_client(address: str) -> MlflowClient:
    """A client of a tracking server or a local store that is there.

    Args:
        address: Of the server, or of a database.

    Raises:
        ConnectionError: If the server does not answer.
        FileNotFoundError: If it is local, and not there.
        ValueError: If it is no such address, or a damaged database.
    """
    import mlflow
    from sqlalchemy.exc import SQLAlchemyError

    check_store(address)
    check_health(address)
    try:
        return mlflow.MlflowClient(address)
    except SQLAlchemyError as error:
        raise ValueError(
            f"{mask_password(address)} is no database of MLflow, or damaged: {_first_cause(error)}"
        ) from error
    except mlflow.MlflowException as error:
        raise ValueError(
            f"a tracking server must be like http://host:5000 or sqlite:///mlflow.db; got {mask_password(address)!r}"
        ) from error


def check_store(address: str) -> None:
    """Raise unless a local store exists: MLflow would make an empty one of a mistyped address, or of none at all.

    Raises:
        FileNotFoundError: If it does not exist.

    Example:
        >>> check_store("sqlite:///nowhere/mlflow.db")
        Traceback (most recent call last):
        ...
        FileNotFoundError: there is no MLflow database sqlite:///nowhere/mlflow.db: name your tracking server with ...
    """
    database = address.startswith("sqlite:///")
    file = Path(address.removeprefix("sqlite:///").removeprefix("file://").partition("?")[0])
    if (database or "://" not in address.removeprefix("file://")) and not file.exists():
        kind = "database" if database else "store"
        raise FileNotFoundError(f"there is no MLflow {kind} {mask_password(address)}: {_HINT}")


def check_health(address: str) -> None:
    """Raise soon where the client's own calls would wait for minutes: in front of a server that is down or frozen.

    Raises:
        ConnectionError: If it does not answer, or says that it is ill.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    if not address.startswith(("http:", "https:")):
        return
    options = {"max_retries": 0, "timeout": _HEALTH_TIMEOUT, "raise_on_status": False}
    masked = mask_password(address)
    try:
        reply = http_request(get_default_host_creds(address), "/health", "GET", **options)
    except MlflowException as error:
        raise ConnectionError(f"the tracking server {masked} does not answer: {_first_cause(error)}") from error
    if reply.status_code >= 500:
        raise ConnectionError(f"the tracking server is ill: {masked}/health answers {reply.status_code}")


def _first_cause(error: BaseException) -> str:
    """What lies below the errors of the libraries between: "Connection refused", for example."""
    while (below := error.__cause__ or error.__context__) is not None:
        error = below
    return on_one_line(getattr(error, "strerror", None) or str(error))
