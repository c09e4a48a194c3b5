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
from fitb_callbacks.models.observation import CHOICE, LossCall, ModuleCall, Observation, stop_at_loss
from fitb_callbacks.models.state import preserve_model_state
from fitb_callbacks.models.volumes import channels_at, layouts
from fitb_callbacks.utils.messages import describe, one_line
from fitb_callbacks.utils.nested import Path, at_path, map_tensors, tensors_in

__all__ = [
    "NotAClassifierError",
    "Usage",
    "Way",
    "as_multi_label",
    "find_inputs",
    "find_usage",
    "images_entering",
    "labels_from",
    "same_way",
    "takes_independent_labels",
    "target_of",
]

_CLASSES = ("cross_entropy", "nll_loss", "multi_margin_loss")
_BINARY = ("binary_cross_entropy_with_logits", "multilabel_soft_margin_loss", "binary_cross_entropy")
_SIGMOIDS = ("logsigmoid", "sigmoid")
_BY_HAND = ("log_softmax", "softmax", *_SIGMOIDS)
_PROBABILITIES = ("binary_cross_entropy",)

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


class NotAClassifierError(TypeError):
    """The step that was observed does not classify images."""


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
    loss = _classification_loss(seen, batch)
    entries = [(call, path, images) for call in seen.calls if not call.inside for path, images in call.images()]
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
    raise NotAClassifierError("the logits cannot be computed again from images: " + "; ".join(failures))


def _check_alone(entries: list[tuple[ModuleCall, Path, Tensor]], batch: Any) -> None:
    """Raise if the network saw several images of a batch's item, such as pairs, and what is said is of all of them."""
    places = {_place_in(images, batch) for _, _, images in entries} - {None}
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


def find_inputs(seen: Observation, shape: tuple[int, ...], batch: Any) -> Usage:
    """Find what entered the network and what its output was compared with, if how it is used is known already.

    Args:
        seen: What was observed.
        shape: ``(C, H, W)`` of the images that enter the network.
        batch: The step's batch.

    Raises:
        NotAClassifierError: If there are none of this shape.
        LookupError: If the step called no loss that could tell.
    """
    loss = _classification_loss(seen, batch)
    if loss.target is None:
        raise LookupError("no loss of torch.nn.functional was seen")
    for candidate in images_entering(seen, shape, batch):
        if len(candidate) == len(loss.target):
            return Usage(candidate.float(), loss.target, None, loss.function, 0, _is_multi_label(loss))
    raise NotAClassifierError(f"no images of the shape {shape} entered the network")


def images_entering(seen: Observation, shape: tuple[int, ...], batch: Any) -> list[Tensor]:
    """Images that entered the network: those of the batch first, before any that the step made, such as a generator's.

    Args:
        seen: What was observed.
        shape: ``(C, H, W)`` of the images.
        batch: The step's batch.
    """
    entering = [images for call in seen.calls if not call.inside for _, images in call.images()]
    fitting = [part for images in entering for part in layouts(images) if tuple(part.shape[1:]) == tuple(shape)]
    return sorted(fitting, key=lambda part: not _is_in(part, batch))


def _check_single(entries: list[tuple[ModuleCall, Path, Tensor]]) -> None:
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


def _attempts(  # noqa: PLR0913 - all that was observed
    model: nn.Module,
    seen: Observation,
    loss: LossCall,
    entries: list[tuple[ModuleCall, Path, Tensor]],
    batch: Any,
    rerun: Rerun | None,
) -> Iterator[_Attempt]:
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
    if rerun is not None:
        _check_alone(entries, batch)
        inner = [(call, path, images) for call in seen.calls if call.inside for path, images in call.images()]
        for call, path, images in (*entries, *inner[:2]):
            compute, beside_others = (
                _of_step(call, path, loss, seen, rows, rerun, place=_place_in(images, batch))
                for rows in (batch, map_tensors(_of_other_images, batch))
            )
            yield _Attempt("the validation step itself", images, compute, beside_others=beside_others)


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
        simple = attempt.simple and not notes and at == 1 and loss.function not in _PROBABILITIES
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
    return as_multi_label(usage, compute) if _is_multi_label(loss) else usage


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
    return torch.logit(value.float(), eps=1e-6) if function in _PROBABILITIES else value


# --- which loss, and which labels ---------------------------------------------------------------------------------


def _classification_loss(seen: Observation, batch: Any = None) -> LossCall:
    """The loss with the most classes; of several, the first."""
    losses = [each for each in seen.losses if each.function != CHOICE]
    problems = {id(each): _problem_of_loss(each, batch) for each in losses if each.target is not None}
    fitting = [each for each in losses if each.target is not None and problems[id(each)] is None]
    if not fitting:
        fitting = [each for each in losses if each.function in _BY_HAND and each.input.ndim == 2]
    others = {each.function: problems[id(each)] for each in losses if each.target is not None}
    if not fitting and not others:
        choices = [replace(each, target=target_of(each, batch)) for each in seen.losses if each.function == CHOICE]
        fitting = [each for each in choices if each.target is not None]
    if not fitting and not others:
        raise LookupError("no loss of torch.nn.functional was seen")
    if not fitting or (others and not any(each.target is not None for each in fitting)):
        reasons = "; ".join(f"{name} {why}" for name, why in others.items())
        raise NotAClassifierError(f"the step does not classify images: {reasons}")
    loss = max(fitting, key=lambda each: each.input.shape[1] if each.input.ndim == 2 else 2)
    return loss if loss.target is not None else replace(loss, target=_target_by_hand(loss, batch))


def target_of(loss: LossCall, batch: Any) -> Tensor | None:
    """What a loss's input was compared with, or for a choice of the largest logit, what it may have been compared with.

    Args:
        loss: As it was observed.
        batch: The step's batch.
    """
    if loss.function != CHOICE:
        return loss.target
    logits = loss.input
    if logits.ndim != 2 or logits.shape[1] < 2 or not logits.is_floating_point():
        return None

    def fits(labels: Tensor) -> bool:
        kind = labels.shape in ((len(logits),), (len(logits), 1)) and not labels.is_floating_point()
        return kind and not labels.is_complex() and bool((labels < logits.shape[1]).all())

    found = tensors_in(batch) if loss.target is None else [((), loss.target)]
    return next((labels.reshape(-1) for _, labels in found if fits(labels)), None)


def _target_by_hand(loss: LossCall, batch: Any) -> Tensor | None:
    """What a loss of one's own takes as independent labels: a number from 0 to 1 for each sigmoid, in the batch."""
    if loss.function not in _SIGMOIDS or loss.input.shape[1] < 2:
        return None
    fitting = (part for _, part in tensors_in(batch) if part.shape == loss.input.shape)
    return next((part for part in fitting if bool(((part >= 0) & (part <= 1)).all())), None)


def _problem_of_loss(loss: LossCall, batch: Any) -> str | None:
    """Why a loss is not that of a classifier; None if it is."""
    shape, target = tuple(loss.input.shape), loss.target
    assert target is not None
    if loss.function not in (*_CLASSES, *_BINARY):
        return f"compares values {shape} as a regression does"
    if len(shape) > 2:
        return f"compares a class for each of many places in an image, {shape}, as segmentation does"
    if loss.function in _CLASSES and (len(shape) != 2 or shape[1] < 2):
        return f"has logits of the shape {shape}"
    if loss.function in _CLASSES and _counts_rows(target, shape[1]) and not _is_in(target, batch):
        return "compares the images of a batch with each other, as self-supervised learning does"
    return None


def _counts_rows(target: Tensor, width: int) -> bool:
    if target.ndim != 1 or target.is_floating_point() or len(target) < 3:
        return False
    row = torch.arange(len(target), device=target.device)
    return width in (len(target), len(target) - 1) and bool((target.sort().values == row).all())


def _is_in(target: Tensor, batch: Any) -> bool:
    return _place_in(target, batch) is not None


def _place_in(wanted: Tensor, batch: Any) -> Path | None:
    """Where in a batch a tensor is."""
    same = ((path, part) for path, part in tensors_in(batch) if part.shape == wanted.shape)
    return next((path for path, part in same if bool((part == wanted).all())), None)


def takes_independent_labels(function: str, targets: Tensor | None) -> bool:
    """Whether a loss may take several labels of an image for true: a sigmoid for each of two labels or more.

    Args:
        function: Name of the loss, as in `fitb_callbacks.models.observation.LossCall`.
        targets: What it took.
    """
    return function in (*_BINARY, *_SIGMOIDS) and targets is not None and targets.ndim == 2 and targets.shape[1] >= 2


def _is_multi_label(loss: LossCall) -> bool:
    if not takes_independent_labels(loss.function, loss.target) or loss.target is None:
        return False
    true, total = (loss.target > 0.5).sum(dim=1), loss.target.float().sum(dim=1)
    mixed = (true == 0) & ((total - 1).abs() < 1e-3)  # of two classes, half and half
    return not bool(((true == 1) | mixed).all())


def labels_from(targets: Tensor) -> Tensor:
    """Class indices from what a loss took as target.

    Args:
        targets: Class indices ``(B,)`` or ``(B, 1)``; a binary target of floats; or one-hot or soft labels
            ``(B, classes)``.

    Returns:
        Integers, shape ``(B,)``; -1 where a soft label has no class of more than half.

    Example:
        >>> labels_from(torch.tensor([[0.1, 0.9], [0.5, 0.5], [1.0, 0.0]])).tolist()
        [1, -1, 0]
    """
    targets = targets.detach()
    if targets.ndim == 2 and targets.shape[1] > 1:
        share, label = targets.float().max(dim=1)
        total = targets.float().sum(dim=1)
        return label.where(share > 0.5 * total, -1)
    return targets.reshape(len(targets)).round().long()
