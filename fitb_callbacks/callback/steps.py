"""What a run's own steps tell: how it uses its model, images to probe on, and batches for the judge."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from fitb_callbacks.callback.errors import ErrorPolicy
from fitb_callbacks.callback.first_try import checked
from fitb_callbacks.callback.judge import RunJudge
from fitb_callbacks.callback.probe_images import ProbeImages
from fitb_callbacks.callback.reading import StepReader, muted
from fitb_callbacks.callback.sharding import apart_from_training, is_sharded, through_the_root
from fitb_callbacks.callback.time_budget import Speeds, TimeBudget
from fitb_callbacks.callback.trainer import stage_of, steps_by_itself, validates_in_this_epoch
from fitb_callbacks.data.batches import BatchAdapter, Reference, batches_of, read_batch
from fitb_callbacks.data.selection import every_label, one_label_each
from fitb_callbacks.models.logits import LogitsFn
from fitb_callbacks.models.observation import Observation
from fitb_callbacks.models.volumes import folded
from fitb_callbacks.probing.probe import FillInBlanks
from fitb_callbacks.utils.distributed import all_reduce_max
from fitb_callbacks.utils.messages import one_line
from fitb_callbacks.utils.rng import isolate_rng

__all__ = ["ADVICE", "OTHER_IMAGES", "RunSteps", "StepSettings", "as_in_the_run"]

OTHER_IMAGES = (
    "the probe images are not those of the checkpoint, which are not among this run's: scores before and after do not "
    "compare"
)
ADVICE = (
    "If this run does classify images, say how: FillInBlanksCallback(batch_adapter=lambda batch: (images, labels), "
    "logits_fn=lambda module, images: logits)"
)

_NO_JUDGE = ". So no judge learns from it; FillInBlanksCallback(reference=(images, labels)) gives it some to learn from"

_LOOK_SECONDS = 0.1
_LOOK_BATCHES = 3
"""What a first look takes at most: so many seconds, and what so many training batches take."""

_AGREED_BATCHES = 128
"""Several processes agree at least this often on whether there is time, as they do at batches 1, 2, 4 and so on."""


@dataclass(frozen=True)
class StepSettings:
    """What the user says of the run's steps, see `fitb_callbacks.FillInBlanksCallback`.

    Attributes:
        probes: Which probe with what is found.
        prefix: What the keys of the scores begin with.
        batch_adapter: Reads a batch.
        logits_fn: Computes the logits.
        probe_images: Images and labels to probe on, in place of the run's.
        dataloader_idx: Which validation or test loader probe images come from.
    """

    probes: tuple[FillInBlanks, ...]
    prefix: str
    batch_adapter: BatchAdapter | None
    logits_fn: LogitsFn | None
    probe_images: Reference | None
    dataloader_idx: int


class RunSteps:
    """Watches the steps of a run, as far as anything is wanted of them.

    The first one is put through everything once, to find out what cannot work. Images go to the probe images, training
    batches to the judge.

    Args:
        settings: What the user says.
        images: The run's probe images.
        judge: The run's judge.
        budget: Is told what time this takes.
        errors: Is told what is wrong.
        images_change: Called when probe images are chosen anew, so that scores before and after do not compare.
    """

    def __init__(  # noqa: PLR0913 - all that the steps give something to
        self,
        settings: StepSettings,
        *,
        images: ProbeImages,
        judge: RunJudge,
        budget: TimeBudget,
        errors: ErrorPolicy,
        images_change: Callable[[], None],
    ) -> None:
        self._settings, self._images, self._run_judge = settings, images, judge
        self._budget, self._errors, self._images_change = budget, errors, images_change
        self._readers = {
            stage: StepReader(stage, settings.batch_adapter, settings.logits_fn)
            for stage in ("validation", "training", "test")
        }
        self._pending: tuple[Tensor, Tensor] | None = None
        self._batch: Any = None
        self._seen: Observation | None = None
        self._checked_by = ""
        self._found_logits_fn: LogitsFn | None = None
        self._given_taken = False
        self._image_shape: tuple[int, ...] | None = None
        self._training_batches = 0
        self._time_is_there = not budget.is_strict
        self._asks_on = self._waits_for_validation = False
        self.checked = False
        """Whether a step has gone through everything once."""
        self.postponed = ""
        """Why no step has yet, if that is for lack of time."""
        self.forward_only = False
        """Whether no gradient passes from the logits back to the images."""
        self.num_classes = 0
        """Number of classes of the model; 0 before that is known."""
        self.logits_fn: LogitsFn | None = None
        """What computes the logits, given or found; None for the model's own ``forward``."""
        self.speeds = Speeds()
        """What the parts of a probe take at least."""

    def end(self) -> None:
        """Stop watching, wherever a step is."""
        for reader in self._readers.values():
            reader.end()

    # --- what is wanted --------------------------------------------------------------------------------------------

    def wants_training_batch(self, trainer: Trainer) -> bool:
        """Whether anything is wanted of a training batch: class means, probe images. Every process must call this."""
        self._training_batches += 1
        wants_images = self._images.images is None and not validates_in_this_epoch(trainer)
        wanted = wants_images or not self.checked or self._run_judge.wants_batches(trainer.current_epoch)
        wanted = wanted and not (self._waits_for_validation and self._validation_may_tell(trainer))
        if self._budget.is_strict and (trainer.world_size == 1 or self._processes_agree_now):
            *clock, wanted_by_any = all_reduce_max([*self._budget.clock(), float(wanted)], trainer.world_size)
            self._find_time((clock[0], clock[1]))
            self._asks_on = self._time_is_there and wanted_by_any > 0
        return wanted and self._time_is_there

    def wants_evaluation_batch(self, trainer: Trainer, dataloader_idx: int) -> bool:
        """Whether anything is wanted of a validation or test batch: how the model is used, probe images."""
        wanted = not self.checked or self._images.images is None or self._images.wants_to_look
        if dataloader_idx != self._loader_looked_at(trainer) or not (wanted or _is_first_batch(trainer)):
            return False
        if not self.checked and stage_of(trainer) == "fit" and self._budget.is_strict and trainer.world_size == 1:
            self._find_time(self._budget.clock())
        return self.checked or self._time_is_there or stage_of(trainer) != "fit"

    @property
    def _processes_agree_now(self) -> bool:
        """Whether processes agree, at this training batch, on whether there is time: often while that is used.

        In a validation they cannot, as each may have another number of batches; what they agreed on last holds there.
        """
        number = self._training_batches
        return self._asks_on or number % _AGREED_BATCHES == 0 or number & (number - 1) == 0

    def _find_time(self, clock: tuple[float, float]) -> None:
        """Find out whether a share of the time that was given has room for a first look, or for more of the judge.

        Args:
            clock: Of the budget, the same on every process.
        """
        seconds = clock[0] / max(self._training_batches, 1)
        look = 0.0 if self.checked else _LOOK_SECONDS + _LOOK_BATCHES * seconds
        self._time_is_there = self._budget.affords(look, clock)
        late = not self._time_is_there and not self.checked
        self.postponed = self._budget.why_waiting(look, "a first look at the model") if late else ""

    def in_words(self) -> dict[str, str]:
        """What was found in the steps of each stage that was looked at, in a sentence."""
        return {stage: reader.in_words() for stage, reader in self._readers.items() if reader.understood}

    @property
    def probes(self) -> list[FillInBlanks]:
        """The run's probes, as far as its model allows."""
        forward_only = self.forward_only
        return [replace(probe, update="none") if forward_only else probe for probe in self._settings.probes]

    def _loader_looked_at(self, trainer: Trainer) -> int:
        """`dataloader_idx`, or 0 if there is no such loader."""
        number = len(trainer.num_test_batches if stage_of(trainer) == "test" else trainer.num_val_batches)
        wanted = self._settings.dataloader_idx
        if wanted < number:
            return wanted
        self._errors.warn_once(
            "dataloader_idx",
            f"dataloader_idx must be less than {number}, the number of loaders; got {wanted}. Probe images come from "
            "loader 0",
        )
        return 0

    def begins(self, stage: str, pl_module: LightningModule, batch: Any) -> None:
        """Watch a step, or read its batch, as it begins."""
        reader = self._readers[stage]
        with self._budget.aside(), self._errors.degrade("batch", f"a {stage} batch could not be read"):
            reader.begin(pl_module, batch)
            self._batch = batch
            if reader.understood and not reader.watches:  # now, as a step may change its batch in place
                self._pending = reader.read(batch)

    def forward_ends(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A forward pass of a training step is over: read the step now, or at its end.

        A step that optimizes by hand may go on to other losses. Where parameters are sharded, the model must rest.
        """
        if is_sharded(trainer):
            self._seen = self._seen or self._readers["training"].end()
        elif not steps_by_itself(pl_module):
            self.ends("training", trainer, pl_module)

    def ends(self, stage: str, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the step that was looked at, if one was; called once or twice for each."""
        reader, batch, self._batch = self._readers[stage], self._batch, None
        seen, self._seen = reader.end() or self._seen, None
        if batch is None:
            return
        pending, self._pending = self._pending, None
        with self._budget.aside(), self._errors.degrade("batch", f"a {stage} batch could not be read"):
            tells = reader.understood or self._understand(reader, trainer, pl_module, batch, seen)
            if tells and not self._errors.off:
                self._use(stage, trainer, pl_module, *(pending or reader.read(batch, seen)))

    def _understand(
        self, reader: StepReader, trainer: Trainer, pl_module: LightningModule, batch: Any, seen: Observation | None
    ) -> bool:
        """Whether the step tells how the model is used, and the batch what is in it."""
        try:
            with as_in_the_run(trainer, pl_module), isolate_rng():
                way = lambda logits_fn: through_the_root(trainer, logits_fn) or logits_fn  # noqa: E731
                known = None if self._image_shape is None else (self._image_shape, self.num_classes)
                reader.understand(pl_module, batch, seen, known, way)
            if not reader.watches:
                reader.read(batch)
        except TypeError as error:
            if reader.stage == "training" and self._validation_may_tell(trainer):
                self._waits_for_validation = True
                return False
            if self.checked:  # the validation serves for everything but the judge
                self._run_judge.give_up()
                raise TypeError(f"{error}{_NO_JUDGE if reader.stage == 'training' else ''}") from error
            self._errors.switch_off(f"{error}. The batch is {reader.batch_words}. {ADVICE}")
            return False
        for note in () if reader.usage is None else reader.usage.notes:
            rank_zero_info(f"FillInBlanksCallback: {note}")
        return reader.understood

    def _validation_may_tell(self, trainer: Trainer) -> bool:
        """Whether this epoch's validation is still to be looked at; its step can be run again, so it tells more."""
        return not self.checked and validates_in_this_epoch(trainer) and not self._readers["validation"].understood

    def _use(self, stage: str, trainer: Trainer, pl_module: LightningModule, images: Tensor, labels: Tensor) -> None:
        """Take what is wanted of a step's images ``(B, C, H, W)`` and labels."""
        if not self.checked and (stage == "training" or not self._readers[stage].silent):
            self._check(trainer, pl_module, self._readers[stage], images, labels)
        if self._errors.off or not self.checked:
            return
        self._follow_labels(stage, trainer)
        several = every_label(images, labels) if labels.ndim == 2 else None
        images, labels = self._without_bad_items(*_one_label_each(images, labels))
        self._follow_size(images)
        wanted = stage != "training" or not validates_in_this_epoch(trainer)
        if wanted and self._images.images is None and trainer.sanity_checking:
            self._images.offer_spare(images, labels)
        elif wanted and self._images.images is None:
            self._images.offer(images, labels)
        elif stage != "training" and self._images.wants_to_look and not trainer.sanity_checking:
            self._images.look_for(images, labels)
        if stage == "training":
            images, labels = (images, labels) if several is None else self._without_bad_items(*several)
            self._run_judge.stream(folded(images), labels, epoch=trainer.current_epoch)

    def _follow_labels(self, stage: str, trainer: Trainer) -> None:
        """Choose new probe images if labels turn out not to exclude each other."""
        logits_fn = self._readers[stage].logits_fn
        if stage == self._checked_by and logits_fn is not self._found_logits_fn:
            self._found_logits_fn, self.logits_fn = logits_fn, through_the_root(trainer, logits_fn)
            self._errors.warn_once(
                "labels",
                "an image has several labels, unlike those before it: each label is probed by itself from now on, and "
                "scores before and after do not compare",
            )
            self._images.begin()
            self._images_change()

    def _without_bad_items(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Leave out images that hold NaN and labels that are no class."""
        no_class = (labels < 0) | (labels >= self.num_classes)
        not_finite = _not_finite(images)
        bad = no_class.to(images.device) | not_finite
        if not bad.any():
            return images, labels
        found = sorted(set(labels[no_class].tolist()))[:5]
        what = [f"labels {found} are none of the {self.num_classes} classes"] if found else []
        what += ["images hold NaN or infinite values"] if not_finite.any() else []
        self._errors.warn_once("items", f"items are left out: {' and '.join(what)}")
        return images[~bad], labels[~bad.to(labels.device)]

    def _follow_size(self, images: Tensor) -> None:
        """Choose new probe images if the run's images have changed their size."""
        chosen = self._images.images
        if (
            chosen is None
            or self._settings.probe_images is not None
            or not len(images)
            or images.shape[1:] == chosen.shape[1:]
        ):
            return
        self._errors.warn_once(
            "size",
            f"the run's images are now {tuple(images.shape[1:])}, no longer {tuple(chosen.shape[1:])}: probe images "
            "are chosen anew, and scores before and after do not compare",
        )
        self._images.begin()
        self._images_change()

    def _check(
        self, trainer: Trainer, pl_module: LightningModule, reader: StepReader, images: Tensor, labels: Tensor
    ) -> None:
        """Find a few updates of the first step's images, to know now what cannot work."""
        images, labels = _one_label_each(images, labels)
        good = (labels >= 0) & images.flatten(1).isfinite().all(dim=1).to(labels.device)
        images, labels = images[good.to(images.device)], labels[good]
        if not len(images):
            return
        self.forward_only = reader.usage is not None and not reader.usage.differentiable
        if self.forward_only:
            prefix = self._settings.prefix
            self._run_judge.give_up()
            self._errors.warn_once(
                "gradients",
                "no gradient passes from the logits back to the images, so nothing is filled in; what the model relies "
                f"on is measured by forward passes: {prefix}/shortcut, {prefix}/spot_share",
            )
        with self._errors.ends_all(lambda error: f"{one_line(error)}. The batch is {reader.batch_words}. {ADVICE}"):
            logits_fn = through_the_root(trainer, reader.logits_fn)
            with as_in_the_run(trainer, pl_module):
                self.num_classes, self.speeds = checked(self.probes, pl_module, images, logits_fn)
            self._found_logits_fn, self.logits_fn, self._checked_by = reader.logits_fn, logits_fn, reader.stage
            self.checked, self._image_shape = True, tuple(images.shape[1:])
            if not trainer.sanity_checking:
                self._images.offer_spare(*self._without_bad_items(images, labels))
            self._take_given_images(images)
        with self._errors.degrade("judge", "the judge does not fit, so there is none"):
            try:
                shape, depth = tuple(folded(images).shape[1:]), images.shape[2] if images.ndim == 5 else None
                self._run_judge.check(shape, self.num_classes, depth=depth, batch_adapter=self._settings.batch_adapter)
            except Exception:
                self._run_judge.give_up()
                raise

    def _take_given_images(self, like: Tensor) -> None:
        if self._settings.probe_images is None or self._given_taken:
            return
        self._given_taken = True
        self._images.give_up_images()
        with isolate_rng():
            for batch in batches_of(self._settings.probe_images, name="probe_images"):
                images, labels = read_batch(batch, self._settings.batch_adapter)
                if images.shape[1:] != like.shape[1:]:
                    raise ValueError(
                        f"probe_images must be of the shape {tuple(like.shape[1:])}, as they enter the network; got "
                        f"{tuple(images.shape[1:])}"
                    )
                self._images.offer(*self._without_bad_items(images.to(like.dtype), labels))
        if self._images.fix(world_size=1):  # every process has the same ones
            self._errors.warn_once("other images", OTHER_IMAGES)
            self._images_change()


@contextmanager
def as_in_the_run(trainer: Trainer, pl_module: LightningModule) -> Iterator[None]:
    """The precision of the run's own forward passes, and nothing logged by them."""
    with apart_from_training(trainer), trainer.precision_plugin.forward_context(), muted(pl_module):
        yield


def _is_first_batch(trainer: Trainer) -> bool:
    return bool(trainer.fit_loop.epoch_loop.val_loop.batch_progress.current.ready <= 1)


def _one_label_each(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Of independent labels ``(B, labels)``, one of each image's own; otherwise what was given."""
    return one_label_each(images, labels) if labels.ndim == 2 else (images, labels)


def _not_finite(images: Tensor) -> Tensor:
    """Which images ``(B, C, H, W)`` hold a value that is not finite; boolean, shape ``(B,)``."""
    if images.numel() and all(end.isfinite() for end in images.aminmax()):  # much quicker, and nearly always enough
        return torch.zeros(len(images), dtype=torch.bool, device=images.device)
    return ~images.flatten(1).isfinite().all(dim=1)
