"""Two checks that end at once: who moves the alias, and what is recorded.

    python benchmarks/gate_races.py [pairs]

A real MLflow server with two workers, and for each pair two threads with clients of their own. Each moves the alias
`champion` to a version of its own and tags it with the promotion, as `fitb check --promote` does at its end. "before"
compares and sets without a lock; "now" is `fitb_callbacks.integrations.mlflow.registry.move_alias`.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import requests
from mlflow import MlflowClient

from fitb_callbacks.integrations.mlflow.registry import AliasMovedError, alias_holder, move_alias, note_promotion

NAME, ALIAS = "race", "champion"
Move = Callable[[MlflowClient, str, str | None], None]


@contextmanager
def server() -> Iterator[str]:
    """A server with a database of its own; its address."""
    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        command = [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--workers",
            "2",
        ]
        command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", folder]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        process = subprocess.Popen(
            command, env=environment, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            while True:
                try:
                    requests.get(f"http://127.0.0.1:{port}/health", timeout=2).raise_for_status()
                    break
                except requests.RequestException:
                    time.sleep(0.3)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def as_before(client: MlflowClient, version: str, expected: str | None) -> None:
    """Look, move, note."""
    if alias_holder(client, NAME, ALIAS) == expected:
        client.set_registered_model_alias(NAME, ALIAS, version)
        note_promotion(client, NAME, version, ALIAS, before=expected)


def as_now(client: MlflowClient, version: str, expected: str | None) -> None:
    """What a check does."""
    move_alias(client, NAME, ALIAS, version=version, expected=expected)
    note_promotion(client, NAME, version, ALIAS, before=expected)


def race(uri: str, move: Move) -> tuple[list[str], str | None]:
    """Two versions at once, from version 1: who says that it moved the alias, and where it points."""
    client = MlflowClient(uri)
    client.set_registered_model_alias(NAME, ALIAS, "1")
    won: list[str] = []
    start = threading.Barrier(2)

    def check(version: str) -> None:
        mine = MlflowClient(uri)
        start.wait()
        try:
            move(mine, version, "1")
        except AliasMovedError:
            return
        if f"fitb.promoted.{ALIAS}" in mine.get_model_version(NAME, version).tags:
            won.append(version)

    threads = [threading.Thread(target=check, args=(version,)) for version in "23"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for version in won:
        client.delete_model_version_tag(NAME, version, f"fitb.promoted.{ALIAS}")
    return won, alias_holder(client, NAME, ALIAS)


if __name__ == "__main__":
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    with server() as uri:
        client = MlflowClient(uri)
        client.create_registered_model(NAME)
        for _ in range(3):
            client.create_model_version(NAME, "s3://bucket/model", None)
        print(f"| {pairs} pairs | one winner | two winners | winner is not where the alias points | seconds a pair |")
        print("| --- | --- | --- | --- | --- |")
        for name, move in (("before", as_before), ("now", as_now)):
            began = time.perf_counter()
            found = [race(uri, move) for _ in range(pairs)]
            one = sum(len(won) == 1 for won, _ in found)
            two = sum(len(won) == 2 for won, _ in found)
            false = sum(holder not in won for won, holder in found)
            seconds = (time.perf_counter() - began) / pairs
            print(f"| {name} | {one} | {two} | {false} | {seconds:.2f} |", flush=True)
