"""A password in a tracking server's address: sent to the server, written nowhere."""

import logging
import threading
from base64 import b64encode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fitb_callbacks.cli import app
from fitb_callbacks.integrations.mlflow import addresses, sink
from fitb_callbacks.integrations.outbox import Outbox

EXPECTED = "Basic " + b64encode(b"me:geheim").decode()


@pytest.fixture
def server():
    """A tracking server that is ill, and notes who asks."""

    class Ill(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.headers.get("Authorization"))
            self.send_error(503)

        def log_message(self, *_):
            pass

    asked = []
    running = ThreadingHTTPServer(("127.0.0.1", 0), Ill)
    threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield f"127.0.0.1:{running.server_port}", asked
    running.shutdown()
    running.server_close()


def test_it_is_neither_in_the_outbox_nor_in_a_warning(server, tmp_path, monkeypatch, caplog):
    host, asked = server
    box = Outbox(tmp_path / "box" / "run", sink.deliver)
    with caplog.at_level(logging.WARNING):
        box.put(sink.scores_parcel(f"http://me:geheim@{host}", "run", {"fitb/coverage": 1.0}, 0))
        assert box.settle() == 1
    assert set(asked) == {EXPECTED}
    written = [path.read_text() for path in Path("box").rglob("*") if path.is_file()]
    assert len(written) == 1
    assert "geheim" not in written[0] + caplog.text
    assert f"http://***@{host}" in caplog.text

    monkeypatch.setattr(addresses, "_known", {})  # another process
    asked.clear()
    said = CliRunner().invoke(app, ["resend", "box"]).output
    assert "is not kept: set MLFLOW_TRACKING_URI to the whole address" in said
    assert asked == []
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:geheim@{host}")
    said = CliRunner().invoke(app, ["resend", "box"]).output
    assert asked == [EXPECTED]
    assert f"http://***@{host}/health answers 503" in said
    assert "geheim" not in said


def test_a_check_that_fails_does_not_say_it(server):
    host, asked = server
    done = CliRunner().invoke(app, ["check", "models:/digits/1", "--tracking-uri", f"http://me:geheim@{host}"])
    assert done.exit_code == 2
    assert asked == [EXPECTED]
    assert "geheim" not in done.output
    assert f"http://***@{host}/health answers 503" in done.output
