"""When to probe: pure decisions, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass

from fitb_callbacks.utils.validation import check_integer

__all__ = ["Moment", "Schedule"]


@dataclass(frozen=True)
class Moment:
    """Where a run is.

    Attributes:
        epoch: The training epoch, from 0.
        step: Training batches that were followed by an optimizer step so far.
        kind: "validation", "epoch end" (of training), "batch end" (of training), or "run end".
        last_validation: Whether no further validation comes in this epoch.
    """

    epoch: int
    step: int
    kind: str
    last_validation: bool = True


@dataclass
class Schedule:
    """Decides at which moments to probe.

    Without settings, that is each validation, and the end of each training epoch without one. The first chance is
    always taken, so that a score is there when another callback first looks for it.

    Args:
        every_n_epochs: Probe at the end of every n-th epoch only, at least 1.
        every_n_train_steps: Probe when so many steps have passed since the last probe, at least 1: at a validation, or
            without validation after the training batch.

    Raises:
        ValueError: If a number is less than 1, or both are given.

    Example:
        >>> schedule = Schedule(every_n_epochs=2)
        >>> schedule.is_due(Moment(epoch=0, step=10, kind="validation"))
        (True, 'the first chance')
        >>> schedule.probed(Moment(epoch=0, step=10, kind="validation"))
        >>> schedule.is_due(Moment(epoch=0, step=10, kind="epoch end"))
        (False, 'probed in epoch 0')
        >>> schedule.is_due(Moment(epoch=1, step=20, kind="validation"))
        (True, 'every 2 epochs')
    """

    every_n_epochs: int | None = None
    every_n_train_steps: int | None = None
    probed_epoch: int = -1
    probed_step: int = -1

    def __post_init__(self) -> None:
        for name in ("every_n_epochs", "every_n_train_steps"):
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name), at_least=1)
        if self.every_n_epochs is not None and self.every_n_train_steps is not None:
            raise ValueError(
                "every_n_epochs and every_n_train_steps cannot both be given; "
                f"got {self.every_n_epochs} and {self.every_n_train_steps}"
            )

    def is_due(self, moment: Moment) -> tuple[bool, str]:
        """Whether to probe now, and why or why not."""
        if moment.kind == "run end":
            return True, "the last chance"
        if moment.kind == "batch end":
            due = self.every_n_train_steps is not None and (moment.step + 1) % self.every_n_train_steps == 0
            return due, f"every {self.every_n_train_steps} steps" if due else "in the middle of an epoch"
        if self.probed_step < 0 and self.probed_epoch < 0:
            return True, "the first chance"
        if moment.kind == "epoch end" and (self.probed_epoch >= moment.epoch or self.every_n_train_steps is not None):
            return False, f"probed in epoch {self.probed_epoch}"
        if self.every_n_train_steps is not None:
            due = moment.step - self.probed_step >= self.every_n_train_steps
            return due, f"{'' if due else 'not yet '}{self.every_n_train_steps} steps since the last probe"
        if self.every_n_epochs is not None:
            due = moment.last_validation and (moment.epoch + 1) % self.every_n_epochs == 0
            due = due and self.probed_epoch < moment.epoch
            return due, f"every {self.every_n_epochs} epochs"
        return True, "with each validation" if moment.kind == "validation" else "no validation in this epoch"

    def probed(self, moment: Moment) -> None:
        """Record that a probe ran, or was tried."""
        self.probed_epoch, self.probed_step = moment.epoch, moment.step

    def reset(self) -> None:
        """Begin anew."""
        self.probed_epoch = self.probed_step = -1
