"""The receiver of MLflow's webhooks, asked by clients that are in order, forged, slow or wrong."""

import hashlib
import hmac
import importlib.util
import json
import socket
import ssl
import subprocess
import threading
import time
from argparse import Namespace
from base64 import b64encode
from pathlib import Path

import pytest
import requests

EXAMPLE = Path(__file__).parents[2] / "examples" / "registry_webhook.py"
SECRET = "shared"
CREATED = {"entity": "model_version", "action": "created", "data": {"name": "digits", "version": "7"}}


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("registry_webhook", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.PATIENCE = 0.3
    return module


@pytest.fixture
def serving(example):
    """A function that starts a receiver; returns its address and the commands that it starts."""
    servers = []

    def serve(**options):
        commands = []
        chosen = {"rules": "rules.yaml", "promote": "champion", "port": 0, "certificate": None, "key": None}
        server = example.serve(Namespace(**chosen | options), SECRET, commands.append)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(server)
        return ("127.0.0.1", server.server_port), commands

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def signed(message, *, delivery="1", sent=None, secret=SECRET):
    """Body and headers as MLflow sends them."""
    body = message if isinstance(message, bytes) else json.dumps(message).encode()
    sent = str(int(time.time()) if sent is None else sent)
    mac = hmac.new(secret.encode(), f"{delivery}.{sent}.".encode() + body, hashlib.sha256)
    return body, {
        "X-MLflow-Delivery-Id": delivery,
        "X-MLflow-Timestamp": sent,
        "X-MLflow-Signature": f"v1,{b64encode(mac.digest()).decode()}",
    }


def post(address, body, headers, **options):
    host, port = address
    scheme = "https" if options else "http"
    return requests.post(f"{scheme}://{host}:{port}", data=body, headers=headers, timeout=10, **options).status_code


def raw(address, text, *, wait=5.0):
    """What a client that writes its own request gets back."""
    with socket.create_connection(address, timeout=wait) as client:
        client.sendall(text)
        return client.recv(1000).decode()


def test_a_new_version_is_checked_once(serving):
    address, commands = serving()
    body, headers = signed(CREATED)
    assert post(address, body, headers) == 202
    assert post(address, body, headers) == 409, "a replay"
    assert post(address, *signed(CREATED, delivery="2")) == 202
    assert [command[2:5] for command in commands] == [["fitb_callbacks", "check", "models:/digits/7"]] * 2


@pytest.mark.parametrize(
    ("message", "options", "status"),
    [
        (CREATED, {"secret": "guessed"}, 401),
        (CREATED, {"sent": int(time.time()) - 3600}, 401),
        (CREATED, {"sent": int(time.time()) + 3600}, 401),
        (CREATED, {"sent": "soon"}, 401),
        (CREATED, {"sent": "²"}, 401),
        (b"not JSON", {}, 400),
        (b"[1]", {}, 400),
        (b"[" * 100_000, {}, 400),
        ({"entity": "model_version", "action": "created", "data": 3}, {}, 400),
        ({"entity": "registered_model", "action": "created", "data": {}}, {}, 202),
        ({**CREATED, "data": {"name": "--promote", "version": "7"}}, {}, 202),
        ({**CREATED, "data": {"name": "a/b", "version": "7"}}, {}, 202),
        ({**CREATED, "data": {"name": "digits", "version": "7 --waive"}}, {}, 202),
    ],
)  # fmt: skip
def test_what_is_not_a_new_version_starts_nothing_and_is_answered(serving, message, options, status):
    address, commands = serving()
    body, headers = signed(message, **options)
    headers = {key: value.encode() for key, value in headers.items()}
    assert post(address, body, headers) == status
    assert commands == []


@pytest.mark.parametrize(
    ("length", "status"), [("-1", 411), ("many", 411), ("", 411), ("99999999999", 413), ("9" * 40, 411), ("50", 408)]
)
def test_a_wrong_length_is_answered(serving, length, status):
    address, _ = serving()
    assert f" {status} " in raw(address, f"POST / HTTP/1.1\r\nContent-Length: {length}\r\n\r\n12".encode())


def test_an_error_inside_is_an_answer(serving, example, monkeypatch, capsys):
    address, _ = serving()
    monkeypatch.setattr(example, "check_command", lambda body, options: 1 / 0)
    assert post(address, *signed(CREATED)) == 500
    monkeypatch.undo()
    assert post(address, *signed(CREATED)) == 202, "it may be sent again"


def test_clients_that_say_nothing_hold_up_nobody(serving):
    address, commands = serving()
    silent = [socket.create_connection(address) for _ in range(20)]
    started = time.monotonic()
    assert post(address, *signed(CREATED)) == 202
    assert time.monotonic() - started < 5
    assert len(commands) == 1
    for client in silent:
        client.settimeout(5)
        assert client.recv(10) == b"", "it was cut off"
        client.close()


def test_a_client_that_drips_is_cut_off(serving):
    """One byte at a time is never too slow for a single read."""
    address, _ = serving()
    with socket.create_connection(address, timeout=5) as client, pytest.raises(OSError, match=r"Broken|reset"):  # noqa: PT012
        client.sendall(b"POST / HTTP/1.1\r\nX: ")
        for _ in range(100):
            time.sleep(0.05)
            client.sendall(b"x")


def test_it_speaks_tls_and_unfinished_handshakes_hold_up_nobody(serving, tmp_path):
    certificate, key = tmp_path / "host.pem", tmp_path / "host.key"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate]
    subprocess.run(command, check=True, capture_output=True)
    address, commands = serving(certificate=certificate, key=key)
    silent = socket.create_connection(address)
    assert post(address, *signed(CREATED), verify=str(certificate)) == 202
    assert len(commands) == 1
    with pytest.raises((ssl.SSLError, requests.exceptions.SSLError)):
        post(address, *signed(CREATED), verify=True)
    silent.close()
