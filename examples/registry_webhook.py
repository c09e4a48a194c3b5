"""Start the check of each new model version: a receiver of MLflow's webhooks, for a host beside the server.

    export FITB_WEBHOOK_SECRET=...  # the same as in create_webhook
    python registry_webhook.py --rules registry_rules.yaml --certificate host.pem --key host.key

and once, to be told of new versions:

    from mlflow import MlflowClient
    from mlflow.entities.webhook import WebhookEvent

    MlflowClient().create_webhook(
        "fitb-check", "https://this-host:8089", [WebhookEvent("model_version", "created")], secret=...
    )

MLflow sends to https addresses only, so give the receiver a certificate that the server's host trusts, or put a proxy
that has one in front of it and leave the two options out: it then listens to this machine alone. docs/registry.md says
what the MLflow server needs.

A webhook cannot stop a version from being made: serve the alias, which moves only on a pass. A version that is made
while no receiver runs is not checked: run `fitb check` for it.
"""

import argparse
import base64
import hashlib
import hmac
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MAX_AGE = 300  # seconds; an older message may be a recorded one
LONGEST = 1_000_000  # bytes
PATIENCE = 10  # seconds that a client may take to send anything; three times as many for everything


class RefusedError(Exception):
    """A request that is answered with an error: its status, and why."""


class Deliveries:
    """Which messages came already. What was sent before this process began is refused, as it may have come to it."""

    def __init__(self):
        self.began = int(time.time())
        self.seen = {}
        self.lock = threading.Lock()

    def accept(self, delivery, sent):
        """Raise unless the message is new."""
        now = time.time()
        if sent < self.began or abs(now - sent) > MAX_AGE:
            raise RefusedError(401, "too old, or from the future")
        with self.lock:
            self.seen = {key: at for key, at in self.seen.items() if now - at <= MAX_AGE}
            if delivery in self.seen:
                raise RefusedError(409, "came already")
            self.seen[delivery] = sent


def check_signature(headers, body, secret):
    """Raise unless the message is from the server that knows the secret. Returns its number and time."""
    delivery, sent = headers.get("X-MLflow-Delivery-Id", ""), headers.get("X-MLflow-Timestamp", "")
    signed = f"{delivery}.{sent}.".encode() + body
    expected = "v1," + base64.b64encode(hmac.new(secret.encode(), signed, hashlib.sha256).digest()).decode()
    given = headers.get("X-MLflow-Signature", "")
    if not hmac.compare_digest(expected.encode(), given.encode()) or not re.fullmatch(r"[0-9]{1,12}", sent):
        raise RefusedError(401, "wrong signature")
    return delivery, int(sent)


def check_command(body, options):
    """The check of a new version; None for any other message."""
    try:
        message = json.loads(body)
        data = message.get("data", {})
        name, version = str(data.get("name", "")), str(data.get("version", ""))
        created = (message.get("entity"), message.get("action")) == ("model_version", "created")
    except (AttributeError, ValueError, RecursionError) as error:
        raise RefusedError(400, "not a message of MLflow") from error
    if not created or not re.fullmatch(r"[^/@:-][^/@:]*", name) or not re.fullmatch(r"[0-9]+", version):
        return None
    command = [sys.executable, "-m", "fitb_callbacks", "check", f"models:/{name}/{version}", "--rules", options.rules]
    return [*command, "--promote", options.promote] if options.promote else command


def read_body(file, length):
    """As many bytes as were announced."""
    if not re.fullmatch(r"[0-9]{1,12}", length or ""):
        raise RefusedError(411, "the length must be a number")
    if int(length) > LONGEST:
        raise RefusedError(413, "too long")
    body = file.read(int(length))
    if len(body) < int(length):
        raise RefusedError(400, "shorter than announced")
    return body


def receiver(options, secret, start):
    """A class of handlers, as http.server wants it; ``start`` is called with each command."""
    deliveries = Deliveries()

    class Receiver(BaseHTTPRequestHandler):
        timeout = PATIENCE  # of each read

        def do_POST(self):
            try:
                body = read_body(self.rfile, self.headers.get("Content-Length"))
                delivery = check_signature(self.headers, body, secret)
                command = check_command(body, options)
                deliveries.accept(*delivery)
                if command is not None:
                    start(command)
            except RefusedError as refusal:
                self.send_error(*refusal.args)
            except TimeoutError:
                self.send_error(408, "too slow")
            except Exception:
                self.send_error(500)
                raise  # http.server prints it
            else:
                self.send_response(202)  # at once: MLflow waits for the answer, not for the check
                self.send_header("Content-Length", "0")
                self.end_headers()

    return Receiver


def cut_off(connection):
    """End a connection that another thread is reading from."""
    with suppress(OSError):  # it has ended by itself
        connection.shutdown(socket.SHUT_RDWR)


class Server(ThreadingHTTPServer):
    """A thread for each connection, and no more than 32: further ones are closed."""

    daemon_threads = True
    places = threading.BoundedSemaphore(32)

    def process_request(self, request, client_address):
        if self.places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request, client_address):
        limit = threading.Timer(3 * PATIENCE, cut_off, [request])
        limit.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            limit.cancel()
            self.places.release()


def serve(options, secret, start):
    """A server that is ready to run: on all addresses with a certificate, on this machine's own without."""
    server = Server(("" if options.certificate else "127.0.0.1", options.port), receiver(options, secret, start))
    if options.certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(options.certificate, options.key)
        # the handshake is for the connection's own thread: here, a client that never ends it would hold up all others
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    return server


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rules", required=True)
    parser.add_argument("--promote", default="champion")
    parser.add_argument("--port", type=int, default=8089)
    parser.add_argument("--certificate", help="PEM file; the receiver then speaks TLS")
    parser.add_argument("--key", help="PEM file of the certificate's key")
    options = parser.parse_args()
    one_at_a_time = ThreadPoolExecutor(max_workers=1)  # a queue: each check sees the champion that the last one left

    def start(command):
        one_at_a_time.submit(subprocess.run, command, check=False)

    serve(options, os.environ["FITB_WEBHOOK_SECRET"], start).serve_forever()
