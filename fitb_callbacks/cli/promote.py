"""``fitb promote``, ``fitb rollback`` and ``fitb verify``: what comes after a check."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from fitb_callbacks.utils.messages import on_one_line, one_line

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from fitb_callbacks.integrations.mlflow.lookup import RegistryModel

__all__ = ["promote", "rollback", "verify"]

_NO, _COULD_NOT = 1, 2
_ALIAS = "champion"

Model = Annotated[str, typer.Argument(help="models:/NAME/VERSION or models:/NAME@ALIAS.")]
TrackingUri = Annotated[str | None, typer.Option(envvar="MLFLOW_TRACKING_URI", help="Address of the MLflow server.")]


def verify(model: Model, tracking_uri: TrackingUri = None) -> None:
    """Recompute a recorded verdict: 0 it holds together, 1 it does not, 2 could not be looked at."""
    console = Console()
    with _connected("fitb verify", console, tracking_uri) as client:
        found = _find(client, model)
        if not _holds(client, found, console):
            _say(console, f"[bold red]✗ the verdict on {escape(found.address)} does not hold together[/]")
            raise typer.Exit(_NO)
        _say(console, f"[bold green]✓ the verdict on {escape(found.address)} holds together[/]")


def promote(
    model: Model,
    alias: Annotated[str, typer.Option(help="Alias to move to this version.")] = _ALIAS,
    tracking_uri: TrackingUri = None,
) -> None:
    """Move an alias to a version whose recorded verdict is a pass and holds together: 0 moved, 1 refused."""
    from fitb_callbacks.gate.registry import Promotion
    from fitb_callbacks.integrations.mlflow.registry import alias_holder, last_check, note_promotion

    console = Console()
    with _connected("fitb promote", console, tracking_uri) as client:
        wanted = Promotion(alias).alias
        assert wanted is not None
        found = _find(client, model)
        if not _holds(client, found, console):
            command = f"fitb check {found.address} --promote {wanted}"
            _say(console, f"[bold red]✗ refused:[/] a check must pass first: {escape(command)}")
            raise typer.Exit(_NO)
        checked = last_check(client, found)
        verdict = None if checked is None else checked.data.tags["fitb.verdict"]
        if verdict not in ("passed", "waived"):
            _say(console, f"[bold red]✗ refused:[/] the verdict is {escape(str(verdict))}")
            raise typer.Exit(_NO)
        name, version = str(found.name), str(found.version)
        before = alias_holder(client, name, wanted)
        if before == version:
            _say(console, f"{wanted} is already at models:/{name}/{version}")
            return
        _move(client, name, wanted, before, version, console)
        note_promotion(client, name, version, wanted, before=before)


def rollback(
    name: Annotated[str, typer.Argument(help="Registered name.")],
    alias: Annotated[str, typer.Option(help="Alias to move back.")] = _ALIAS,
    tracking_uri: TrackingUri = None,
) -> None:
    """Move an alias back to the version that it pointed to before its last promotion; once more, to the one before."""
    from fitb_callbacks.integrations.mlflow.registry import alias_holder, note_rollback, previous_holder

    console = Console()
    with _connected("fitb rollback", console, tracking_uri) as client:
        holder = alias_holder(client, name, alias)
        if holder is None:
            raise ValueError(f"{name} has no alias {alias} that could move back")
        before = previous_holder(client, name, holder, alias)
        if before is None:
            raise ValueError(
                f"version {holder} of {name} does not say where {alias} was before; take the version you want: "
                f"fitb promote models:/{name}/VERSION --alias {alias}"
            )
        _move(client, name, alias, holder, before, console)
        note_rollback(client, name, holder, alias, to=before)


@contextmanager
def _connected(command: str, console: Console, tracking_uri: str | None) -> Iterator[MlflowClient]:
    """A client for the block; every error ends the command with one line and exit code 2."""
    try:
        from fitb_callbacks.integrations.mlflow.client import connected

        with connected(tracking_uri) as client:
            yield client
    except typer.Exit:
        raise
    except ModuleNotFoundError as error:
        _say(console, f"[red]{command}:[/red] it needs {error.name}: pip install 'fitb-callbacks\\[check]'")
        raise typer.Exit(_COULD_NOT) from error
    except Exception as error:
        expected = isinstance(error, (ConnectionError, OSError, RuntimeError, ValueError))
        reason = on_one_line(str(error)) if expected else one_line(error)
        _say(console, f"[red]{command}:[/red] {escape(reason)}")
        raise typer.Exit(_COULD_NOT) from error


def _find(client: MlflowClient, address: str) -> RegistryModel:
    from fitb_callbacks.integrations.mlflow.lookup import find_model

    return find_model(client, address)


def _holds(client: MlflowClient, model: RegistryModel, console: Console) -> bool:
    """Show what was found; whether all of it holds."""
    from fitb_callbacks.gate.verify import verify as look

    findings = look(client, model)
    for finding in findings:
        mark = "[green]yes[/green]" if finding.holds else "[red]NO [/red]"
        _say(console, f"{mark} {escape(on_one_line(finding.text))}")
    return all(finding.holds for finding in findings)


def _move(client: MlflowClient, name: str, alias: str, before: str | None, version: str, console: Console) -> None:
    from fitb_callbacks.integrations.mlflow.registry import move_alias

    move_alias(client, name, alias, version=version, expected=before)
    origin = "no version" if before is None else f"version {before}"
    _say(console, escape(f"{alias} moved from {origin} to models:/{name}/{version}"))


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True)
