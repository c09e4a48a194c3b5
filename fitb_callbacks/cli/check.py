"""``fitb check``."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fitb_callbacks.cli.console import work_bar
from fitb_callbacks.cli.options import DATA_HELP
from fitb_callbacks.gate.junit import junit_xml
from fitb_callbacks.gate.registry import CouldNotCheckError, Loading, RegistryCheck, check_registered
from fitb_callbacks.gate.rules import Rule, Rules, parse_values
from fitb_callbacks.gate.verdict import Outcome
from fitb_callbacks.utils.messages import on_one_line, one_line

__all__ = ["check"]

_PASSED, _REFUSED, _COULD_NOT = 0, 1, 2
_EXTRA = ("jinja2", "junitparser", "mlflow", "PIL", "yaml")
_PLAIN: dict[str, Any] = {"highlight": False, "soft_wrap": True}


def check(
    model: Annotated[
        str,
        typer.Argument(
            help="models:/NAME/VERSION, models:/NAME@ALIAS, models:/MODEL_ID, runs:/RUN_ID/NAME, or a checkpoint file."
        ),
    ],
    data: Annotated[str | None, typer.Option(help=f"Images to probe on: {DATA_HELP}.")] = None,
    at_least: Annotated[list[str] | None, typer.Option("--min", metavar="KEY=VALUE", help="A score's least.")] = None,
    at_most: Annotated[list[str] | None, typer.Option("--max", metavar="KEY=VALUE", help="A score's most.")] = None,
    champion: Annotated[
        str | None,
        typer.Option(metavar="VERSION", help="Model to compare with: an alias or version of the model, or an address."),
    ] = None,
    max_drop: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="How much lower than the champion's a score may be.")
    ] = None,
    rules: Annotated[Path | None, typer.Option(help="YAML file of rules; options go before its entries.")] = None,
    certain: Annotated[
        bool, typer.Option("--certain", help="A rule passes only if the score's whole 95% interval does.")
    ] = False,
    trusted: Annotated[
        str | None, typer.Option(help=f"Trusted images whose class means judge the prototypes: {DATA_HELP}.")
    ] = None,
    images_per_class: Annotated[
        int | None, typer.Option(min=1, help="Probe images of each class; as in training, or 10.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of the probe, such as num_masks=512."),
    ] = None,
    class_path: Annotated[
        str | None, typer.Option("--class", help="A checkpoint's module, as package.module:Class.")
    ] = None,
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Load pickled models, which runs code in them.")
    ] = False,
    allow_code: Annotated[
        bool, typer.Option("--allow-code", help="Let the file of rules name package.module:function, which is run.")
    ] = False,
    promote: Annotated[str | None, typer.Option(metavar="ALIAS", help="Move this alias here on a pass.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write nothing to the server.")] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", allow_dash=True, help="File for the verdict as JSON; - for the output.")
    ] = None,
    junit: Annotated[Path | None, typer.Option(help="File for the verdict as JUnit XML.")] = None,
    tracking_uri: Annotated[
        str | None, typer.Option(envvar="MLFLOW_TRACKING_URI", help="Address of the MLflow server.")
    ] = None,
) -> None:
    """Check what a model of MLflow's registry learned: 0 passed, 1 refused, 2 could not be checked."""
    console = Console(stderr=json_file == Path("-"))
    try:
        from_file = Rules() if rules is None else Rules.load(rules, allow_code=allow_code)
        given: dict[str, Any] = {
            "champion": champion,
            "data": data,
            "trusted": trusted,
            "images_per_class": images_per_class,
            "certain": certain or None,
        }
        wanted = dataclasses.replace(
            from_file,
            rules=_merged(from_file.rules, {"min": at_least, "max": at_most, "max_drop": max_drop}),
            settings={**from_file.settings, **parse_values(settings or (), argument="--set")},
            **{name: value for name, value in given.items() if value is not None},
        )
        with work_bar(console, "", "masked images") as bar:
            checked = check_registered(
                model,
                wanted,
                loading=Loading(class_path, allow_pickle),
                tracking_uri=tracking_uri,
                promote=promote,
                dry_run=dry_run,
                on_step=bar.step,
                progress=bar,
            )
        _show(console, checked, dry_run=dry_run)
        code, reason = _PASSED if checked.passed else _REFUSED, None
        address, outcomes, content = checked.model, checked.check.outcomes, checked.as_dict()
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - none may end with 1, which says: refused
        code, reason = _COULD_NOT, _reason(console, error)
        console.print(f"[red]fitb check:[/red] {escape(reason)}", **_PLAIN)
        address, outcomes = model, ()
        content = {"model": model, "verdict": "could not be checked", "reason": reason}
    try:
        if junit is not None:
            junit.write_text(junit_xml(address, outcomes, error=reason))
        if json_file == Path("-"):
            typer.echo(json.dumps(content, indent=1))
        elif json_file is not None:
            json_file.write_text(json.dumps(content, indent=1) + "\n")
    except (ImportError, OSError) as error:
        console.print(f"[red]fitb check:[/red] {escape(_reason(console, error))}", **_PLAIN)
        code = _COULD_NOT
    raise typer.Exit(code)


def _merged(from_file: Sequence[Rule], options: Mapping[str, Sequence[str] | None]) -> tuple[Rule, ...]:
    """The file's rules, changed and added to by the command line's."""
    rules = {(rule.kind, rule.key): rule for rule in from_file}
    for kind, texts in options.items():
        for key, bound in parse_values(texts or (), argument=f"--{kind.replace('_', '-')}").items():
            rule = Rule(kind, key, bound)
            rules[kind, rule.key] = rule
    return tuple(rules.values())


def _reason(console: Console, error: BaseException) -> str:
    """An error in one line; of one that nobody foresaw, the traceback comes first."""
    if isinstance(error, KeyboardInterrupt):
        return "it was interrupted"
    if isinstance(error, ModuleNotFoundError) and error.name in _EXTRA:
        return f"it needs {error.name}: pip install 'fitb-callbacks[check]'"
    if isinstance(error, (CouldNotCheckError, ImportError, OSError, TypeError, ValueError)):
        return on_one_line(str(error))
    console.print_exception()
    return one_line(error)


def _show(console: Console, checked: RegistryCheck, *, dry_run: bool) -> None:
    """The verdict for people: a table of the rules, one of the scores, and where it is recorded."""
    found = checked.check
    against = "" if checked.champion is None else f", champion {checked.champion}"
    console.print(escape(f"{checked.model}{against}, on {len(found.candidate.images)} images"), **_PLAIN)
    table = Table("rule", "value", "95% interval", "passes")
    for outcome in found.outcomes:
        passes = "[green]yes[/green]" if outcome.passed else "[red]no[/red]"
        table.add_row(
            str(outcome.rule),
            f"{outcome.value:.3f}",
            _interval(outcome),
            passes if outcome.certain else f"{passes}, not certain",
        )
    console.print(table)
    training = {} if checked.training is None else checked.training.scores
    columns = {"in training": training, "champion": found.champion_scores or {}, "this model": found.scores}
    columns = {title: scores for title, scores in columns.items() if scores}
    table = Table("score", *columns)
    for key in found.scores:
        table.add_row(key, *(f"{scores[key]:.3f}" if key in scores else "" for scores in columns.values()))
    console.print(table)
    if checked.judge is not None:
        console.print(escape(f"Judge: {checked.judge}"), **_PLAIN)
    if checked.training is not None and checked.training.differs:
        console.print(escape(f"Scores of the training are not shown: {checked.training.differs}"), **_PLAIN)
    broken = sum(not outcome.passed for outcome in found.outcomes)
    total = f"{len(found.outcomes)} rule{'s' if len(found.outcomes) > 1 else ''}"
    console.print(
        f"[green]passed[/green]: {total} passed" if not broken else f"[red]refused[/red]: {broken} of {total} failed",
        **_PLAIN,
    )
    if checked.run_id is not None:
        console.print(f"Recorded in run {checked.run_id}, evidence {checked.digest}", **_PLAIN)
    if checked.promoted is not None:
        if checked.model.endswith(f"/{checked.promoted_from}"):
            moved = "is already at"
        else:
            origin = f"from version {checked.promoted_from}" if checked.promoted_from else "from no version"
            moved = f"{'would move' if dry_run else 'moved'} {origin} to"
        console.print(escape(f"{checked.promoted} {moved} {checked.model}"), **_PLAIN)
    elif dry_run:
        console.print("Nothing was written: --dry-run", **_PLAIN)


def _interval(outcome: Outcome) -> str:
    low, high = outcome.interval
    return "" if math.isnan(low + high) else f"{low:.3f} to {high:.3f}"
