"""``fitb check``."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fitb_callbacks.cli.computing import Device, Precision, PrecisionName, computing, is_first_process
from fitb_callbacks.cli.console import figure, work_bar
from fitb_callbacks.cli.options import DATA_HELP
from fitb_callbacks.gate.description import notes, verdict_line
from fitb_callbacks.gate.junit import junit_xml
from fitb_callbacks.gate.registry import CouldNotCheckError, Loading, Promotion, RegistryCheck, Waiver, check_registered
from fitb_callbacks.gate.rules import PEER_AGREEMENT, Rule, Rules, parse_values
from fitb_callbacks.gate.verdict import Outcome
from fitb_callbacks.utils.messages import on_one_line, one_line

__all__ = ["check"]

_COULD_NOT = 2
_CODES = {"passed": 0, "waived": 0, "refused": 1, "open": _COULD_NOT}
_EXTRA = ("jinja2", "junitparser", "mlflow", "PIL", "yaml")
_PLAIN: dict[str, Any] = {"highlight": False, "soft_wrap": True}


def check(
    model: Annotated[
        str,
        typer.Argument(
            help="models:/NAME/VERSION, models:/NAME@ALIAS, models:/MODEL_ID, runs:/RUN_ID/NAME, or a checkpoint file."
        ),
    ],
    data: Annotated[
        str | None, typer.Option(help=f"Images to probe on: {DATA_HELP}; by default those that training recorded.")
    ] = None,
    at_least: Annotated[list[str] | None, typer.Option("--min", metavar="KEY=VALUE", help="A score's least.")] = None,
    at_most: Annotated[list[str] | None, typer.Option("--max", metavar="KEY=VALUE", help="A score's most.")] = None,
    champion: Annotated[
        str | None,
        typer.Option(metavar="VERSION", help="Model to compare with: an alias or version of the model, or an address."),
    ] = None,
    max_drop: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="How much lower than the champion's a score may be.")
    ] = None,
    max_rise: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="How much higher than the champion's a score may be.")
    ] = None,
    rules: Annotated[Path | None, typer.Option(help="YAML file of rules; options go before its entries.")] = None,
    certain: Annotated[
        bool, typer.Option("--certain", help="A rule passes only if the score's whole 95% interval does.")
    ] = False,
    trusted: Annotated[
        str | None, typer.Option(help=f"Trusted images whose class means judge the prototypes: {DATA_HELP}.")
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBERS",
            help="What training subtracts from pixels in [0, 1]: one number, or one a channel: 0.5,0.4,0.4.",
        ),
    ] = None,
    std: Annotated[
        str | None, typer.Option(metavar="NUMBERS", help="What it then divides by; of --data and --trusted.")
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
    logits: Annotated[
        str | None,
        typer.Option(help="package.module:function of a model and images that returns logits, for unusual models."),
    ] = None,
    device: Device = "auto",
    precision: Precision = PrecisionName.full,
    promote: Annotated[str | None, typer.Option(metavar="ALIAS", help="Move this alias here on a pass.")] = None,
    waive: Annotated[
        str | None, typer.Option(metavar="NAME", help="Let a refused model through, in this person's name.")
    ] = None,
    reason: Annotated[str | None, typer.Option(metavar="TEXT", help="Why; goes with --waive.")] = None,
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
    console = Console(stderr=json_file == Path("-"), quiet=not is_first_process())
    try:
        from_file = Rules() if rules is None else Rules.load(rules, allow_code=allow_code)
        given: dict[str, Any] = {
            "champion": champion,
            "data": data,
            "trusted": trusted,
            "mean": _numbers("--mean", mean),
            "std": _numbers("--std", std),
            "images_per_class": images_per_class,
            "certain": certain or None,
        }
        bounds = {"min": at_least, "max": at_most, "max_drop": max_drop, "max_rise": max_rise}
        wanted = dataclasses.replace(
            from_file,
            rules=_merged(from_file.rules, bounds),
            settings={**from_file.settings, **parse_values(settings or (), argument="--set")},
            **{name: value for name, value in given.items() if value is not None},
        )
        # MLflow prints a line for each run that ends, which must not come between the JSON
        with (
            redirect_stdout(sys.stderr),
            _ended_as_by_hand(),
            work_bar(console, "", "masked images") as bar,
            computing(device, precision) as here,
        ):
            checked = check_registered(
                model,
                wanted,
                loading=Loading(class_path, allow_pickle, logits, str(here.device)),
                promotion=Promotion(promote, _waiver(waive, reason), dry_run),
                tracking_uri=tracking_uri,
                share=here.share,
                on_step=bar.step,
                progress=bar,
            )
        _show(console, checked, dry_run=dry_run, tracking_uri=tracking_uri)
        code, problem = _CODES[checked.verdict], _open_rules(checked)
        address, outcomes, content = checked.model, checked.check.outcomes, checked.as_dict()
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - none may end with 1, which says: refused
        code, problem = _COULD_NOT, _reason(console, error)
        console.print(f"[red]fitb check:[/red] {escape(problem)}", **_PLAIN)
        address, outcomes = model, ()
        content = {"model": model, "verdict": "could not be checked", "reason": problem}
    if not is_first_process():  # what fails in one process fails in all, and the first one says so
        raise typer.Exit
    try:
        if junit is not None:
            junit.write_text(junit_xml(address, outcomes, error=problem))
        if json_file == Path("-"):
            typer.echo(json.dumps(content, indent=1))
        elif json_file is not None:
            json_file.write_text(json.dumps(content, indent=1) + "\n")
    except (ImportError, OSError) as error:
        console.print(f"[red]fitb check:[/red] {escape(_reason(console, error))}", **_PLAIN)
        code = _COULD_NOT
    raise typer.Exit(code)


@contextmanager
def _ended_as_by_hand() -> Iterator[None]:
    """SIGTERM, by which CI systems cancel a job, is Ctrl-C in the block: no run of a check stays open."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _waiver(name: str | None, reason: str | None) -> Waiver | None:
    return None if name is None and reason is None else Waiver(name or "", reason or "")


def _numbers(argument: str, text: str | None) -> tuple[float, ...] | None:
    """Numbers between commas."""
    try:
        return None if text is None else tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise ValueError(f"{argument} must be numbers with commas between them; got {text!r}") from error


def _open_rules(checked: RegistryCheck) -> str | None:
    """Why there is no verdict although everything was probed; None if there is one."""
    if checked.verdict != "open":
        return None
    undecided = next(outcome for outcome in checked.check.outcomes if outcome.passed is None)
    number = len(checked.check.candidate.images)
    said = f"{number} images are too few to decide '{undecided.rule}': give more, with --images-per-class"
    if undecided.rule.key == PEER_AGREEMENT:
        said += ", or trusted images (--trusted) and rules of your own"
    return said


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
        return ": ".join(["it was interrupted", *map(str, error.args)])
    if isinstance(error, ModuleNotFoundError) and error.name in _EXTRA:
        return f"it needs {error.name}: pip install 'fitb-callbacks[check]'"
    if isinstance(error, (CouldNotCheckError, ImportError, OSError, TypeError, ValueError)):
        return on_one_line(str(error))
    console.print_exception()
    return one_line(error)


def _show(console: Console, checked: RegistryCheck, *, dry_run: bool, tracking_uri: str | None) -> None:
    """The verdict for people: tables of the rules and the scores, and at the end the verdict and where it is."""
    found = checked.check
    against = "" if checked.champion is None else f", champion {checked.champion}"
    images = f"on {len(found.candidate.images)} images, {checked.data}"
    _say(console, escape(on_one_line(f"{checked.model}{against}, {images}")))
    console.print(_rules_table(checked))
    console.print(_scores_table(checked))
    if checked.judge is not None:
        _say(console, escape(on_one_line(f"Judge: {checked.judge}")))
    if checked.training is not None and checked.training.differs:
        _say(console, escape(f"Scores of the training are not shown: {checked.training.differs}"))
    for line in notes(checked.as_dict()):
        _say(console, escape(line))
    for rule in checked.skipped:
        _say(console, escape(f"There is no champion yet; skipped: {rule}"))
    if checked.run_id is not None:
        _say(console, f"Recorded in run {checked.run_id}, evidence {checked.digest}")
    if checked.promoted is not None:
        _say(console, escape(_moved(checked, dry_run=dry_run)))
    elif dry_run:
        _say(console, "Nothing was written: --dry-run")
    _say(console, _in_words(checked))
    if checked.page is not None:
        _say(console, escape(_address(checked.page, tracking_uri)))


def _say(console: Console, text: str) -> None:
    console.print(text, **_PLAIN)


def _rules_table(checked: RegistryCheck) -> Table:
    table = Table("rule", "value", "95% interval", "passes")
    words = {True: "[green]yes[/green]", False: "[red]no[/red]", None: "cannot tell"}
    for outcome in checked.check.outcomes:
        passes = words[outcome.passed]
        table.add_row(
            outcome.text,
            figure(outcome.value),
            _interval(outcome),
            passes if outcome.certain or outcome.passed is None else f"{passes}, not certain",
        )
    return table


def _scores_table(checked: RegistryCheck) -> Table:
    found, training = checked.check, {} if checked.training is None else checked.training.scores
    columns = {"in training": training, "champion": found.champion_scores or {}, "this model": found.scores}
    columns = {title: scores for title, scores in columns.items() if scores}
    table = Table("score", *columns)
    for key in found.scores:
        table.add_row(key, *(figure(scores[key]) if key in scores else "" for scores in columns.values()))
    return table


def _in_words(checked: RegistryCheck) -> str:
    """The verdict and its reason in a coloured line."""
    if checked.verdict == "open":
        return f"[red]fitb check:[/red] {escape(str(_open_rules(checked)))}"
    colour = {"waived": "yellow", "passed": "green", "refused": "red"}[checked.verdict]
    word, _, reason = verdict_line(checked.as_dict()).partition(":")
    return f"[bold {colour}]{escape(word.lower())}:[/]{escape(reason)}"


def _address(page: str, tracking_uri: str | None) -> str:
    """Where to open the run of the check."""
    import mlflow

    uri = re.sub(r"//[^/@]*@", "//", tracking_uri or mlflow.get_tracking_uri())  # no password
    if uri.startswith(("http:", "https:")):
        return f"{uri.rstrip('/')}/{page}"
    return f"mlflow ui --backend-store-uri {uri} shows it at http://127.0.0.1:5000/{page}"


def _moved(checked: RegistryCheck, *, dry_run: bool) -> str:
    if checked.model.endswith(f"/{checked.promoted_from}"):
        return f"{checked.promoted} is already at {checked.model}"
    origin = f"from version {checked.promoted_from}" if checked.promoted_from else "from no version"
    return f"{checked.promoted} {'would move' if dry_run else 'moved'} {origin} to {checked.model}"


def _interval(outcome: Outcome) -> str:
    low, high = outcome.interval
    return "" if math.isnan(low + high) else f"{low:.3f} to {high:.3f}"
