"""Log each probe's scores and pictures to loggers, and show them in a notebook; in a run and in a replay of one."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lightning.pytorch.loggers import Logger

from fitb_callbacks.callback.errors import ErrorPolicy
from fitb_callbacks.plotting.timeline import Timeline
from fitb_callbacks.probing.result import FillInBlanksResult
from fitb_callbacks.scoring.catalogue import ScoresName

if TYPE_CHECKING:
    from fitb_callbacks.integrations.epoch_report import Logged
    from fitb_callbacks.integrations.record import Record

__all__ = ["Reporter"]


class Reporter:
    """Log what each probe found.

    Args:
        errors: What to do when a logger fails; the other loggers get theirs either way.
        scores: Which scores the loggers get: "key" or "all", see `fitb_callbacks.scoring.catalogue.ScoresName`.
        timelines: Masking to the timeline that this run continues.

    Example:
        >>> import tempfile, torch
        >>> from lightning.pytorch.loggers import CSVLogger
        >>> from fitb_callbacks import FillInBlanks
        >>> from fitb_callbacks.callback.comparison import scores_of
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
        >>> result = FillInBlanks(num_masks=8).probe(model, torch.rand(3, 1, 4, 4), torch.arange(3))
        >>> logger, scores = CSVLogger(tempfile.mkdtemp()), scores_of([result], seconds=0.1)
        >>> logs = Reporter(ErrorPolicy("raise"))
        >>> logs.write([logger], [result], scores, {}, epoch=0, step=7, prefix="fitb", judge=None)
        >>> logs.flush([logger])
        >>> logger.experiment.metrics[0]["step"]
        7
    """

    def __init__(
        self, errors: ErrorPolicy, scores: ScoresName = "key", timelines: Mapping[str, Timeline] | None = None
    ) -> None:
        self._errors, self._scores = errors, scores
        self._timelines: dict[str, Timeline] = dict(timelines or {})  # by masking; only where something is logged
        self._recorded: Mapping[str, bytes] = {}  # what loggers were told of the probe's settings
        self._records: list[Record] = []  # which wait for the end of the validation
        self._display: Any = None  # in a notebook, where in the cell's output

    def begin(self) -> None:
        """Start a run: in a notebook, open a new output in its cell."""
        self._display = None

    def write(  # noqa: PLR0913 - all that is said of one epoch
        self,
        loggers: Sequence[Logger],
        results: Sequence[FillInBlanksResult],
        metrics: Mapping[str, float],
        settings: Mapping[str, bytes],
        *,
        epoch: int,
        step: int,
        prefix: str,
        judge: str | None,
    ) -> None:
        """Give scores, pictures and settings to the loggers, on the process that writes. Records follow with `flush`.

        Args:
            loggers: All get everything.
            results: One a masking.
            metrics: Of `fitb_callbacks.callback.comparison.scores_of`.
            settings: Files of `fitb_callbacks.integrations.probe_manifest.write_record`, logged when they change.
            epoch: The epoch that was probed.
            step: The step at which the epoch's metrics are logged.
            prefix: What the keys begin with.
            judge: The judge in words.
        """
        from fitb_callbacks.integrations.epoch_report import compose
        from fitb_callbacks.integrations.loggers import log_files, recognise

        logged = compose(
            results,
            metrics,
            self._timelines,
            epoch=epoch,
            step=step,
            prefix=prefix,
            judge=judge,
            draw=self._can_draw(),
            scores=self._scores,
        )
        changed = {name: content for name, content in settings.items() if self._recorded.get(name) != content}
        self._recorded = dict(settings)
        for logger in loggers:
            recognise(logger)
            with self._errors.survive(*_failed(logger, f"what was probed in epoch {epoch}")):
                if changed:
                    log_files(logger, prefix, changed)
                self._give(logger, logged)
        self._records += logged.records

    def write_untrained(self, loggers: Sequence[Logger], results: Sequence[FillInBlanksResult], *, prefix: str) -> None:
        """Give the loggers the pictures of the network before its training, at step 0, and begin the timelines."""
        if not self._can_draw():
            return
        from fitb_callbacks.integrations.epoch_report import compose_untrained
        from fitb_callbacks.integrations.loggers import recognise

        logged = compose_untrained(results, self._timelines, prefix=prefix)
        for logger in loggers:
            recognise(logger)
            with self._errors.survive(*_failed(logger, "the picture of the untrained network")):
                self._give(logger, logged)

    def _give(self, logger: Logger, logged: Logged) -> None:
        from fitb_callbacks.integrations.epoch_report import give

        if not give(logger, logged):
            kind = type(logger).__name__
            self._errors.warn_once(
                kind,
                f"{kind} gets the scores but no pictures: register a function for it with "
                "fitb_callbacks.integrations.loggers.log_picture.register",
            )

    @property
    def waits(self) -> bool:
        """Whether there are records to `flush`."""
        return bool(self._records)

    def flush(self, loggers: Sequence[Logger], validation: tuple[str, float] | None = None) -> None:
        """Give the loggers the records that wait.

        Args:
            loggers: All get everything.
            validation: Name and value of the accuracy that the training logged in the same validation.
        """
        if not self._records:
            return
        records, self._records = self._records, []
        from fitb_callbacks.integrations.epoch_report import give_records

        for logger in loggers:
            with self._errors.survive(*_failed(logger, f"the record of epoch {records[-1]['epoch']}")):
                give_records(logger, records, validation)

    def show_in_notebook(self, result: FillInBlanksResult, title: str, *, judge: str | None) -> None:
        """Replace the result shown in the output of the training's notebook cell, if there is one."""
        if "IPython" not in sys.modules or not self._can_draw():
            return
        from fitb_callbacks.integrations.notebook import in_notebook, live_display

        if in_notebook():
            self._display = live_display(result.html(title, judge=judge), self._display)

    def _can_draw(self) -> bool:
        try:
            import PIL  # noqa: F401
        except ModuleNotFoundError:
            self._errors.warn_once("Pillow", "there are scores but no pictures without Pillow: pip install pillow")
            return False
        return True

    def state_dict(self) -> dict[str, Any]:
        """The timelines, as tensors and primitives."""
        return {masking: timeline.state_dict() for masking, timeline in self._timelines.items()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on with the same timelines."""
        self._timelines = {masking: Timeline.from_state_dict(state) for masking, state in state_dict.items()}


def _failed(logger: Logger, what: str) -> tuple[str, str]:
    """Topic and warning of a logger that did not take something."""
    kind = type(logger).__name__
    return f"{kind} failed", f"{kind} did not take {what}; training goes on"
