"""How a run uses its model as a classifier of images, found from what was observed of one of its own steps."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from fitb_callbacks.models.answers import independent
from fitb_callbacks.models.gradients import gradients_opened
from fitb_callbacks.models.logits import LogitsFn, find_logits
from fitb_callbacks.models.losses import (
    PROBABILITIES,
    Entry,
    NotAClassifierError,
    classes_of,
    classification_loss,
    entries_of,
    images_and_targets,
    is_made,
    is_multi_label,
    place_in,
)
from fitb_callbacks.models.observation import CHOICE, LossCall, ModuleCall, Observation, stop_at_loss
from fitb_callbacks.models.state import preserve_model_state
from fitb_callbacks.models.volumes import channels_at
from fitb_callbacks.utils.messages import describe, one_line
from fitb_callbacks.utils.nested import Path, at_path, map_tensors, tensors_in

__all__ = ["Usage", "Way", "as_multi_label", "find_inputs", "find_usage", "same_way"]

_TOLERANCE = 0.05
_OTHER_LOGITS = "gives other logits than the step did"
_IMAGE_DIMENSIONS = 4
_RANDOM = 3.0  # times as far from the step's logits as from its own, if a model is random

Rerun = Callable[[Any], Any]
"""Runs the run's own step again on a batch, without any effect beside the forward pass."""

Way = Callable[[LogitsFn], LogitsFn]
"""Lets what computes logits call the model in a certain way, as sharded ones need it."""


def same_way(logits_fn: LogitsFn) -> LogitsFn:
    """Call the model as it is."""
    return logits_fn


@dataclass(frozen=True)
class Usage:
    """How a run uses its model.

    Attributes:
        images: What entered the network in the observed step, shape ``(B, C, H, W)``.
        targets: What its output was compared with; None if no loss of torch's was seen.
        logits_fn: ``logits_fn(model, images)`` computes the logits as the step did; None if ``model(images)`` does.
        loss: Name of the loss, or of the softmax or sigmoid.
        num_classes: Number of classes, 2 for a single logit.
        multi_label: Whether several classes may be true of one image.
        notes: What a user should know, in sentences.
        differentiable: Whether gradients pass from the logits back to the images.
    """

    images: Tensor
    targets: Tensor | None
    logits_fn: LogitsFn | None
    loss: str
    num_classes: int
    multi_label: bool = False
    notes: tuple[str, ...] = ()
    differentiable: bool = True


def find_usage(
    model: nn.Module, seen: Observation, batch: Any, rerun: Rerun | None = None, way: Way = same_way
) -> Usage:
    """Find what the model's logits are, and how to compute them from images, as the observed step did.

    Each way that suggests itself is tried on the observed images and, if the step ran in evaluation mode, compared with
    the logits that were observed: ``model(images)``, another call of a module that the step made, the step itself up to
    its loss.

    Args:
        model: As it was observed; left as it was found.
        seen: What was observed.
        batch: The step's batch.
        rerun: Runs the step again.
        way: How the model must be called while ways are tried; `Usage.logits_fn` is without it.

    Raises:
        NotAClassifierError: If the step does not classify images; the error says what was found instead.
        LookupError: If the step called no loss that could tell.

    Example:
        >>> import torch.nn.functional as F
        >>> from fitb_callbacks.models.observation import Observer
        >>> model, batch = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), (torch.rand(4, 1, 4, 4), torch.arange(4) % 3)
        >>> observer = Observer(model.eval())
        >>> observer.start()
        >>> loss = F.cross_entropy(model((batch[0] - 0.5) / 0.5), batch[1])
        >>> usage = find_usage(model, observer.stop(), batch)
        >>> usage.num_classes, usage.logits_fn is None, torch.equal(usage.images, (batch[0] - 0.5) / 0.5)
        (3, True, True)
    """
    loss = classification_loss(seen, batch)
    entries = entries_of(loss, seen)
    if not entries and not seen.calls:
        raise LookupError("no call of a module was seen")
    if not entries:
        raise NotAClassifierError(
            "no image entered a module of the model: no argument was a tensor of 4 dimensions (B, C, H, W), or of 5"
        )
    _check_single(entries)
    failures: list[str] = []
    forward_only: Usage | None = None
    for attempt in _attempts(model, seen, loss, entries, batch, rerun):
        if attempt.made and forward_only is not None:
            break
        found = _tried(model, attempt, loss, way, compare=attempt.compares and not seen.training)
        if isinstance(found, Usage) and found.differentiable:
            return found
        if isinstance(found, Usage):
            forward_only = forward_only or found
        else:
            failures.append(f"{attempt.name}: {found}")
    if forward_only is not None:
        return forward_only
    if loss.function == CHOICE:
        raise LookupError("no loss of torch.nn.functional was seen")
    failures = failures or ["what the loss takes is none of the outputs of the modules that images enter"]
    listed = "; ".join(dict.fromkeys(failures))
    raise NotAClassifierError(f"the logits cannot be computed again from images: {listed}")


def _check_alone(entries: list[Entry], batch: Any) -> None:
    """Raise if the network saw several images of a batch's item, such as pairs, and what is said is of all of them."""
    places = {place_in(images, batch) for _, _, images in entries} - {None}
    if len(places) > 1:
        raise NotAClassifierError(
            f"{len(places)} images of each item enter the network, and what it says of one may depend on the others"
        )


def as_multi_label(usage: Usage, compute: LogitsFn | None = None) -> Usage:
    """The same use of a model, with each of its logits taken for a label of its own.

    Args:
        usage: Of a loss that takes independent labels.
        compute: What computes the logits ``(B, labels)``; None for what does in ``usage``.
    """
    compute = compute or usage.logits_fn or (lambda model, images: find_logits(model(images), batch_size=len(images)))
    return replace(
        usage,
        multi_label=True,
        logits_fn=lambda model, images: independent(compute(model, images).reshape(len(images), -1)),
    )


def find_inputs(seen: Observation, shape: tuple[int, ...], batch: Any, num_classes: int = 0) -> Usage:
    """Find what entered the network and what its output was compared with, if how it is used is known already.

    Args:
        seen: What was observed.
        shape: ``(C, H, W)`` of the images that enter the network.
        batch: The step's batch.
        num_classes: Of the model; 0 if that is not known.

    Raises:
        NotAClassifierError: If there are none of this shape, or if they are compared with labels of other classes.
        LookupError: If the step called no loss that could tell.
    """
    loss = classification_loss(seen, batch, num_classes)
    if loss.target is None:
        raise LookupError("no loss of torch.nn.functional was seen")
    classes = classes_of(loss)
    if num_classes not in (0, classes):
        raise NotAClassifierError(f"{loss.function} tells {classes} classes apart, and the model {num_classes}")
    images, targets = images_and_targets(seen, batch, shape=shape, loss=loss.function, num_classes=classes)
    return Usage(images.float(), targets, None, loss.function, classes, is_multi_label(loss))


def _check_single(entries: list[Entry]) -> None:
    """Raise unless a call takes one image at a time: beside other images than its own it means something else."""
    for number, (call, _, images) in enumerate(entries):
        others = [other for same, _, other in entries[number + 1 :] if same is call and len(other) == len(images)]
        if any(other.shape != images.shape or not torch.equal(other, images) for other in others):
            raise NotAClassifierError(
                f"{call.name or 'forward'} takes {len(others) + 1} images at once, and what it says of one depends on "
                "the others"
            )


@dataclass(frozen=True)
class _Attempt:
    name: str
    images: Tensor
    compute: LogitsFn
    simple: bool = False  # model(images)
    compares: bool = True  # the same logits as in the step are to be expected
    beside_others: LogitsFn | None = None  # the same again, while the rest of the batch is of other images
    made: bool = False  # by a network: an image that another part of the model has changed


def _attempts(  # noqa: PLR0913 - all that was observed
    model: nn.Module,
    seen: Observation,
    loss: LossCall,
    entries: list[Entry],
    batch: Any,
    rerun: Rerun | None,
) -> Iterator[_Attempt]:
    real = [entry for entry in entries if not is_made(entry)]
    yield from _attempts_at_calls(model, loss, real)
    if rerun is not None:
        _check_alone(entries, batch)
        inner = [(call, path, images) for call in seen.calls if call.inside for path, images in call.images()]
        for call, path, images in (*(real or entries), *inner[:2]):
            compute, beside_others = (
                _of_step(call, path, loss, seen, rows, rerun, place=place_in(images, batch))
                for rows in (batch, map_tensors(_of_other_images, batch))
            )
            yield _Attempt("the validation step itself", images, compute, beside_others=beside_others)
    shapes = {images.shape[1:] for _, _, images in real}
    made = [entry for entry in entries if is_made(entry) and (not shapes or entry[2].shape[1:] in shapes)]
    for attempt in _attempts_at_calls(model, loss, made):
        yield replace(attempt, made=True)


def _attempts_at_calls(model: nn.Module, loss: LossCall, entries: list[Entry]) -> Iterator[_Attempt]:
    for call, path, images in entries:
        if (out := _output_path(call, loss)) is None:
            continue
        if call.name == "" and out in ((), ("logits",)) and path == (0, 0):
            yield _Attempt(f"{type(model).__name__}.forward", images, lambda model, x: model(x), simple=True)
        name = f"{type(model).__name__}{'.' + call.name if call.name else '.forward'}"
        without_labels = replace(call, arguments=_without_labels(model, call, loss))
        pairs = zip(without_labels.arguments, call.arguments, strict=True)
        compares = all(len(one) == len(other) for one, other in pairs)
        yield _Attempt(name, images, _of_call(without_labels, path, out), compares=compares)


def _output_path(call: ModuleCall, loss: LossCall) -> Path | None:
    """Where in what a call returned the loss's input is."""
    for path, tensor in tensors_in(call.output):
        if tensor is loss.input or (
            tensor.numel() == loss.input.numel() and tensor.data_ptr() == loss.input.data_ptr()
        ):
            return path
    return None


def _without_labels(model: nn.Module, call: ModuleCall, loss: LossCall) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A call's arguments without the labels, if they are optional: margins such as ArcFace's belong to training."""
    args, kwargs = call.arguments
    forward = inspect.signature(model.get_submodule(call.name).forward)
    optional = {name for name, each in forward.parameters.items() if each.default is not each.empty}
    names = list(forward.parameters)

    def is_target(value: Any) -> bool:
        same = isinstance(value, Tensor) and loss.target is not None and value.shape == loss.target.shape
        return same and bool(torch.equal(value, loss.target))  # type: ignore[arg-type]

    kept = [index for index, value in enumerate(args) if not (is_target(value) and set(names[index:]) <= optional)]
    args = args[: len(kept)] if kept == list(range(len(kept))) else args
    return args, {name: value for name, value in kwargs.items() if not (is_target(value) and name in optional)}


def _of_call(call: ModuleCall, path: Path, out: Path) -> LogitsFn:
    """Make the call again with other images."""
    batch_size = len(at_path(call.arguments, path))

    def compute(model: nn.Module, images: Tensor) -> Tensor:
        def substitute(at: Path, tensor: Tensor) -> Tensor:
            return images if at == path else _rows(tensor, len(images), batch_size)

        args, kwargs = map_tensors(substitute, call.arguments)
        output = at_path(model.get_submodule(call.name)(*args, **kwargs), out)
        assert isinstance(output, Tensor)
        return output

    return compute


def _of_other_images(_: Path, part: Tensor) -> Tensor:
    return part.roll(1, dims=0) if part.ndim >= _IMAGE_DIMENSIONS else part


def _of_step(  # noqa: PLR0913 - all that was observed
    call: ModuleCall, path: Path, loss: LossCall, seen: Observation, batch: Any, rerun: Rerun, *, place: Path | None
) -> LogitsFn:
    """Run the step again up to its loss, with other images where they entered the network."""
    batch_size = len(at_path(call.arguments, path))
    same = [each for each in seen.losses if each.function == loss.function]
    number = next(index for index, each in enumerate(same) if each.input is loss.input)

    def compute_in_place(model: nn.Module, images: Tensor) -> Tensor:
        """Put the images into the batch, where the step may make several views of them."""
        rows = map_tensors(lambda at, part: images if at == place else _rows(part, len(images), batch_size), batch)
        return stop_at_loss(lambda: rerun(rows), loss.function, number)

    def compute(model: nn.Module, images: Tensor) -> Tensor:
        other_rows = map_tensors(lambda _, tensor: _rows(tensor, len(images), batch_size), batch)
        pending = [True]

        def substitute(module: nn.Module, args: Any, kwargs: Any) -> Any:
            if not pending:
                return None
            pending.clear()
            return map_tensors(lambda at, tensor: images if at == path else tensor, (args, kwargs))

        module = model.get_submodule(call.name)
        handle = module.register_forward_pre_hook(substitute, with_kwargs=True, prepend=True)
        try:
            return stop_at_loss(lambda: rerun(other_rows), loss.function, number)
        finally:
            handle.remove()

    return compute if place is None else compute_in_place


def _rows(tensor: Tensor, number: int, batch_size: int) -> Tensor:
    """As many rows of a batch as there are images, from the first on again and again."""
    if tensor.ndim == 0 or len(tensor) != batch_size or number == batch_size:
        return tensor
    return tensor[torch.arange(number, device=tensor.device) % batch_size]


# --- try a way ----------------------------------------------------------------------------------------------------


def _tried(model: nn.Module, attempt: _Attempt, loss: LossCall, way: Way, *, compare: bool) -> Usage | str:
    """How the model is used if this way works; otherwise why it does not."""
    wanted = _as_logits(loss.input.detach(), loss.function)
    images = attempt.images
    if attempt.beside_others is not None and compare:
        others: LogitsFn = lambda model, x: _as_logits(attempt.beside_others(model, x), loss.function)  # type: ignore[misc]  # noqa: E731
        with preserve_model_state(model):
            if _problem(model, way(others), images, wanted, compare) == _OTHER_LOGITS:
                return "what it gives also depends on views of the images that could not be filled in"
    compute: LogitsFn = lambda model, x: _as_logits(attempt.compute(model, x), loss.function)  # noqa: E731
    if not images.is_floating_point():
        images = images.float()
    if (at := channels_at(images)) != 1:
        images, inner = images.movedim(at, 1), compute
        compute = lambda model, x: inner(model, x.movedim(1, at))  # noqa: E731
    notes: list[str] = []
    with preserve_model_state(model):
        images = images.clone()
        problem = _problem(model, way(compute), images[:2], wanted, compare)
        if problem is not None:
            whole = _problem(model, way(compute), images, wanted, compare)
            if whole is not None:
                return problem
            compute = _in_whole_batches(compute, len(images))
            notes.append(f"the model only takes batches of {len(images)} images, so others are filled up to that")
        differentiable = _differentiable(model, way(compute), images[:2])
        opened = _with_gradients(compute)
        if not differentiable and (differentiable := _differentiable(model, way(opened), images[:2])):
            compute = opened
            notes.append(
                "gradients are let through torch.no_grad(), detach() and checkpoint() while the model is probed"
            )
        simple = attempt.simple and not notes and at == 1 and loss.function not in PROBABILITIES
        num_classes = find_logits(way(compute)(model, images[:2]), batch_size=len(images[:2])).shape[1]
    usage = Usage(
        images,
        loss.target,
        None if simple else compute,
        loss.function,
        int(num_classes),
        notes=tuple(notes),
        differentiable=differentiable,
    )
    return as_multi_label(usage, compute) if is_multi_label(loss) else usage


def _problem(model: nn.Module, compute: LogitsFn, images: Tensor, wanted: Tensor, compare: bool) -> str | None:
    try:
        with torch.no_grad():
            logits = compute(model, images.clone())
    except Exception as error:  # noqa: BLE001 - the user's code was not made to be called like this
        return one_line(error, longest=120)
    wanted = wanted[: len(images)]
    if logits.numel() != wanted.numel() or len(logits) != len(images):
        return f"gives {describe(logits)} for {len(images)} images"
    if not compare:  # in training, dropout and batch normalisation make the values differ
        return None
    logits, wanted = logits.float().reshape(-1), wanted.float().reshape(-1)
    finite = wanted.isfinite()  # an image with NaN says nothing
    if not finite.any():
        return None
    scale = float(wanted[finite].abs().max())
    # Not to the last digit: precision, and state that a forward keeps, may change them a little
    difference = float((logits - wanted)[finite].abs().max())
    if difference <= _TOLERANCE * scale + 1e-4:
        return None
    with torch.no_grad():
        again = compute(model, images.clone())
    if difference <= _RANDOM * float((again.float().reshape(-1) - logits)[finite].abs().max()):  # dropout that stays on
        return None
    return _OTHER_LOGITS


def _differentiable(model: nn.Module, compute: LogitsFn, images: Tensor) -> bool:
    leaf = images.clone().requires_grad_()
    logits = compute(model, leaf * 1)
    if not logits.requires_grad:
        return False
    try:
        (gradient,) = torch.autograd.grad(logits.float().sum(), leaf, allow_unused=True)
    except RuntimeError:  # torch.utils.checkpoint with use_reentrant=True
        return False
    return gradient is not None


def _with_gradients(compute: LogitsFn) -> LogitsFn:
    def opened(model: nn.Module, images: Tensor) -> Tensor:
        if not images.requires_grad:
            return compute(model, images)
        with gradients_opened():
            return compute(model, images)

    return opened


def _in_whole_batches(compute: LogitsFn, batch_size: int) -> LogitsFn:
    def padded(model: nn.Module, images: Tensor) -> Tensor:
        parts = []
        for part in images.split(batch_size):
            missing = part.new_zeros(batch_size - len(part), *part.shape[1:])
            parts.append(compute(model, torch.cat((part, missing)))[: len(part)])
        return torch.cat(parts)

    return padded


def _as_logits(value: Tensor, function: str) -> Tensor:
    """What a loss takes as logits: probabilities that went through a sigmoid are taken back."""
    return torch.logit(value.float(), eps=1e-6) if function in PROBABILITIES else value
