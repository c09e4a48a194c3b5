"""Start the check of each new model version: a receiver of MLflow's webhooks, for a host beside the server.

    export FITB_WEBHOOK_SECRET=...  # the same as in create_webhook
    python registry_webhook.py --rules registry_rules.yaml --port 8089

and once, to be told of new versions:

    from mlflow import MlflowClient
    from mlflow.entities.webhook import WebhookEvent

    MlflowClient().create_webhook(
        "fitb-check", "https://this-host:8089", [WebhookEvent("model_version", "created")], secret=...
    )

A webhook cannot stop a version from being made: serve the alias, which moves only on a pass.
"""

import argparse
import base64
import hashlib
import hmac
import json
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer

MAX_AGE = 300  # seconds; an older message may be a recorded one
LONGEST = 1_000_000  # bytes


def is_genuine(headers, body, secret):
    """Whether the message is from the server that knows the secret, and new."""
    delivery, sent = headers.get("X-MLflow-Delivery-Id", ""), headers.get("X-MLflow-Timestamp", "")
    signed = f"{delivery}.{sent}.".encode() + body
    expected = "v1," + base64.b64encode(hmac.new(secret.encode(), signed, hashlib.sha256).digest()).decode()
    given = headers.get("X-MLflow-Signature", "")
    return hmac.compare_digest(expected, given) and abs(time.time() - int(sent)) < MAX_AGE


def check_command(message, options):
    """The check of a new version; None for any other message."""
    data = message.get("data", {})
    name, version = str(data.get("name", "")), str(data.get("version", ""))
    created = (message.get("entity"), message.get("action")) == ("model_version", "created")
    if not created or not re.fullmatch(r"[^/@:-][^/@:]*", name) or not version.isdigit():
        return None
    command = [sys.executable, "-m", "fitb_callbacks", "check", f"models:/{name}/{version}", "--rules", options.rules]
    return [*command, "--promote", options.promote] if options.promote else command


def receiver(options, secret, start):
    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(min(int(self.headers.get("Content-Length", 0)), LONGEST))
            if not is_genuine(self.headers, body, secret):
                self.send_error(401)
                return
            command = check_command(json.loads(body), options)
            if command is not None:
                start(command)
            self.send_response(202)  # at once: MLflow waits for the answer, not for the check
            self.end_headers()

    return Receiver


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rules", required=True)
    parser.add_argument("--promote", default="champion")
    parser.add_argument("--port", type=int, default=8089)
    options = parser.parse_args()
    one_at_a_time = ThreadPoolExecutor(max_workers=1)  # two checks must not move the same alias

    def start(command):
        one_at_a_time.submit(subprocess.run, command, check=False)

    handler = receiver(options, os.environ["FITB_WEBHOOK_SECRET"], start)
    HTTPServer(("127.0.0.1", options.port), handler).serve_forever()
