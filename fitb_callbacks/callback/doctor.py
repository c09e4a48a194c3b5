"""What the callback would find in a training: one batch through everything, and nothing written."""

from __future__ import annotations

import dataclasses
import importlib
import runpy
import sys
import time
import warnings
from argparse import ArgumentError
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.loggers.logger import DummyLogger
from torch import Tensor

from fitb_callbacks.callback.callback import FillInBlanksCallback
from fitb_callbacks.callback.errors import ProbeOffError
from fitb_callbacks.callback.time_budget import share_of
from fitb_callbacks.callback.trainer import is_dummy
from fitb_callbacks.data.batches import read_batch
from fitb_callbacks.data.selection import usual_per_class
from fitb_callbacks.integrations.loggers import log_picture
from fitb_callbacks.models.logits import classifier
from fitb_callbacks.models.state import preserve_model_state
from fitb_callbacks.utils.messages import describe, one_line

__all__ = ["Examination", "LoggerFound", "examine"]

_MASKS = 2
_LONG_ENOUGH = 0.5  # seconds
_ENTERING = "taken from what enters the network in the step"
_OF_ONE_BATCH = ("the judge never sees it", "the judge has seen no training batch")


@dataclass(frozen=True)
class LoggerFound:
    """A logger of the Trainer: what it is, where it writes, and whether it takes pictures beside scores."""

    kind: str
    place: str
    takes_pictures: bool


@dataclass(frozen=True)
class Examination:
    """What was found in a training.

    Attributes:
        found: What to what it is, in words, in the order in which to read it.
        loggers: Of the Trainer.
        seconds: Estimated time of the probe at the end of an epoch, on this machine, if there is time for all masks.
        max_overhead: The share of the training's time that the callback's setting means, which may keep it shorter.
        hints: What may need attention.
    """

    found: dict[str, str]
    loggers: list[LoggerFound]
    seconds: float
    max_overhead: float | None
    hints: list[str]


def examine(path: Path, arguments: Sequence[str] = ()) -> Examination:
    """Run a training's own code up to ``Trainer.fit``, and one batch of training and of validation there.

    A ``.py`` file is run as ``python path arguments`` would, with ``Trainer.fit`` replaced: its first call examines and
    ends the script. A ``.yaml`` file is a ``LightningCLI`` configuration of ``fit`` that names its classes. What comes
    before ``fit`` happens as always. In ``fit``, loggers, checkpoints, early stopping and bars are off, as with
    ``fast_dev_run``; one step of the optimizer is made, in memory.

    Args:
        path: The script or configuration.
        arguments: For the script.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is neither, fails, never calls ``Trainer.fit``, or what it trains cannot be probed; the error
            says why in one line.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    if path.suffix in (".yaml", ".yml"):
        start: Callable[[], object] = lambda: _run_configuration(path)  # noqa: E731
    elif path.suffix == ".py":
        start = lambda: _run_script(path, arguments)  # noqa: E731
    else:
        raise ValueError(f"doctor takes a .py script or a .yaml configuration; got {path}")
    with _intercepted_fit(_trainers(path)):
        try:
            start()
        except _Examined as done:
            return done.examination
        except SystemExit as error:
            if error.code not in (None, 0):
                raise ValueError(f"{path} ended itself before Trainer.fit, with {error.code}") from error
        except _RefusedError:
            raise
        except ProbeOffError as error:  # in full: it ends in the line to paste
            raise ValueError(f"{path} cannot be probed. {error}") from error
        except Exception as error:  # the user's code may raise anything
            raise ValueError(f"{path} fails{_place(error, path)}: {one_line(error)}") from error
    raise ValueError(f"{path} never calls fit of a Trainer of lightning or pytorch_lightning")


def _trainers(path: Path) -> list[Any]:
    """The classes whose ``fit`` may be called: `pytorch_lightning` has its own, and importing it takes seconds."""
    if path.suffix == ".py" and "pytorch_lightning" in path.read_text(encoding="utf-8", errors="replace"):
        with suppress(ImportError):
            return [Trainer, importlib.import_module("pytorch_lightning").Trainer]
    return [Trainer]


class _RefusedError(ValueError):
    """With all that there is to say."""


class _Examined(BaseException):
    """Ends the user's code; no Exception, so that the code does not catch it."""

    def __init__(self, examination: Examination) -> None:
        super().__init__()
        self.examination = examination


def _run_script(path: Path, arguments: Sequence[str]) -> None:
    before = sys.argv, sys.path[:]
    sys.argv, sys.path[0:0] = [str(path), *arguments], [str(path.resolve().parent)]
    try:
        runpy.run_path(str(path), run_name="__main__")
    finally:
        sys.argv, sys.path[:] = before


def _run_configuration(path: Path) -> None:
    from lightning.pytorch.cli import LightningCLI

    before = sys.argv, sys.path[:]
    sys.argv, sys.path[0:0] = [str(path)], [str(Path.cwd())]
    try:
        LightningCLI(
            save_config_callback=None,
            args=["fit", "--config", str(path)],
            parser_kwargs={"exit_on_error": False},
        )
    except (ArgumentError, SystemExit) as error:
        raise _RefusedError(
            f"LightningCLI refuses {path}: {one_line(error, longest=200)} If a script names the classes, give that: "
            f"fitb doctor script.py -- fit --config {path}"
        ) from error
    finally:
        sys.argv, sys.path[:] = before


@contextmanager
def _intercepted_fit(kinds: Sequence[Any]) -> Iterator[None]:
    """Let ``fit`` of these Trainers examine, once, in place of training."""
    own = [kind.fit for kind in kinds]

    def put_back() -> None:
        for kind, fit in zip(kinds, own, strict=True):
            kind.fit = fit

    def examine_instead(trainer: Trainer, model: LightningModule, *args: Any, **options: Any) -> NoReturn:
        put_back()
        options["ckpt_path"] = None
        raise _Examined(_examine_fit(trainer, model, *args[:3], **options))

    for kind in kinds:
        kind.fit = examine_instead
    try:
        yield
    finally:
        put_back()


def _examine_fit(trainer: Trainer, model: LightningModule, *args: Any, **options: Any) -> Examination:
    if trainer.world_size > 1:
        raise _RefusedError(f"doctor looks at one process; the Trainer has {trainer.world_size}: set devices=1 for it")
    loggers = [_look_at(logger) for logger in trainer.loggers if not is_dummy(logger)]
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    callbacks[:] = [
        callback
        for callback in callbacks
        if not {"ModelSummary", "ProgressBar", "SaveConfigCallback"}
        & {base.__name__ for base in type(callback).__mro__}
    ]
    probing = next((callback for callback in callbacks if isinstance(callback, FillInBlanksCallback)), None)
    used = "as it stands in the Trainer"
    if probing is None:
        used = "none in the Trainer; looked at with its defaults"
        callbacks.append(probing := FillInBlanksCallback())
    look = _Look(probing, num_masks=probing.probe.num_masks)
    probing.probe = dataclasses.replace(probing.probe, num_masks=_MASKS)
    probing.further_probes = {
        masking: dataclasses.replace(probe, num_masks=_MASKS) for masking, probe in probing.further_probes.items()
    }
    max_overhead, probing.max_overhead = probing.max_overhead, None  # it is to probe here, however short this is
    probing.on_error, probing._errors.spares_parts = "raise", True
    callbacks.append(look)
    _limit_to_one_batch(trainer)
    with _warnings_to(look.hint):
        trainer.fit(model, *args, **options)
    assert look.seconds is not None
    return Examination(
        found={"callback": used, **look.found},
        loggers=loggers,
        seconds=look.seconds,
        max_overhead=share_of(max_overhead),
        hints=look.hints,
    )


@contextmanager
def _warnings_to(hint: Callable[[str], None]) -> Iterator[None]:
    """Take the callback's own warnings for hints, but for those that only a single batch gives reason for."""
    show = warnings.showwarning

    def taken(message: Warning | str, *rest: Any, **options: Any) -> None:
        name, colon, text = str(message).partition(": ")
        if not (colon and name == FillInBlanksCallback.__name__):
            show(message, *rest, **options)
        elif not any(part in text for part in _OF_ONE_BATCH):
            hint(f"{text[:1].upper()}{text[1:]}.")

    warnings.showwarning = taken
    try:
        yield
    finally:
        warnings.showwarning = show


def _limit_to_one_batch(trainer: Trainer) -> None:
    """What ``Trainer(fast_dev_run=1)`` sets, with the sanity check that the training would have; the Trainer exists."""
    trainer.fast_dev_run = True  # type: ignore[attr-defined]
    trainer.limit_train_batches = trainer.limit_val_batches = 1
    trainer.num_sanity_val_steps = min(1, trainer.num_sanity_val_steps)
    trainer.fit_loop.max_epochs, trainer.fit_loop.min_epochs = 1, None
    trainer.fit_loop.epoch_loop.max_steps, trainer.fit_loop.epoch_loop.min_steps = 1, None
    trainer.val_check_interval = 1.0
    trainer._val_check_time_interval = None  # type: ignore[attr-defined] # of Lightning 2.6; an attribute more does not hurt an older one
    trainer.check_val_every_n_epoch = 1
    trainer.loggers = [DummyLogger()] if trainer.loggers else []


def _look_at(logger: Logger) -> LoggerFound:
    place = getattr(logger, "_tracking_uri", None) or getattr(logger, "log_dir", None) or logger.save_dir
    takes_pictures = log_picture.dispatch(type(logger)) is not log_picture.dispatch(object)
    return LoggerFound(type(logger).__name__, str(place or ""), takes_pictures)


@dataclass(eq=False)
class _Look(Callback):
    """Watches the callback at work."""

    probing: FillInBlanksCallback
    num_masks: int
    found: dict[str, str] = field(default_factory=dict)
    hints: list[str] = field(default_factory=list)
    seconds: float | None = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._look("training", trainer, pl_module, batch)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if dataloader_idx == 0:
            self._look("validation", trainer, pl_module, batch)

    def _look(self, name: str, trainer: Trainer, pl_module: LightningModule, batch: Any) -> None:
        self.found[f"{name} batch"] = describe(batch)
        try:
            images, labels = read_batch(batch, self.probing.batch_adapter)
            self._look_at(name, trainer, pl_module, images, labels)
        except Exception:  # noqa: BLE001 - the run's own step says what its batches are
            self.found[f"{name} images"] = _ENTERING

    def _look_at(self, name: str, trainer: Trainer, pl_module: LightningModule, images: Tensor, labels: Tensor) -> None:
        self.found[f"{name} images"] = f"{describe(images)}, {_range(images)}"
        self.found[f"{name} labels"] = _labels(labels)
        with trainer.precision_plugin.forward_context(), preserve_model_state(pl_module), torch.no_grad():
            logits = classifier(pl_module, self.probing.logits_fn)(images[:2])
        self.found["logits"] = f"{logits.shape[1]} classes, from {_source(self.probing, pl_module)}"
        if logits.min() >= 0 and torch.allclose(logits.sum(dim=1).float(), torch.ones(len(logits)).to(logits.device)):
            self.hint("The model returns probabilities: take the softmax out, or pass logits_fn=; its gradients fade.")
        if images.max() > 10:
            self.hint(f"Values of the {name} images reach {images.max():.0f}. Is that what the model takes?")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        result = self.probing.result
        assert result is not None
        if "validation batch" not in self.found:
            self.hint("There is no validation: probe images come from the training batches, with their augmentation.")
        for stage, said in self.probing.read_as.items():
            self.found[f"{stage} step"] = said
            if "what enters the network" in said:
                self.found[f"{stage} images"] = _ENTERING
        settings, num_classes = result.settings, int(result.settings["num_classes"])
        self.found["logits"] = f"{num_classes} classes, from {_source(self.probing, pl_module)}"
        names = result.class_names
        self.found["class names"] = "none; pass class_names=" if names is None else ", ".join(names[:10])
        self.found["patches"] = f"{settings['patch_size']} pixels, a share of {settings['mask_ratio']:g} of them hidden"
        shown = ("low", "high", "baseline")
        self.found["picture range"] = ", ".join(f"{name} {_numbers(settings[name])}" for name in shown)
        chosen = self.probing._images
        of_each = chosen.images_per_class or usual_per_class(num_classes)
        expected = min(chosen.max_images, of_each * num_classes)
        self.seconds = self._estimate(trainer, pl_module, expected)
        self.found["probe"] = f"{self.num_masks} masks on up to {expected} images ({of_each} a class)"

    def _estimate(self, trainer: Trainer, pl_module: LightningModule, expected: int) -> float:
        """Seconds of a probe of this many images.

        What a probe of a single mask takes is the same for any number; more and more masks are timed until they take
        long enough beside it to tell what one costs.
        """
        images, labels = self.probing._images.images, self.probing._images.labels
        assert images is not None
        more, seconds = 0, 0.0
        with trainer.precision_plugin.forward_context():
            whole = self._timed(pl_module, images, labels, num_masks=1)
            one = self._timed(pl_module, images, labels, num_masks=1, fill=None)
            while seconds < _LONG_ENOUGH and more < self.num_masks - 1:
                more = min(max(1, 2 * more), self.num_masks - 1)
                seconds = self._timed(pl_module, images, labels, num_masks=1 + more, fill=None) - one
        of_masks = max(seconds, 0.0) * (self.num_masks - 1) / max(more, 1)
        return (whole + of_masks) * expected / len(images)

    def _timed(self, pl_module: LightningModule, images: Tensor, labels: Tensor | None, **changes: Any) -> float:
        started = time.perf_counter()
        for probe in (self.probing.probe, *self.probing.further_probes.values()):
            short = dataclasses.replace(probe, **changes)
            short.probe(pl_module, images, labels, logits_fn=self.probing.used_logits_fn)
        return time.perf_counter() - started

    def hint(self, text: str) -> None:
        """Note what may need attention, once."""
        if text not in self.hints:
            self.hints.append(text)


def _range(images: Tensor) -> str:
    values = images.float()
    return f"from {values.min():.3g} to {values.max():.3g}, mean {values.mean():.3g}"


def _labels(labels: Tensor) -> str:
    classes = labels.unique().tolist()
    return f"{len(labels)} of {len(classes)} classes, from {classes[0]} to {classes[-1]}"


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:.3g}" for value in values)


def _source(probing: FillInBlanksCallback, pl_module: LightningModule) -> str:
    if probing.logits_fn is not None:
        return "logits_fn"
    return f"{type(pl_module).__name__}.forward" if probing.used_logits_fn is None else "the step's own call"


def _place(error: Exception, path: Path) -> str:
    """Where in the user's own file it happened."""
    lines, trace = [], error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            lines.append(trace.tb_lineno)
        trace = trace.tb_next
    return f" in line {lines[-1]}" if lines else ""
