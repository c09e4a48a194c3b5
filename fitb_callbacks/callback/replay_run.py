"""``fitb replay``: a run's checkpoints probed and logged, as the callback would have done while it trained."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger

from fitb_callbacks.callback.comparison import scores_of
from fitb_callbacks.callback.replay import Replayed
from fitb_callbacks.integrations.epoch_report import compose, give
from fitb_callbacks.integrations.folder import RECORDS
from fitb_callbacks.integrations.loggers import settle
from fitb_callbacks.plotting.timeline import Timeline

__all__ = ["log_replay", "loggers_for"]


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

        from fitb_callbacks.integrations.mlflow.sink import check_database

        uri = mlflow.get_tracking_uri()
        check_database(uri)
        try:
            mlflow.MlflowClient(uri).get_run(mlflow_run)
        except MlflowException as error:
            raise ValueError(f"--mlflow-run must be a run in {uri}; got {mlflow_run!r}: {error.message}") from error
        loggers.append(MLFlowLogger(run_id=mlflow_run, tracking_uri=uri))
    return loggers


def log_replay(
    series: Iterable[Replayed], loggers: Sequence[Logger], *, prefix: str, judge: str | None
) -> list[dict[str, float]]:
    """Give each probe to the loggers as it comes, at the step at which the callback would have.

    Args:
        series: Of `fitb_callbacks.callback.replay.replay`.
        loggers: All get everything.
        prefix: What the keys begin with.
        judge: What the judge is, in words.

    Returns:
        One entry a probe, as `FillInBlanksCallback.history`: ``epoch``, ``step`` and the scores.
    """
    history: list[dict[str, float]] = []
    timelines: dict[str, Timeline] = {}
    for replayed in series:
        epoch, step = replayed.checkpoint.epoch, replayed.checkpoint.step
        for result in replayed.results:
            masking = result.settings["masking"]
            timelines[masking] = timelines.get(masking, Timeline()).with_probe(result, epoch)
        metrics = scores_of(replayed.results, seconds=replayed.seconds)
        history.append({"epoch": epoch, "step": step, **metrics})
        logged = compose(replayed.results, metrics, timelines, epoch=epoch, step=step, prefix=prefix, judge=judge)
        for logger in loggers:
            give(logger, logged)
            logger.save()
    for logger in loggers:
        settle(logger)
        logger.finalize("success")
    return history
