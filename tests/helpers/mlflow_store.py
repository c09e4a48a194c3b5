"""MLflow's database as it is when new, made once a session: its migrations take seconds."""

import sqlite3
import tempfile
from functools import cache
from pathlib import Path

from mlflow import MlflowClient


def new_store(path):
    """Write an empty database there; returns its address."""
    Path(path).write_bytes(_empty())
    return f"sqlite:///{path}"


@cache
def _empty():
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "mlflow.db")
        MlflowClient(f"sqlite:///{file}").search_experiments()
        with sqlite3.connect(file) as database:
            database.execute("DELETE FROM experiments")  # whoever opens it makes the default one, with its own folder
        database.close()
        return file.read_bytes()
