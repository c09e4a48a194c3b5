"""What logits say about labels, whether the classes exclude each other or each label is true or false by itself."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["independent", "log_probability", "margin", "predicted"]


def independent(logits: Tensor) -> Tensor:
    """The logits of independent labels, of which any number may be true of an image.

    Everywhere in this package, logits ``(B, classes)`` are those of classes of which one is true (softmax), and logits
    ``(B, labels, 2)`` hold a "no" and a "yes" for each of several labels (sigmoid).

    Args:
        logits: What goes into each label's sigmoid, shape ``(B, labels)``.

    Returns:
        Shape ``(B, labels, 2)``; "no" is 0.

    Example:
        >>> independent(torch.tensor([[3.0, -1.0]])).tolist()
        [[[0.0, 3.0], [0.0, -1.0]]]
    """
    return torch.stack((torch.zeros_like(logits), logits), dim=-1)


def log_probability(logits: Tensor, labels: Tensor) -> Tensor:
    """Find log p(label) of each image, differentiable, at most 0.

    Args:
        logits: Shape ``(B, classes)``, or ``(B, labels, 2)`` as of `independent`.
        labels: Integers, shape ``(B,)``.

    Example:
        >>> logits = torch.tensor([[0.0, 0.0]])
        >>> [log_probability(each, torch.tensor([1])).exp().item() for each in (logits, independent(logits))]
        [0.5, 0.5]
    """
    if logits.ndim == 3:
        logits, labels = _of_labels(logits, labels), torch.ones_like(labels)
    return -F.cross_entropy(logits, labels, reduction="none")


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """By how much each label's logit is above the highest other one, or above its own "no", shape ``(B,)``.

    Args:
        logits: Shape ``(B, classes)``, or ``(B, labels, 2)`` as of `independent`.
        labels: Integers, shape ``(B,)``.

    Example:
        >>> margin(torch.tensor([[3.0, 1.0, -1.0]]), torch.tensor([1])).tolist()
        [-2.0]
    """
    rows = torch.arange(len(labels), device=logits.device)
    if logits.ndim == 3:
        return (logits[..., 1] - logits[..., 0])[rows, labels]
    return logits[rows, labels] - logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1)


def predicted(logits: Tensor, labels: Tensor | None = None) -> Tensor:
    """What a model takes images for, integers, shape ``(B,)``.

    Of independent labels, several may be predicted. The one that was asked for is given if it is among them, otherwise
    the most probable one, and -1 if there is none.

    Args:
        logits: Shape ``(B, classes)``, or ``(B, labels, 2)`` as of `independent`.
        labels: Integers, shape ``(B,)``, the labels that are asked for; None asks for the most probable ones, however
            improbable they are.

    Example:
        >>> logits = torch.tensor([[3.0, 1.0, -1.0], [3.0, 1.0, -1.0], [-3.0, -1.0, -2.0]])
        >>> predicted(logits, torch.tensor([1, 2, 2])).tolist()
        [0, 0, 1]
        >>> predicted(independent(logits), torch.tensor([1, 2, 2])).tolist()
        [1, 0, -1]
    """
    logits = logits.detach()
    if logits.ndim == 2:
        return logits.argmax(dim=1)
    strength = logits[..., 1] - logits[..., 0]
    strongest = strength.argmax(dim=1)
    if labels is None:
        return strongest
    answers = strongest.where(strength.amax(dim=1) > 0, -1)
    asked = _of_labels(logits, labels)
    return labels.where(asked[:, 1] > asked[:, 0], answers)


def _of_labels(logits: Tensor, labels: Tensor) -> Tensor:
    """The "no" and "yes" of each image's own label, shape ``(B, 2)``."""
    return logits[torch.arange(len(labels), device=logits.device), labels.to(logits.device)]
