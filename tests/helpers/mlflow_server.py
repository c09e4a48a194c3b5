"""A real MLflow server that tests start, freeze and kill."""

import os
import signal
import socket
import time

import requests

from mlflow_store import new_store
from warm_process import Warm


class Server:
    """`mlflow server` in a process of its own, on a port that stays the same over restarts."""

    def __init__(self, folder, *arguments, **environment):
        self.folder = folder
        self.arguments = arguments
        self.environment = environment
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process = None
        self.store = new_store(folder / "server.db")

    def start(self):
        command = ["-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", self.store, "--workers", "1"]
        command += ["--artifacts-destination", str(self.folder / "artifacts"), *self.arguments]
        quirks = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        quirks["GUNICORN_CMD_ARGS"] = "--timeout 300"  # older servers kill workers that take 30 s to start
        environment = {**os.environ, **quirks, **self.environment}
        self.process = Warm(*command, environment=environment, folder=self.folder)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                if requests.get(f"{self.uri}/health", timeout=2).ok:
                    return
            except requests.RequestException:
                time.sleep(0.3)
        raise TimeoutError("the MLflow server did not start")

    def signal(self, number):
        os.killpg(self.process.pid, number)

    def stop(self):
        if self.process is not None:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGKILL)
            self.process.wait()
            self.process = None
            while self.answers():  # its workers die a moment later
                time.sleep(0.05)

    def answers(self):
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0
