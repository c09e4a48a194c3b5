"""Give scores and pictures to each kind of Lightning logger; register functions for a logger of your own here."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import singledispatch
from pathlib import Path
from typing import Any

import lightning.pytorch.loggers as lightning_loggers
from lightning.pytorch.loggers import CometLogger, CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from fitb_callbacks.integrations.record import Record
from fitb_callbacks.plotting.tiles import Picture

_log = logging.getLogger(__name__)

__all__ = ["log_files", "log_picture", "log_record", "log_scores", "recognise", "settle"]


@singledispatch
def log_picture(logger: Logger, name: str, picture: Picture, step: int) -> bool:
    """Give a picture to a logger. For a logger of your own, register a function of these arguments.

    Args:
        logger: Any Lightning logger, on the process that writes.
        name: What the picture is called, as ``prefix/name``.
        picture: Height x width x 3, uint8.
        step: The step at which the epoch's metrics are logged.

    Returns:
        Whether the logger took it. This function, for loggers that nobody registered, returns False.

    Example:
        >>> import numpy as np
        >>> from lightning.pytorch.loggers import CSVLogger
        >>> class PrintingLogger(CSVLogger):
        ...     pass
        >>> @log_picture.register
        ... def _(logger: PrintingLogger, name, picture, step):
        ...     print(f"{name} at step {step}: {picture.shape}")
        ...     return True
        >>> log_picture(PrintingLogger("."), "fitb/prototypes", np.zeros((2, 3, 3), np.uint8), step=7)
        fitb/prototypes at step 7: (2, 3, 3)
        True
    """
    return False


@singledispatch
def log_scores(logger: Logger, scores: Mapping[str, float], step: int) -> None:
    """Give scores to a logger: by default, by its ``log_metrics``.

    Args:
        logger: Any Lightning logger, on the process that writes.
        scores: Key, with prefix, to value.
        step: The step at which the epoch's metrics are logged.

    Example:
        >>> from lightning.pytorch.loggers import CSVLogger
        >>> logger = CSVLogger(".")
        >>> log_scores(logger, {"fitb/coverage": 0.5}, step=7)
        >>> logger.experiment.metrics
        [{'fitb/coverage': 0.5, 'step': 7}]
    """
    logger.log_metrics(dict(scores), step)


@singledispatch
def log_files(logger: Logger, folder: str, files: Mapping[str, bytes]) -> None:
    """Give small files about the probe to a logger that keeps files; most do not.

    Args:
        logger: Any Lightning logger, on the process that writes.
        folder: Where in the run they belong.
        files: File name to content. Later ones replace earlier ones of the same name.
    """


@singledispatch
def log_record(logger: Logger, record: Record) -> None:
    """Give a logger the record of a probe, from which ``fitb report`` makes its page; most have no place for it.

    Args:
        logger: Any Lightning logger, on the process that writes.
        record: Of `fitb_callbacks.integrations.record.make_record`, a few kilobytes of JSON types.
    """


@singledispatch
def settle(logger: Logger) -> None:
    """Finish logging at the end of a training; most loggers have nothing to do.

    MLflow's gets a few seconds to send what waits, then the report of the run.
    """


def recognise(logger: Any) -> None:
    """Register a logger of the package `pytorch_lightning` for what its twin in `lightning` is registered for.

    Args:
        logger: Any logger.

    Example:
        >>> recognise(CSVLogger("."))  # of lightning itself: nothing to do
    """
    for base in type(logger).__mro__:
        twin = getattr(lightning_loggers, base.__name__, None)
        if base.__module__.startswith("pytorch_lightning.loggers") and twin is not None:
            functions: tuple[Any, ...] = (log_picture, log_scores, log_files, log_record, settle)
            for function in functions:
                if function.dispatch(twin) is not function.dispatch(object):
                    function.register(base, function.dispatch(twin))
            return


@log_picture.register
def _(logger: TensorBoardLogger, name: str, picture: Picture, step: int) -> bool:
    from fitb_callbacks.integrations.tensorboard import write_picture

    write_picture(logger.experiment, name, picture, step)
    return True


@log_picture.register
def _(logger: CSVLogger, name: str, picture: Picture, step: int) -> bool:
    if (folder := _local_folder(logger)) is None:
        return False
    from fitb_callbacks.integrations.folder import write_picture

    write_picture(folder, name, picture, step)
    return True


@log_picture.register
def _(logger: MLFlowLogger, name: str, picture: Picture, step: int) -> bool:
    from fitb_callbacks.integrations.mlflow.sink import outbox, picture_parcel

    outbox(*_mlflow_run(logger)).put(picture_parcel(*_mlflow_run(logger), name, picture, step))
    return True


@log_picture.register
def _(logger: WandbLogger, name: str, picture: Picture, step: int) -> bool:
    logger.log_image(name, [picture], step=step)
    return True


@log_picture.register
def _(logger: CometLogger, name: str, picture: Picture, step: int) -> bool:
    from PIL import Image

    # Not the array: Comet would rescale its values, which fails for uint8 under NumPy 2
    return logger.experiment.log_image(Image.fromarray(picture), name=name, step=step) is not None


def _log_picture_in_lightning(logger: Any, name: str, picture: Picture, step: int) -> bool:
    from litlogger import Image

    logger.experiment[name].append(Image(picture), step=step)
    return True


if (LitLogger := getattr(lightning_loggers, "LitLogger", None)) is not None:  # since Lightning 2.6
    log_picture.register(LitLogger, _log_picture_in_lightning)


@log_scores.register
def _(logger: MLFlowLogger, scores: Mapping[str, float], step: int) -> None:
    from fitb_callbacks.integrations.mlflow.sink import outbox, scores_parcel

    outbox(*_mlflow_run(logger)).put(scores_parcel(*_mlflow_run(logger), scores, step))


@log_files.register
def _(logger: MLFlowLogger, folder: str, files: Mapping[str, bytes]) -> None:
    from fitb_callbacks.integrations.mlflow.sink import files_parcel, outbox

    outbox(*_mlflow_run(logger)).put(files_parcel(*_mlflow_run(logger), folder, files))


@log_record.register
def _(logger: TensorBoardLogger, record: Record) -> None:
    from fitb_callbacks.integrations.tensorboard import write_record

    write_record(logger.experiment, record)


@log_record.register
def _(logger: CSVLogger, record: Record) -> None:
    if (folder := _local_folder(logger)) is not None:
        from fitb_callbacks.integrations.folder import write_record

        write_record(folder, record)


@log_record.register
def _(logger: MLFlowLogger, record: Record) -> None:
    from fitb_callbacks.integrations.mlflow.sink import outbox, record_parcel

    outbox(*_mlflow_run(logger)).put(record_parcel(*_mlflow_run(logger), record))


@settle.register
def _(logger: MLFlowLogger) -> None:
    from fitb_callbacks.integrations.mlflow.sink import outbox

    if not outbox(*_mlflow_run(logger)).settle():
        _report_in_mlflow(*_mlflow_run(logger))


def _report_in_mlflow(tracking_uri: str, run_id: str) -> None:
    """Put the report of all probes among the run's artifacts, where MLflow previews it; where that fails, say so."""
    from mlflow import MlflowClient

    from fitb_callbacks.integrations.mlflow.description import REPORT
    from fitb_callbacks.integrations.report.page import render_report
    from fitb_callbacks.integrations.report.source import read_source

    try:
        found = read_source(f"runs:/{run_id}", mlflow_uri=tracking_uri)
        page = render_report(found.records, title=found.title, problems=found.problems)
        MlflowClient(tracking_uri).log_text(run_id, page, REPORT)
    except Exception as error:  # noqa: BLE001 - a report that fails must not fail the training
        _log.info("no report among the run's artifacts (fitb report makes it, too): %s", error)


def _local_folder(logger: CSVLogger) -> Path | None:
    return None if "://" in str(logger.log_dir) else Path(logger.log_dir)


def _mlflow_run(logger: MLFlowLogger) -> tuple[str, str]:
    assert logger.run_id is not None  # it is None only on ranks that do not write
    return logger._tracking_uri, logger.run_id
