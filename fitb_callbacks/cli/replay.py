"""``fitb replay``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.console import Console
from rich.table import Table

from fitb_callbacks.cli import options
from fitb_callbacks.cli.computing import Device, Precision, PrecisionName, computing, is_first_process
from fitb_callbacks.cli.console import exit_on_error, figure, say_verdict, work_bar
from fitb_callbacks.probing.settings import MaskingName
from fitb_callbacks.scoring.catalogue import ScoresName

if TYPE_CHECKING:
    from fitb_callbacks.callback.replay import Replayed

__all__ = ["replay"]


def replay(
    checkpoints: Annotated[
        list[Path], typer.Argument(help="Lightning checkpoints of one run, or folders that hold them.")
    ],
    module: options.ClassPath,
    data: Annotated[
        str | None,
        typer.Option(
            help=f"Images to probe on: {options.DATA_HELP}. Not needed where the run had the callback: its checkpoints "
            "hold the images."
        ),
    ] = None,
    reference: options.Reference = None,
    data_dir: options.DataDir = None,
    allow_pickle: options.AllowPickle = False,
    images_per_class: options.ImagesPerClass = None,
    max_images: options.MaxImages = 64,
    masking: Annotated[list[str], typer.Option(help="random or progressive; give it once for each.")] = ["random"],  # noqa: B006
    num_masks: options.NumMasks = 256,
    mask_ratio: options.MaskRatio = 0.25,
    patch_size: options.PatchSize = None,
    seed: options.Seed = 0,
    device: Device = "auto",
    precision: Precision = PrecisionName.full,
    prefix: Annotated[str, typer.Option(help="What the keys of the scores begin with.")] = "fitb",
    scores: Annotated[ScoresName, typer.Option(help="Log the key scores, or all.")] = "key",
    output: Annotated[Path, typer.Option(help="Folder for scores, pictures and records.")] = Path("fitb-replay"),
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write event files there, too.")] = False,
    mlflow_run: Annotated[
        str | None, typer.Option(help="Log into this MLflow run, too (MLFLOW_TRACKING_URI says where).")
    ] = None,
) -> None:
    """Probe all checkpoints of a run, for the series that the callback would have logged."""
    console = Console(quiet=not is_first_process())
    with exit_on_error("fitb replay", console), computing(device, precision) as here:
        from fitb_callbacks import FillInBlanks
        from fitb_callbacks.callback.replay import (
            class_names_of,
            find_checkpoints,
            independent_labels,
            log_replay,
            loggers_for,
            replay,
            seen_by_callback,
            untrained_of,
        )
        from fitb_callbacks.data.sources import ImageSet, open_images
        from fitb_callbacks.models.checkpoints import load_checkpoint
        from fitb_callbacks.models.logits import label_by_label
        from fitb_callbacks.scoring.judges.trusted import open_judge

        probes = [
            FillInBlanks(
                masking=cast(MaskingName, each),  # typer takes no list of literals; the probe checks it
                num_masks=num_masks,
                mask_ratio=mask_ratio,
                patch_size=patch_size,
                seed=seed,
            )
            for each in masking
        ]
        found, left_out = find_checkpoints(checkpoints, prefix=prefix, allow_pickle=allow_pickle)
        for path, why in left_out.items():
            console.print(f"Left out: {path} {why}", highlight=False, soft_wrap=True, markup=False)
        seen = seen_by_callback(found)
        if data is not None:
            chosen = open_images(data, per_class=images_per_class, max_images=max_images, data_dir=data_dir)
            judge, words = None, None
        elif seen is not None:
            images, labels, judge = seen
            chosen = ImageSet(images, labels, class_names_of(found), independent_labels(found))
            words = None if judge is None else f"{judge.name} on training images"
        else:
            raise ValueError(
                "--data must be given: the checkpoints hold no state of the callback that this version can read, "
                "and so no images"
            )
        if reference is not None:
            judge = open_judge(reference, chosen, data_dir=data_dir)
            words = f"{judge.name} on {reference}"
        loggers = []
        if is_first_process():
            loggers = loggers_for(output, tensorboard=tensorboard, mlflow_run=mlflow_run)
        with work_bar(console, f"Probing {len(found)} checkpoints", "masked images") as progress:
            series = replay(
                lambda path: load_checkpoint(path, module, allow_pickle=allow_pickle).to(here.device),
                found,
                chosen.images,
                chosen.labels,
                probes=probes,
                judge=judge,
                class_names=chosen.class_names,
                logits_fn=label_by_label() if chosen.independent else None,
                masks_of_the_run=data is None,
                share=here.share,
                progress=progress,
            )
            last: list[Replayed] = []
            history = log_replay(
                _noting(series, last),
                loggers,
                prefix=prefix,
                judge=words,
                scores=scores,
                untrained=untrained_of(found) if data is None else None,
            )
    console.print(_table(history))
    console.print(f"Scores, pictures and records: {output}", highlight=False, soft_wrap=True, markup=False)
    console.print(f"All on one page: fitb report {output}", highlight=False, soft_wrap=True, markup=False)
    say_verdict(console, last[0].results[0].interpretation(words), of=f"epoch {last[0].checkpoint.epoch}")


def _noting(series: Iterable[Replayed], last: list[Replayed]) -> Iterator[Replayed]:
    """The same series; the list holds what came last."""
    for replayed in series:
        last[:] = [replayed]
        yield replayed


def _table(history: Sequence[Mapping[str, float]]) -> Table:
    shown = ("accuracy", "coverage", "structure", "drift", "seconds")
    columns = [name for name in shown if name in history[0]]
    table = Table(title="What the model learned, by epoch", title_justify="left")
    for title in ("epoch", "step", *columns):
        table.add_column(title, justify="right")
    for row in history:
        table.add_row(f"{row['epoch']:.0f}", f"{row['step']:.0f}", *(figure(row[name]) for name in columns))
    return table
