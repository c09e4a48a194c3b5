"""Which of a step's losses classifies its images, which images these are, and what their labels are."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fitb_callbacks.models.observation import CHOICE, LossCall, ModuleCall, Observation
from fitb_callbacks.models.origins import FROM_BATCH, GENERATED, MADE, Origin, calls_of
from fitb_callbacks.models.volumes import layouts
from fitb_callbacks.utils.nested import Path, tensors_in

__all__ = [
    "PROBABILITIES",
    "Entry",
    "NotAClassifierError",
    "classes_of",
    "classification_loss",
    "entries_of",
    "images_and_targets",
    "is_made",
    "is_multi_label",
    "labels_from",
    "place_in",
    "takes_independent_labels",
]

_CLASSES = ("cross_entropy", "nll_loss", "multi_margin_loss")
_BINARY = ("binary_cross_entropy_with_logits", "multilabel_soft_margin_loss", "binary_cross_entropy")
_SIGMOIDS = ("logsigmoid", "sigmoid")
_BY_HAND = ("log_softmax", "softmax", *_SIGMOIDS)
PROBABILITIES = ("binary_cross_entropy",)
"""Losses that take what has been through a sigmoid."""

_LEAST_IMAGE = 3  # dimensions

Entry = tuple[ModuleCall, Path, Tensor]
"""A call that images entered, where they stand in its arguments, and a copy of them."""


class NotAClassifierError(TypeError):
    """The step that was observed does not classify images."""


def classification_loss(seen: Observation, batch: Any, num_classes: int = 0) -> LossCall:
    """The loss that classifies the batch's images: of several, one with labels of the batch, and with the most classes.

    Args:
        seen: What was observed.
        batch: The step's batch.
        num_classes: Of the model, if that is known: such a loss comes first.

    Raises:
        NotAClassifierError: If there is none; the error says what there is instead.
        LookupError: If the step called no loss that could tell.
    """
    losses = [each for each in seen.losses if each.function != CHOICE]
    problems = {id(each): _problem_of_loss(each, batch, seen) for each in losses if each.target is not None}
    fitting = [each for each in losses if each.target is not None and problems[id(each)] is None]
    if not fitting:
        fitting = [each for each in losses if each.function in _BY_HAND and each.input.ndim == 2]
    others = {each.function: problems[id(each)] for each in losses if each.target is not None}
    if not fitting and not others:
        choices = [replace(each, target=_target(each, batch)) for each in seen.losses if each.function == CHOICE]
        fitting = [each for each in choices if each.target is not None]
    if not fitting and not others:
        raise LookupError("no loss of torch.nn.functional was seen")
    if not fitting or (others and not any(each.target is not None for each in fitting)):
        reasons = "; ".join(f"{name} {why}" for name, why in others.items())
        raise NotAClassifierError(f"the step does not classify images: {reasons}")
    loss = _best(_of_no_generator(fitting, seen, batch), seen, batch, num_classes)
    return replace(loss, target=_target(loss, batch))


def images_and_targets(
    seen: Observation, batch: Any, *, shape: tuple[int, ...], loss: str, num_classes: int
) -> tuple[Tensor, Tensor]:
    """A step's images and what the loss compared them with, for a step like one that is known.

    An image that the step compares with several labels, as MixUp does, is left out.

    Args:
        seen: What was observed.
        batch: The step's batch.
        shape: ``(C, H, W)`` of the images.
        loss: Name of the loss.
        num_classes: How many classes it takes.

    Raises:
        NotAClassifierError: If there are none, or if it cannot be told which ones they are.
    """
    alike = [each for each in seen.losses if each.function == loss and classes_of(each) == num_classes]
    targeted = [(each, target) for each in alike if (target := _target(each, batch)) is not None]
    if not targeted:
        raise NotAClassifierError(f"the step called no {loss} of {num_classes} classes with a target")
    best = _best(_of_no_generator([each for each, _ in targeted], seen, batch), seen, batch)
    target = next(target for each, target in targeted if each is best)
    images = _images_of(best, seen, batch, shape, len(target))
    same = [other for each, other in targeted if each.input is best.input and other.shape == target.shape]
    agree = torch.ones(len(target), dtype=torch.bool, device=target.device)
    for other in same:
        agree &= (other == target).reshape(len(target), -1).all(dim=1)
    return images[agree.to(images.device)], target[agree]


def entries_of(loss: LossCall, seen: Observation) -> list[Entry]:
    """The images that may have led to a loss, those first of which that is known; none that a network generates.

    Args:
        loss: As it was observed.
        seen: What was observed.
    """
    calls = calls_of(loss.input_origin)
    entries = [
        (call, path, images)
        for call in seen.calls
        if not call.inside
        for path, images in call.images()
        if GENERATED not in _origin((call, path, images))
    ]
    return sorted(entries, key=lambda entry: (is_made(entry), entry[0].number not in calls))


def is_made(entry: Entry) -> bool:
    """Whether a layer with weights had a part in what entered."""
    return MADE in _origin(entry)


def classes_of(loss: LossCall) -> int:
    """How many classes a loss's input tells apart: 2 for a single logit."""
    return max(2, loss.input.shape[1]) if loss.input.ndim == 2 else 2


# --- which loss -------------------------------------------------------------------------------------------------------


def _of_no_generator(losses: list[LossCall], seen: Observation, batch: Any) -> list[LossCall]:
    """Losses without those of images that a network generates, as a GAN's does."""
    shapes = _shapes_of_images(seen, batch)
    real = [each for each in losses if not _is_of(GENERATED, each, seen, shapes)]
    if not real:
        raise NotAClassifierError(
            "images that a network generates enter the classifier, among those of the batch or in their place"
        )
    return real


def _best(losses: list[LossCall], seen: Observation, batch: Any, num_classes: int = 0) -> LossCall:
    shapes = _shapes_of_images(seen, batch)

    def rank(loss: LossCall) -> tuple[bool, bool, bool, int]:
        of_batch = FROM_BATCH in loss.target_origin and MADE not in loss.target_origin
        classes = classes_of(loss)
        return not _is_of(MADE, loss, seen, shapes), classes == num_classes, of_batch, classes

    return max(losses, key=rank)


def _is_of(what: str, loss: LossCall, seen: Observation, shapes: set[tuple[int, ...]]) -> bool:
    """Whether images with this origin led to a loss; feature maps do not count, as they have other shapes."""
    calls = calls_of(loss.input_origin)
    return any(what in origin and shape[1:] in shapes for shape, origin in _entered(seen, calls))


def _entered(seen: Observation, calls: Collection[int] | None = None) -> Iterator[tuple[tuple[int, ...], Origin]]:
    """Shapes and origins of what entered the step's calls, or those with these numbers."""
    for call in seen.calls:
        if not call.inside and (calls is None or call.number in calls):
            yield from call.entries.values()


def _shapes_of_images(seen: Observation, batch: Any) -> set[tuple[int, ...]]:
    """What shapes a step's images have, without the first dimension: in the batch, and where they enter a network."""
    shapes = {shape[1:] for shape, origin in _entered(seen) if MADE not in origin}
    return shapes | {tuple(part.shape[1:]) for _, part in tensors_in(batch) if part.ndim > _LEAST_IMAGE}


def _problem_of_loss(loss: LossCall, batch: Any, seen: Observation) -> str | None:
    """Why a loss is not that of a classifier; None if it is."""
    shape, target = tuple(loss.input.shape), loss.target
    assert target is not None
    if loss.function not in (*_CLASSES, *_BINARY):
        return f"compares values {shape} as a regression does"
    if len(shape) > 2:
        return f"compares a class for each of many places in an image, {shape}, as segmentation does"
    if loss.function in _CLASSES and (len(shape) != 2 or shape[1] < 2):
        return f"has logits of the shape {shape}"
    if loss.function in _CLASSES and _counts_rows(target, shape[1]) and place_in(target, batch) is None:
        return "compares the images of a batch with each other, as self-supervised learning does"
    if loss.function in _BINARY and seen.followed and FROM_BATCH not in loss.target_origin and _is_constant(target):
        return "compares every image with the same value, which is not of the batch, as a GAN's discriminator does"
    return None


def _counts_rows(target: Tensor, width: int) -> bool:
    if target.ndim != 1 or target.is_floating_point() or len(target) < 3:
        return False
    row = torch.arange(len(target), device=target.device)
    return width in (len(target), len(target) - 1) and bool((target.sort().values == row).all())


def _is_constant(target: Tensor) -> bool:
    return len(target) > 1 and bool((target == target[:1]).all())


# --- which images -----------------------------------------------------------------------------------------------------


def _images_of(loss: LossCall, seen: Observation, batch: Any, shape: tuple[int, ...], number: int) -> Tensor:
    """The images ``(number, *shape)`` that led to a loss."""
    calls = calls_of(loss.input_origin)
    entries = entries_of(loss, seen)
    linked = [entry for entry in entries if entry[0].number in calls] or entries
    parts = [(entry, part) for entry in linked for part in layouts(entry[2])]
    fitting = [(entry, part) for entry, part in parts if part.shape[1:] == shape and len(part) == number]
    if not fitting:
        raise NotAClassifierError(f"the step used no images of the shape {shape} with a target")
    real = [part for entry, part in fitting if not is_made(entry)] or [fitting[0][1]]
    as_they_are = next((part for part in real if place_in(part, batch) is not None), None)
    if as_they_are is not None:
        return as_they_are
    if not seen.followed and any(not torch.equal(real[0], other) for other in real[1:]):
        raise NotAClassifierError(
            f"{len(real)} kinds of images of the shape {shape} enter the network, and compiled parts hide of which the "
            "labels are"
        )
    return real[0]


def _origin(entry: Entry) -> Origin:
    call, path, _ = entry
    return call.entries[path][1] if path in call.entries else frozenset()


def place_in(wanted: Tensor, batch: Any) -> Path | None:
    """Where in a batch a tensor is."""
    same = ((path, part) for path, part in tensors_in(batch) if part.shape == wanted.shape)
    return next((path for path, part in same if bool((part == wanted).all())), None)


# --- which labels -----------------------------------------------------------------------------------------------------


def _target(loss: LossCall, batch: Any) -> Tensor | None:
    """What a loss's input was compared with, or if that was not seen, what in the batch may have been.

    For a choice of the largest logit, the first labels that fit; for a loss by hand, those that alone fit.
    """
    if loss.function == CHOICE:
        found = [labels for _, labels in tensors_in(batch)] if loss.target is None else [loss.target]
        return next((labels.reshape(-1) for labels in found if _fits(labels, loss.input)), None)
    return _target_by_hand(loss, batch) if loss.target is None else loss.target


def _fits(labels: Tensor, logits: Tensor) -> bool:
    """Whether integers may be the labels of logits ``(B, classes)``."""
    if logits.ndim != 2 or logits.shape[1] < 2 or not logits.is_floating_point():
        return False
    kind = labels.shape in ((len(logits),), (len(logits), 1)) and not labels.is_floating_point()
    return kind and not labels.is_complex() and bool((labels < logits.shape[1]).all())


def _target_by_hand(loss: LossCall, batch: Any) -> Tensor | None:
    """Of a sigmoid for each of several labels, a number from 0 to 1 for each, in the batch; of a softmax, integers."""
    if loss.function not in _BY_HAND or loss.input.ndim != 2 or loss.input.shape[1] < 2:
        return None
    parts = [part for _, part in tensors_in(batch)]
    if loss.function in _SIGMOIDS:
        fitting = (part for part in parts if part.shape == loss.input.shape)
        return next((part for part in fitting if bool(((part >= 0) & (part <= 1)).all())), None)
    integers = [part.reshape(-1) for part in parts if _fits(part, loss.input)]
    return integers[0] if len(integers) == 1 else None


def takes_independent_labels(function: str, targets: Tensor | None) -> bool:
    """Whether a loss may take several labels of an image for true: a sigmoid for each of two labels or more.

    Args:
        function: Name of the loss, as in `fitb_callbacks.models.observation.LossCall`.
        targets: What it took.
    """
    return function in (*_BINARY, *_SIGMOIDS) and targets is not None and targets.ndim == 2 and targets.shape[1] >= 2


def is_multi_label(loss: LossCall) -> bool:
    """Whether several labels of an image are true in a loss's target."""
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
