"""Find a classifier's logits in whatever its forward returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fitb_callbacks.models.answers import independent
from fitb_callbacks.utils.messages import describe

__all__ = ["Classify", "LogitsFn", "classifier", "find_logits", "label_by_label"]

Classify = Callable[[Tensor], Tensor]
"""Images ``(B, C, H, W)`` to logits ``(B, classes)``."""

LogitsFn = Callable[[nn.Module, Tensor], Tensor]
"""The model and images ``(B, C, H, W)`` to logits ``(B, classes)``."""


def classifier(model: nn.Module, logits_fn: LogitsFn | None = None) -> Classify:
    """Wrap a model as a plain function from images to logits.

    Args:
        model: The classifier.
        logits_fn: Called as ``logits_fn(model, images)``; by default ``find_logits(model(images))``. It may also return
            logits ``(B, labels, 2)`` of independent labels, see `fitb_callbacks.models.answers.independent`.

    Returns:
        Function from images ``(B, C, H, W)`` to logits ``(B, classes)`` with at least two classes.

    Raises:
        TypeError: When called, if no logits are found.

    Example:
        >>> import torch
        >>> classify = classifier(torch.nn.Flatten(), lambda model, images: {"logits": model(images)}["logits"])
        >>> classify(torch.zeros(5, 1, 1, 3)).shape
        torch.Size([5, 3])
    """
    changes_images: bool | None = None  # not known before the first call

    def classify(images: Tensor) -> Tensor:
        nonlocal changes_images
        given = images
        if changes_images is not False:  # a forward such as x.sub_(mean) must not change the images of the probe
            given = images.clone()
        version = None if given.is_inference() else given._version
        try:
            output = _called(model, given) if logits_fn is None else logits_fn(model, given)
        except NotImplementedError as error:
            raise TypeError(
                f"{type(model).__name__} gives no logits: {error}. Define forward(), or pass "
                "logits_fn=lambda model, images: ... that returns the logits"
            ) from error
        changes_images = version is None or given._version != version
        if logits_fn is not None and _are_independent(output, len(images)):
            assert isinstance(output, Tensor)
            return output
        return find_logits(output, batch_size=len(images))

    return classify


def _called(model: nn.Module, images: Tensor) -> Any:
    """What a model makes of images, without what wraps it to train on several devices.

    Fabric's wrapper raises unless gradients are taken by ``fabric.backward``; DistributedDataParallel's waits for other
    processes. The precision that Fabric set up is kept.
    """
    if isinstance(model, DistributedDataParallel):
        return model.module(images)
    if any(base.__name__ == "_FabricModule" for base in type(model).__mro__):
        precision: Any = model._strategy.precision  # type: ignore[union-attr]
        inner: Any = model.module
        with precision.forward_context():
            return precision.convert_output(inner(precision.convert_input(images)))
    return model(images)


def label_by_label(logits_fn: LogitsFn | None = None) -> LogitsFn:
    """A ``logits_fn`` for a model whose labels are independent of each other.

    Args:
        logits_fn: What computes the logits ``(B, labels)``; None for the model's own ``forward``. Logits
            ``(B, labels, 2)`` are left as they are.

    Returns:
        A function of model and images that returns ``(B, labels, 2)``, see `fitb_callbacks.models.answers.independent`.

    Example:
        >>> import torch
        >>> label_by_label()(torch.nn.Flatten(), torch.ones(4, 1, 1, 3)).shape
        torch.Size([4, 3, 2])
    """

    def logits(model: nn.Module, images: Tensor) -> Tensor:
        found = classifier(model, logits_fn)(images)
        return found if found.ndim == 3 else independent(found)

    return logits


def find_logits(output: Any, *, batch_size: int) -> Tensor:
    """Logits in a model's output: the tensor itself, ``.logits``, a dict's ``"logits"``, or the only one that fits.

    A binary classifier's single logit ``z``, shape ``(B,)`` or ``(B, 1)``, becomes the two logits ``(0, z)``, whose
    softmax is the sigmoid of ``z``.

    Args:
        output: Whatever ``model(images)`` returned.
        batch_size: Number of images B.

    Returns:
        Logits of shape ``(B, classes)``, at least two classes.

    Raises:
        TypeError: If there is no floating-point tensor of shape ``(B, classes)``; the error says what was found. A
            tensor ``(classes,)`` or ``()`` is taken for a batch of one.

    Example:
        >>> import torch
        >>> find_logits({"loss": torch.tensor(1.0), "logits": torch.zeros(2, 10)}, batch_size=2).shape
        torch.Size([2, 10])
    """
    if batch_size == 1 and isinstance(output, Tensor) and output.ndim < 2:  # a squeeze() takes a batch of one away
        output = output.reshape(1, -1)
    for candidate in _candidates(output):
        if not isinstance(candidate, Tensor) or not candidate.is_floating_point() or candidate.ndim == 0:
            continue
        if candidate.shape[0] != batch_size:
            continue
        if candidate.ndim == 2 and candidate.shape[1] >= 2:
            return candidate
        if candidate.ndim == 1 or (candidate.ndim == 2 and candidate.shape[1] == 1):
            single = candidate.reshape(batch_size)
            return torch.stack((torch.zeros_like(single), single), dim=1)
    raise TypeError(
        f"no logits found in the model's output: expected a floating-point tensor of shape ({batch_size}, classes), "
        f"alone, in a tuple or dict, or as .logits; found {describe(output)}. "
        "Pass logits_fn=lambda model, images: ... that returns the logits"
    )


def _are_independent(output: Any, batch_size: int) -> bool:
    return isinstance(output, Tensor) and output.ndim == 3 and output.shape[::2] == (batch_size, 2)


def _candidates(output: Any) -> list[Any]:
    if isinstance(output, Tensor):
        return [output]
    if (logits := getattr(output, "logits", None)) is not None:
        return [logits]
    if isinstance(output, Mapping):
        return [output["logits"]] if "logits" in output else list(output.values())
    return list(output) if isinstance(output, (tuple, list)) else []
