"""Scripts in processes of their own, without the ten seconds that each would need to import everything.

A server process imports the large libraries once; every script runs in a fork of it, as it would in a new process.
"""

import atexit
import ctypes
import multiprocessing
import multiprocessing.forkserver
import os
import runpy
import signal
import sys
import tempfile
from pathlib import Path
from subprocess import CompletedProcess, TimeoutExpired

import pytest

LIBRARIES = ["torch", "lightning.pytorch", "lightning.pytorch.cli", "mlflow.pytorch", "mlflow.cli", "sklearn.datasets"]
LIBRARIES += ["tensorboard.compat", "torch.utils.tensorboard", "torchmetrics.classification", "typer", "rich", "PIL"]
PACKAGE = ["fitb_callbacks.callback.callback", "fitb_callbacks.cli", "fitb_callbacks.gate.registry"]

forks = multiprocessing.get_context("forkserver")
forks.set_forkserver_preload([*LIBRARIES, *PACKAGE, "mlxtend.data", "pytest"])


class Warm:
    """A running script, in a session of its own and in the current folder. What it says goes to two files."""

    def __init__(self, script, *arguments, environment=None, folder=None):
        self._folder = tempfile.TemporaryDirectory()
        self._said = [Path(self._folder.name, stream) for stream in ("stdout", "stderr")]
        for path in self._said:
            path.touch()
        environment = dict(os.environ if environment is None else environment)
        self.args = [str(script), *map(str, arguments)]
        self._process = forks.Process(target=_run, args=(self.args, environment, folder or Path.cwd(), self._said))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("OMP_NUM_THREADS", "1")  # of the server, and so of all its forks
            multiprocessing.forkserver.ensure_running()
        self._process.start()
        self.pid = self._process.pid

    def wait(self, timeout=250):
        """Its exit status, negative if a signal killed it, and what it said: as of `subprocess.run`."""
        self._process.join(timeout)
        said = [path.read_text(encoding="utf-8", errors="replace") for path in self._said]
        self._folder.cleanup()  # left to the garbage collector, it would warn in the middle of another test
        status = self._process.exitcode
        if status is None:
            self._process.kill()
            self._process.join()
        self._process.close()
        if status is None:
            raise TimeoutExpired(self.args, timeout, *said)
        return CompletedProcess(self.args, status, *said)


def run(script, *arguments, environment=None, timeout=250):
    """Run a Python file, or an installed module given as ``-m name``, in the current folder to its end."""
    return Warm(script, *arguments, environment=environment).wait(timeout)


def _run(arguments, environment, folder, said):
    """In the fork: what `python script arguments` would do."""
    os.setsid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: to end with the server, and so with the tests
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for stream, path in enumerate(said, start=1):
        os.dup2(os.open(path, os.O_WRONLY), stream)
    module = arguments[0] == "-m"
    sys.argv = arguments[1:] if module else arguments
    try:
        if module:
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        else:
            sys.path.insert(0, str(Path(arguments[0]).parent))
            runpy.run_path(arguments[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # noqa: SLF001 - multiprocessing leaves these out
