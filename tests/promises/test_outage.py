"""A real MLflow server that stops, freezes or refuses: training goes on, and everything arrives, once."""

import json
import re
import signal
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import mlflow
import pytest
import requests
from lightning.pytorch import Callback
from lightning.pytorch.loggers import MLFlowLogger
from mlflow import MlflowClient

from fitb_callbacks import FillInBlanksCallback
from fitb_callbacks.integrations.outbox import Outbox
from mlflow_server import Server
from mlflow_store import new_store
from quick import fitb
from small_module import SmallModule

MOST_REQUESTS, ONCE = 12, 16
"""That an epoch takes, and a run, with its two pictures before training."""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """One server for the tests of this file, as starting it takes most of their time."""
    server = Server(tmp_path_factory.mktemp("mlflow-server"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def server(store):
    if store.process is None:
        store.start()
    return store


class Quiet(SmallModule):
    """Logs nothing through Lightning's own logger, which blocks or raises while the server is away."""

    def log(self, name, value, **options):
        return super().log(name, value, **options | {"logger": False})


class Waits(FillInBlanksCallback):
    """Notes how long each epoch's probe and its logging took."""

    def __init__(self, **options):
        super().__init__(**options)
        self.blocked = []

    def on_validation_epoch_end(self, trainer, pl_module):
        started = time.monotonic()
        super().on_validation_epoch_end(trainer, pl_module)
        self.blocked.append(time.monotonic() - started)


class LeavesTheRunOpen(MLFlowLogger):
    """Lightning's logger raises at the end of the fit if the server is away then, and blocks for minutes before."""

    def finalize(self, status="success"):
        pass


class At(Callback):
    """Does something when an epoch begins."""

    def __init__(self, actions):
        self.actions = actions

    def on_train_epoch_start(self, trainer, pl_module):
        self.actions.get(trainer.current_epoch, lambda: None)()


def once_sent(action):
    """Wait for what was sent so far: these epochs take a fraction of a second, less than a message on its way."""

    def act():
        deadline = time.monotonic() + 60
        while Path("fitb-outbox").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not Path("fitb-outbox").exists()
        action()

    return act


def assert_everything_is_sent():
    """At the latest a moment after training: what has piled up in an outage takes longer than the callback waits."""
    once_sent(lambda: None)()


def train(trainer, loaders, uri, actions, *, epochs=5):
    """A run with nothing but the callback's own traffic."""
    logger = LeavesTheRunOpen(experiment_name="outage", tracking_uri=uri)
    run_id = logger.run_id  # the run begins while the server is there
    probe = Waits(num_masks=4, max_overhead=None, scores="all")
    run = trainer(callbacks=[At(actions), probe], logger=logger, max_epochs=epochs)
    run.fit(Quiet(), *loaders)
    assert run.current_epoch == epochs
    assert [entry["epoch"] for entry in probe.history] == list(range(epochs))
    assert max(probe.blocked) < 30  # a call to a server that is away takes minutes
    return probe, run_id


def assert_complete(uri, run_id, probe):
    """Every epoch's scores and picture are there exactly once."""
    client = MlflowClient(uri)
    for key in ("coverage", "seconds"):
        metrics = client.get_metric_history(run_id, f"fitb/{key}")
        assert [(metric.step, metric.value) for metric in sorted(metrics, key=lambda metric: metric.step)] == [
            (entry["step"], entry[key]) for entry in probe.history
        ]
        times = [metric.timestamp for metric in sorted(metrics, key=lambda metric: metric.step)]
        assert times == sorted(times)
        assert times[-1] / 1000 < time.time()
    files = [Path(file.path).name for file in client.list_artifacts(run_id, "images")]
    assert {name.split("+")[0] for name in files} >= {"A glance at fitb~prototypes"}
    for key in {name.split("+")[0] for name in files}:
        for ending in (".png", ".webp"):
            steps = [int(name.split("+")[2]) for name in files if name.split("+")[0] == key and name.endswith(ending)]
            of_all_epochs = key.endswith(("~timeline", "~at_a_glance"))
            assert sorted(steps) == [0, *(entry["step"] for entry in probe.history if not of_all_epochs)]
    run = client.get_run(run_id)
    assert run.data.tags["mlflow.loggedImages"] == "True"
    assert run.data.params["fitb.num_masks"] == "4"


def waiting_steps(run_id):
    """The steps whose scores or pictures wait."""
    parcels = Path("fitb-outbox", run_id).iterdir()
    return sorted({json.loads((parcel / "entry.json").read_text())["step"] for parcel in parcels})


class RemovedMeanwhile(type(Path())):
    """A folder that another thread finds empty, and removes, right after it was made."""

    removals = 3

    def mkdir(self, *arguments, **options):
        super().mkdir(*arguments, **options)
        if RemovedMeanwhile.removals:
            RemovedMeanwhile.removals -= 1
            self.rmdir()


def test_an_outbox_that_is_removed_meanwhile_takes_the_next_parcel(tmp_path):
    delivered = []
    box = Outbox(RemovedMeanwhile(tmp_path) / "run", lambda parcel: delivered.append((parcel / "number").read_text()))
    for number in range(3):
        box.put({"number": str(number).encode()})
    assert box.settle(30) == RemovedMeanwhile.removals == 0
    assert delivered == ["0", "1", "2"]


@pytest.mark.slow
def test_with_a_healthy_server_nothing_waits(server, trainer, loaders):
    probe, run_id = train(trainer, loaders, server.uri, {}, epochs=3)
    assert_everything_is_sent()
    assert_complete(server.uri, run_id, probe)


@pytest.mark.slow
def test_an_epoch_takes_few_requests(server, trainer, loaders, monkeypatch):
    """Real requests of a real run, counted on their way, but for those that ask whether the server is there."""
    send, sent = requests.Session.send, []

    def counted(self, request, **options):
        if threading.current_thread().name == "fitb-outbox" and not request.url.endswith("/health"):
            sent.append((request.method, urlsplit(request.url).path))
        return send(self, request, **options)

    monkeypatch.setattr(requests.Session, "send", counted)
    epochs = 4
    probe, run_id = train(trainer, loaders, server.uri, {}, epochs=epochs)
    assert_everything_is_sent()
    assert_complete(server.uri, run_id, probe)
    assert len(sent) <= MOST_REQUESTS * epochs + ONCE, Counter(
        re.sub(r"/[0-9a-f]{32}/.*", "", path) for _, path in sent
    )


@pytest.mark.parametrize(("wait", "left"), [("60", 0), ("0", 1), ("soon", 0)])
def test_how_long_the_end_waits_is_a_setting(tmp_path, caplog, wait, left):
    attempts = []

    def away_at_first(parcel):
        attempts.append(parcel)
        if len(attempts) < 3:
            raise ConnectionError("away")

    box = Outbox(tmp_path / "run", away_at_first)
    box.put({"note": b""})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FITB_OUTBOX_WAIT", wait)
        assert box.settle() == left
    assert ("FITB_OUTBOX_WAIT must be" in caplog.text) == (wait == "soon")
    while any(thread.name == "fitb-outbox" for thread in threading.enumerate()):
        time.sleep(0.01)


@pytest.mark.slow
def test_stopped_for_some_epochs(server, trainer, loaders):
    probe, run_id = train(trainer, loaders, server.uri, {1: once_sent(server.stop), 4: server.start})
    assert_everything_is_sent()
    assert_complete(server.uri, run_id, probe)


@pytest.mark.slow
def test_stopped_for_good_then_sent_by_command(server, trainer, loaders, caplog):
    probe, run_id = train(trainer, loaders, server.uri, {2: once_sent(server.stop)})
    assert "send with: fitb resend" in caplog.text
    assert waiting_steps(run_id) == [23, 31, 39]  # of three epochs
    failed = fitb("resend")
    assert failed.exit_code == 1
    assert "Not sent" in failed.output
    assert waiting_steps(run_id) == [23, 31, 39]
    server.start()
    sent = fitb("resend")
    assert sent.exit_code == 0
    assert re.fullmatch(r"✓ \d+ parcels sent", sent.output.strip())
    assert_complete(server.uri, run_id, probe)
    assert "Nothing waits" in fitb("resend").output


@pytest.mark.slow
def test_frozen(server, trainer, loaders):
    """It accepts connections and never answers."""
    probe, run_id = train(trainer, loaders, server.uri, {1: once_sent(lambda: server.signal(signal.SIGSTOP))}, epochs=4)
    assert waiting_steps(run_id) == [15, 23, 31]
    server.signal(signal.SIGCONT)
    done = fitb("resend")
    assert done.exit_code == 0, done.output
    assert_complete(server.uri, run_id, probe)


@pytest.mark.slow
def test_refusing(server, trainer, loaders):
    """Everything is answered with 500, as by a proxy whose server is broken."""

    class Refuse(BaseHTTPRequestHandler):
        def answer(self):
            self.send_error(500)

        do_GET = do_POST = do_PUT = answer  # noqa: N815

        def log_message(self, *args):
            pass

    def replace():
        nonlocal proxy
        server.stop()
        proxy = ThreadingHTTPServer(("127.0.0.1", server.port), Refuse)
        threading.Thread(target=proxy.serve_forever, daemon=True).start()

    proxy = None
    probe, run_id = train(trainer, loaders, server.uri, {1: once_sent(replace)}, epochs=3)
    assert waiting_steps(run_id) == [15, 23]
    proxy.shutdown()
    proxy.server_close()
    server.start()
    assert fitb("resend").exit_code == 0
    assert_complete(server.uri, run_id, probe)


@pytest.mark.slow
def test_what_was_sent_by_half_is_not_doubled(server, trainer, loaders):
    """A process that dies between sending and forgetting sends again."""
    probe, run_id = train(trainer, loaders, server.uri, {1: once_sent(server.stop)}, epochs=3)
    from fitb_callbacks.integrations.mlflow.sink import deliver

    server.start()
    for parcel in Path("fitb-outbox", run_id).iterdir():
        deliver(parcel)
    assert fitb("resend").exit_code == 0
    assert_complete(server.uri, run_id, probe)


def test_file_names_are_those_that_mlflow_writes(tmp_path):
    """The run page finds pictures by their names: the same as log_image's but for the last part, which is random."""
    import numpy as np

    from fitb_callbacks.integrations.mlflow.sink import picture_parcel

    uri = new_store(tmp_path / "mlflow.db")
    client = MlflowClient(uri)
    run = client.create_run(client.create_experiment("names", artifact_location=(tmp_path / "files").as_uri()))
    picture = np.zeros((30, 400, 3), np.uint8)
    ours = picture_parcel(uri, run.info.run_id, "fitb/prototypes", picture, 7)
    timestamp = json.loads(ours["entry.json"])["timestamp"]
    client.log_image(run.info.run_id, picture, key="A glance at fitb/prototypes", step=7, timestamp=timestamp)
    theirs = {Path(file.path).name for file in client.list_artifacts(run.info.run_id, "images")}

    def without_uuid(name):
        parts = name.split("+")
        return [*parts[:5], parts[5][36:], *parts[6:]]

    assert sorted(map(without_uuid, theirs)) == sorted(without_uuid(name) for name in ours if name != "entry.json")
    assert mlflow.__version__ >= "3"


@pytest.mark.slow
def test_what_the_server_refuses_does_not_hold_up_the_rest(server, tmp_path):
    from fitb_callbacks.integrations.mlflow.sink import outbox, scores_parcel

    run_id = MlflowClient(server.uri).create_run("0").info.run_id
    box = outbox(server.uri, run_id)
    for key in ("first", "x" * 300, "last"):
        box.put(scores_parcel(server.uri, run_id, {key: 1.0}, step=0))
    assert box.settle(60) == 1
    assert set(MlflowClient(server.uri).get_run(run_id).data.metrics) == {"first", "last"}
