"""The gate's commands where there is no server, or not what was asked for: one line, code 2, nothing left behind."""

from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from fitb_callbacks.integrations.mlflow import sink
from fitb_callbacks.integrations.outbox import Outbox
from mlflow_store import new_store
from quick import fitb

COMMANDS = {
    "check": ["check", "models:/digits/7"],
    "promote": ["promote", "models:/digits/7"],
    "rollback": ["rollback", "numbers"],
    "verify": ["verify", "models:/digits@champion"],
    "report": ["report", "models:/digits/7"],
}


@pytest.fixture(autouse=True)
def _no_server_of_ones_own(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    mlflow.set_tracking_uri(None)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A database with one model, of one version, that nobody has checked."""
    address = new_store(tmp_path_factory.mktemp("store") / "mlflow.db")
    client = MlflowClient(address)
    client.create_registered_model("digits")
    client.create_model_version("digits", "s3://bucket/model")
    return address


def one_line(command, *arguments, code=2):
    """What a command says in its only line."""
    done = fitb(*arguments)
    (line,) = done.output.splitlines()
    assert done.exit_code == code, line
    assert line.startswith(f"fitb {command}: ")
    assert list(Path().iterdir()) == []
    return line


@pytest.mark.parametrize("command", COMMANDS)
def test_without_a_server_the_line_says_which_was_asked_and_how_to_name_another(command):
    line = one_line(command, *COMMANDS[command])
    assert "there is no MLflow database sqlite:///" in line or "there is no MLflow store" in line
    assert str(Path().absolute()) in line
    assert "--tracking-uri or MLFLOW_TRACKING_URI" in line


def test_a_damaged_database_is_named_in_one_line(store, tmp_path_factory):
    damaged = tmp_path_factory.mktemp("damaged") / "mlflow.db"
    damaged.write_bytes(Path(store.removeprefix("sqlite:///")).read_bytes()[:3000])
    line = one_line("report", *COMMANDS["report"], "--tracking-uri", f"sqlite:///{damaged}")
    assert f"sqlite:///{damaged} is no database of MLflow, or damaged: " in line


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("address", "says"),
    [
        (
            "http://me:secret@127.0.0.1:9",
            "server http://***@127.0.0.1:9 does not answer: Connection refused",
        ),
        ("sqlite:///none.db", "there is no MLflow database sqlite:///none.db"),
        ("folder", "there is no MLflow store folder"),
        ("abc://x", "must be like http://host:5000 or sqlite:///mlflow.db; got 'abc://x'"),
    ],
)
def test_a_wrong_address_is_named(command, address, says):
    line = one_line(command, *COMMANDS[command], "--tracking-uri", address)
    assert says in line
    assert "secret" not in line


@pytest.mark.parametrize("command", COMMANDS)
def test_what_the_server_does_not_have_is_named_with_the_server(command, store):
    line = one_line(command, *COMMANDS[command], "--tracking-uri", store)
    missing = "registered model 'numbers'" if command == "rollback" else f"model {COMMANDS[command][1]}"
    assert f"there is no {missing} in {store}" in line


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["rollback", "digits"], "digits has no alias champion"),
        (["rollback", "digits", "--alias", "stable"], "digits has no alias stable"),
        (["promote", "models:/digits/1", "--alias", "v1"], "got 'v1'"),
        (["verify", "digits"], "a model must be models:/NAME/VERSION"),
        (["check", "models:/digits/1", "--champion", "9", "--data", "mnist"], "there is no model models:/digits/9 in "),
    ],
)
def test_wrong_arguments(store, arguments, says):
    assert says in one_line(arguments[0], *arguments, "--tracking-uri", store)


def test_a_version_that_nobody_checked_is_not_promoted_and_the_line_says_what_to_do(store):
    done = fitb("promote", "models:/digits/1", "--tracking-uri", store)
    assert done.exit_code == 1
    assert "a check must pass first: fitb check models:/digits/1 --promote champion" in done.output.splitlines()[-1]


def test_what_cannot_be_sent_says_to_which_server(store):
    for run, address in (("a", "sqlite:///gone.db"), ("b", store), ("c", "http://127.0.0.1:9")):
        box = Outbox(Path("fitb-outbox", run), sink.deliver, background=False)
        with pytest.raises((OSError, ValueError)):
            box.put(sink.scores_parcel(address, run, {"fitb/coverage": 1.0}, 0))
    done = fitb("resend")
    assert done.exit_code == 1
    gone, refused, away, count = done.output.splitlines()
    assert "fitb-outbox/a: there is no MLflow database sqlite:///gone.db" in gone
    assert f"fitb-outbox/b: the tracking server {store} refuses it: Run with id=b not found" in refused
    assert "fitb-outbox/c: the tracking server http://127.0.0.1:9 does not answer: Connection refused" in away
    assert count == "✗ 0 parcels sent; 3 runs not"
    assert [path.name for path in Path().iterdir()] == ["fitb-outbox"]
