"""Probe a run's checkpoints afterwards, and log the series that the callback would have logged."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger
from torch import Tensor, nn

from fitb_callbacks.callback.comparison import compared, scores_of
from fitb_callbacks.callback.errors import ErrorPolicy
from fitb_callbacks.callback.probe_images import first_of_each, unpack
from fitb_callbacks.callback.reporter import Reporter
from fitb_callbacks.integrations.folder import RECORDS
from fitb_callbacks.integrations.loggers import settle
from fitb_callbacks.models.logits import LogitsFn
from fitb_callbacks.plotting.timeline import Timeline
from fitb_callbacks.probing.probe import FillInBlanks, Progress
from fitb_callbacks.probing.result import FillInBlanksResult
from fitb_callbacks.scoring.catalogue import ScoresName
from fitb_callbacks.scoring.judges import StreamedJudge, judge_from_state
from fitb_callbacks.scoring.judges.base import Judge
from fitb_callbacks.utils.messages import one_line

__all__ = [
    "EpochCheckpoint",
    "Replayed",
    "class_names_of",
    "find_checkpoints",
    "independent_labels",
    "log_replay",
    "loggers_for",
    "replay",
    "seen_by_callback",
    "untrained_of",
]


@dataclass(frozen=True)
class EpochCheckpoint:
    """A Lightning checkpoint from the end of an epoch.

    Attributes:
        path: The file.
        epoch: The epoch that ended.
        step: The step at which the callback, like Lightning's own epoch metrics, is logged.
        callback: State of the callback with the wanted prefix; None if the run had none that this version can read.
    """

    path: Path
    epoch: int
    step: int
    callback: Mapping[str, Any] | None


@dataclass(frozen=True)
class Replayed:
    """What the probes of one epoch found.

    Attributes:
        checkpoint: Whose weights were probed.
        results: One a probe, compared with the last epoch's.
        seconds: How long all of them took.
    """

    checkpoint: EpochCheckpoint
    results: list[FillInBlanksResult]
    seconds: float


_NEEDED = {"images", "labels", "streamed", "size"}
"""What a replay takes from the callback's state; one of another version may have something else."""


def find_checkpoints(
    sources: Sequence[Path], *, prefix: str = "fitb", allow_pickle: bool = False
) -> tuple[list[EpochCheckpoint], dict[Path, str]]:
    """The checkpoints from the ends of epochs, in order, one an epoch, and why others were left out.

    Args:
        sources: Files, or folders in which every ``.ckpt`` file is looked at, in folders below as well.
        prefix: Of the callback whose state is wanted.
        allow_pickle: Whether a checkpoint may hold any Python object. Loading one runs whatever code is in the file.

    Raises:
        FileNotFoundError: If a source does not exist.
        ValueError: If there is no checkpoint from the end of an epoch; the error says what there is.

    Example:
        >>> find_checkpoints([Path("no-such-folder")])
        Traceback (most recent call last):
        ...
        FileNotFoundError: there is no no-such-folder
    """
    paths: list[Path] = []
    for source in sources:
        if not source.exists():
            raise FileNotFoundError(f"there is no {source}")
        paths += sorted(source.rglob("*.ckpt")) if source.is_dir() else [source]
    found: dict[tuple[int, int], EpochCheckpoint] = {}
    left_out: dict[Path, str] = {}
    for path in paths:
        read = _read(path, prefix, allow_pickle)
        if isinstance(read, str):
            left_out[path] = read
        elif (read.step, read.epoch) in found:
            left_out[path] = f"of the same epoch as {found[read.step, read.epoch].path.name}"
        else:
            found[read.step, read.epoch] = read
    if not found:
        reasons = "; ".join(f"{path}: {why}" for path, why in list(left_out.items())[:3])
        raise ValueError(
            f"{', '.join(map(str, sources))} must hold Lightning checkpoints from the ends of epochs; "
            + (f"got {reasons}" if reasons else "there is no .ckpt file")
        )
    return [found[key] for key in sorted(found)], left_out


def _read(path: Path, prefix: str, allow_pickle: bool) -> EpochCheckpoint | str:
    """A checkpoint, or why it is none that can be replayed."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=not allow_pickle, mmap=True)
    except Exception as error:  # noqa: BLE001 - of a file that may hold anything
        return f"cannot be read: {one_line(error, longest=120)}"
    if not isinstance(content, dict) or "pytorch-lightning_version" not in content or not content.get("loops"):
        return "is no checkpoint of a Lightning training"
    try:
        loop = content["loops"]["fit_loop"]
        current, stepped = loop["epoch_progress"]["current"], loop["epoch_loop.state_dict"]["_batches_that_stepped"]
        after_the_epoch = current["processed"] == current["ready"]
        ends_an_epoch = after_the_epoch or loop["epoch_loop.batch_progress"]["is_last_batch"]
    except (KeyError, TypeError):
        return "does not say where in the training it was written"
    if not ends_an_epoch:
        return "was written in the middle of an epoch"
    states = [
        state
        for key, state in (content.get("callbacks") or {}).items()
        if key.startswith("FillInBlanksCallback") and repr(prefix) in key and state.keys() >= _NEEDED
    ]
    # Lightning counts the epoch's last batch only after validation
    return EpochCheckpoint(
        path=path,
        epoch=current["ready"] - 1,
        step=stepped - 1 if after_the_epoch else stepped,
        callback=states[0] if states else None,
    )


def seen_by_callback(checkpoints: Sequence[EpochCheckpoint]) -> tuple[Tensor, Tensor, StreamedJudge | None] | None:
    """Probe images, labels and the judge that the callback of the run had; None if the run had none.

    Args:
        checkpoints: Of one run.
    """
    for checkpoint in reversed(checkpoints):
        state = checkpoint.callback
        if state is not None and state["images"] is not None:
            judge = None if state["streamed"] is None else judge_from_state(state["streamed"])
            return unpack(state["images"]), state["labels"], judge
    return None


def independent_labels(checkpoints: Sequence[EpochCheckpoint]) -> bool:
    """Whether the callback of the run found labels that are true or false by themselves.

    Args:
        checkpoints: Of one run.
    """
    return any(
        checkpoint.callback is not None and bool(checkpoint.callback.get("independent")) for checkpoint in checkpoints
    )


def class_names_of(checkpoints: Sequence[EpochCheckpoint]) -> tuple[str, ...] | None:
    """The names that the callback of the run knew; None if it knew none.

    Args:
        checkpoints: Of one run.
    """
    states = (checkpoint.callback for checkpoint in reversed(checkpoints) if checkpoint.callback is not None)
    return next((tuple(state["class_names"]) for state in states if state.get("class_names")), None)


def untrained_of(checkpoints: Sequence[EpochCheckpoint]) -> dict[str, Timeline]:
    """Timelines that begin with what the untrained network of the run filled in, by masking; empty if it was not seen.

    Args:
        checkpoints: Of one run, whose callback has looked before training.
    """
    for checkpoint in reversed(checkpoints):
        timelines = (checkpoint.callback or {}).get("timelines", {})
        if seen := {masking: state["before"] for masking, state in timelines.items() if state.get("before")}:
            return {masking: Timeline(before=before) for masking, before in seen.items()}
    return {}


def replay(  # noqa: PLR0913 - what to probe, and what the callback was told in the run
    load: Callable[[Path], nn.Module],
    checkpoints: Sequence[EpochCheckpoint],
    images: Tensor,
    labels: Tensor,
    *,
    probes: Sequence[FillInBlanks] = (FillInBlanks(),),
    judge: Judge | None = None,
    class_names: Sequence[str] | None = None,
    logits_fn: LogitsFn | None = None,
    masks_of_the_run: bool = False,
    share: tuple[int, int] = (0, 1),
    progress: Progress | None = None,
) -> Iterator[Replayed]:
    """Probe a run's checkpoints in order, as the callback would have done at the end of each epoch.

    With the callback's settings, images and judge, the scores are those that it logged, as far as the training ran in
    the checkpoints' own precision.

    Args:
        load: A checkpoint's file to its model.
        checkpoints: Of one run, by epoch. Scores that compare with the last probe compare with the last of these.
        images: Shape ``(N, C, H, W)``, in the model's input space.
        labels: Integers, shape ``(N,)``.
        probes: One a masking.
        judge: Who classifies the prototypes in the model's place, see `fitb_callbacks.scoring.judges`.
        class_names: One name a class.
        logits_fn: As for `FillInBlanks.probe`.
        masks_of_the_run: Take no more masks and images than the callback of the run had time for (``max_overhead``).
        share: As for `FillInBlanks.probe`.
        progress: As for `FillInBlanks.probe`, over all checkpoints and probes.

    Yields:
        What was found, checkpoint by checkpoint.
    """
    last: dict[int, dict[str, Tensor]] = {}
    finished, size, left = 0, 0, len(checkpoints) * len(probes)

    def report(done: int, total: int) -> None:
        nonlocal size
        size = total
        if progress is not None:
            progress(finished + done, finished + total * left)

    states = [checkpoint.callback for checkpoint in checkpoints if checkpoint.callback is not None]
    first_size = next((state["size"] for state in states if state["size"]), None)  # the first probe may have waited
    for checkpoint in checkpoints:
        model = load(checkpoint.path)
        started = time.perf_counter()
        results = []
        for number, probe in enumerate(probes):
            shown = torch.arange(len(images))
            if masks_of_the_run and (size_had := (checkpoint.callback or {}).get("size") or first_size):
                fill = probe.fill if size_had.get("fill", True) else None
                probe = dataclasses.replace(probe, num_masks=min(probe.num_masks, size_had["masks"]), fill=fill)
                shown = first_of_each(labels, size_had["images"])
            found = probe.probe(
                model,
                images[shown],
                labels[shown],
                judge=judge,
                class_names=class_names,
                logits_fn=logits_fn,
                share=share,
                progress=report,
            )
            result, last[number] = compared(model, found, last.get(number), logits_fn)
            results.append(result)
            finished, left = finished + size, left - 1
        yield Replayed(checkpoint, results, time.perf_counter() - started)


def loggers_for(output: Path, *, tensorboard: bool = False, mlflow_run: str | None = None) -> list[Logger]:
    """Loggers that write a replay to a folder and, if wanted, to TensorBoard's files there and to an MLflow run.

    Args:
        output: The folder, which `fitb report` reads.
        tensorboard: Whether to write event files, too.
        mlflow_run: Id of an MLflow run to log into; ``MLFLOW_TRACKING_URI`` says where it is.

    Raises:
        ValueError: If there is no such run, or the folder holds one already.
        FileNotFoundError: If MLflow's database does not exist.
    """
    if (output / RECORDS).exists():
        raise ValueError(f"--output must be a new folder; {output} holds the probes of a run already")
    loggers: list[Logger] = [CSVLogger(output.parent, name=output.name, version="")]
    if tensorboard:
        loggers.append(TensorBoardLogger(output.parent, name=output.name, version=""))
    if mlflow_run is not None:
        import mlflow
        from mlflow.exceptions import MlflowException

        from fitb_callbacks.integrations.mlflow.reachable import reachable_client

        uri = mlflow.get_tracking_uri()
        try:
            reachable_client(uri).get_run(mlflow_run)
        except MlflowException as error:
            raise ValueError(f"--mlflow-run must be a run in {uri}; got {mlflow_run!r}: {error.message}") from error
        loggers.append(MLFlowLogger(run_id=mlflow_run, tracking_uri=uri))
    return loggers


def log_replay(  # noqa: PLR0913 - what the callback knew in the run
    series: Iterable[Replayed],
    loggers: Sequence[Logger],
    *,
    prefix: str,
    judge: str | None,
    scores: ScoresName = "key",
    untrained: Mapping[str, Timeline] | None = None,
) -> list[dict[str, float]]:
    """Log each probe as it comes, at the step at which the callback would have logged it.

    Args:
        series: Of `replay`.
        loggers: All get everything.
        prefix: What the keys begin with.
        judge: The judge in words.
        scores: As for `FillInBlanksCallback`.
        untrained: Masking to the timeline that this one continues, see `untrained_of`.

    Returns:
        One entry a probe, as in `FillInBlanksCallback.history`: ``epoch``, ``step`` and the scores.
    """
    history: list[dict[str, float]] = []
    reporter = Reporter(ErrorPolicy("raise"), scores, untrained)
    for replayed in series:
        epoch, step = replayed.checkpoint.epoch, replayed.checkpoint.step
        metrics = scores_of(replayed.results, seconds=replayed.seconds)
        history.append({"epoch": epoch, "step": step, **metrics})
        reporter.write(loggers, replayed.results, metrics, {}, epoch=epoch, step=step, prefix=prefix, judge=judge)
        reporter.flush(loggers)
        for logger in loggers:
            logger.save()
    for logger in loggers:
        settle(logger)
        logger.finalize("success")
    return history
