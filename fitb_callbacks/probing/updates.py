"""Update rules: how a masked image should change for the model to see more of a label in it.

A rule is a small class with one method. To add one, write it, name it in `fitb_callbacks.probing.settings.UpdateName`,
and make it in `FillInBlanks`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from fitb_callbacks.models.answers import log_probability, predicted
from fitb_callbacks.models.logits import Classify
from fitb_callbacks.probing.autotune import Plan, Tuner

__all__ = [
    "Found",
    "GradientUpdate",
    "NoUpdate",
    "UpdateFinder",
    "UpdateRule",
    "answer",
    "differentiable_logits",
    "in_one_block",
]

_SMALLEST_DOUBT = 1e-7

_BLOCK_VALUES = 2**18
"""Values of masked images that are made at a time, if they are of several chunks: 1 MiB in single precision."""


@dataclass(frozen=True)
class Found:
    """What an update rule found for B masked images.

    Attributes:
        values: The updates, shape ``(B, C, H, W)``, float32 at least, in memory of their own: they are overwritten.
            Values on visible pixels are of no account.
        predicted: Label that the model predicts for each masked image, as it was given, shape ``(B,)``.
        log_p: Logarithm of the label's probability, log p(label), under the same masked image, at most 0,
            shape ``(B,)``.
    """

    values: Tensor
    predicted: Tensor
    log_p: Tensor


class UpdateRule(Protocol):
    """A way to find updates.

    Attributes:
        proportional_to_doubt: Whether an update is in proportion to 1 - p(label), as gradients of the cross-entropy
            are. Means of such updates can be adjusted, see `fitb_callbacks.probing.adjustment`.
        single_pass: Whether the rule runs the model once for an image, and keeps next to nothing beside the result.
    """

    proportional_to_doubt: ClassVar[bool]
    single_pass: ClassVar[bool]

    def find(self, classify: Classify, masked: Tensor, labels: Tensor, visible: Tensor) -> Found:
        """Find the update of each masked image. Images must not mix: a row depends on its own image alone.

        Args:
            classify: Images ``(B, C, H, W)`` to logits ``(B, classes)``, differentiable.
            masked: Masked images in the model's input space, shape ``(B, C, H, W)``.
            labels: The label each image is filled for, integers, shape ``(B,)``.
            visible: Which pixels stay as they are, boolean, shape ``(B, 1, H, W)``.
        """
        ...


class GradientUpdate:
    """First-order update: minus the input gradient of the cross-entropy (paper, equation 2).

    The gradient is taken with respect to the masked image itself. Through the product of image and mask it would be
    zero on exactly the pixels that are to be filled. The step size of equation 2 is 1; the threshold transform
    normalises it away.

    Example:
        >>> import torch
        >>> found = GradientUpdate().find(
        ...     torch.nn.Flatten(), torch.zeros(1, 1, 1, 2), torch.tensor([1]), torch.zeros(1, 1, 1, 2).bool(),
        ... )
        >>> found.values.flatten().tolist(), found.predicted.tolist(), round(found.log_p.exp().item(), 4)
        ([-0.5, 0.5], [0], 0.5)
    """

    proportional_to_doubt: ClassVar[bool] = True
    single_pass: ClassVar[bool] = True

    def find(self, classify: Classify, masked: Tensor, labels: Tensor, visible: Tensor) -> Found:
        """See `UpdateRule.find`.

        Raises:
            RuntimeError: If the logits do not depend on the images by differentiable operations.
        """
        leaf = masked.detach().requires_grad_()
        logits = differentiable_logits(classify, leaf)
        log_p, predicted = answer(logits, labels)
        # A confident model's gradients are so small that half precision would flush them to zero on their way back.
        # They are in proportion to 1 - p(label), so each is divided by that on its way, and multiplied again.
        doubt = torch.expm1(log_p.detach()).neg_().clamp_(min=_SMALLEST_DOUBT)
        (ascent,) = torch.autograd.grad(log_p, leaf, grad_outputs=doubt.reciprocal())
        return Found(ascent * doubt[:, None, None, None], predicted, log_p.detach())


class NoUpdate:
    """No update, for models through which no gradient passes: only what they answer under each mask.

    Example:
        >>> import torch
        >>> found = NoUpdate().find(
        ...     torch.nn.Flatten(), torch.zeros(1, 1, 1, 2), torch.tensor([1]), torch.zeros(1, 1, 1, 2).bool(),
        ... )
        >>> found.values.flatten().tolist(), found.predicted.tolist(), round(found.log_p.exp().item(), 4)
        ([0.0, 0.0], [0], 0.5)
    """

    proportional_to_doubt: ClassVar[bool] = False
    single_pass: ClassVar[bool] = True

    def find(self, classify: Classify, masked: Tensor, labels: Tensor, visible: Tensor) -> Found:
        """See `UpdateRule.find`."""
        with torch.no_grad():
            log_p, predicted_label = answer(classify(masked).float(), labels)
        return Found(torch.zeros_like(masked, dtype=torch.float32), predicted_label, log_p)


@dataclass(frozen=True)
class UpdateFinder:
    """An update rule, applied to one model in the chunks and the memory format that suit it.

    Attributes:
        rule: How updates are found.
        classify: Images ``(B, C, H, W)`` to logits ``(B, classes)``.
        plan: Chunk size and memory format.
        tuner: Where a better plan comes from, as long as it searches for one.
    """

    rule: UpdateRule
    classify: Classify
    plan: Plan
    tuner: Tuner | None = None

    def find(self, masked: Tensor, labels: Tensor, visible: Tensor) -> Found:
        """Find the updates of masked images, see `UpdateRule.find`, one chunk after the other.

        The updates are zero on visible pixels, unless they are not finite there.
        """
        masked, size = self.plan.formatted(masked), self.plan.chunk_size
        parts = [
            self.rule.find(self._classify, *chunk)
            for chunk in zip(masked.split(size), labels.split(size), visible.split(size), strict=True)
        ]
        values = torch.cat([part.values for part in parts]) if len(parts) > 1 else parts[0].values
        # Less itself where visible, rather than a choice: it takes half the time, and what is not finite stays so.
        values.addcmul_(values, visible.to(values.dtype), value=-1)
        return Found(values, torch.cat([part.predicted for part in parts]), torch.cat([part.log_p for part in parts]))

    def block_size(self, images: Tensor) -> int:
        """How many masked images to make and average at a time: several small chunks, as each time costs as much."""
        return in_one_block(images, self.plan.chunk_size) if self.rule.single_pass else self.plan.chunk_size

    def _classify(self, images: Tensor) -> Tensor:
        return self.classify(self.plan.formatted(images))


def in_one_block(images: Tensor, chunk_size: int) -> int:
    """How many images to work on at a time, if the model takes chunks of them: several small chunks, or one.

    Example:
        >>> in_one_block(torch.zeros(1, 1, 28, 28), 32), in_one_block(torch.zeros(1, 3, 224, 224), 32)
        (320, 32)
    """
    return max(1, _BLOCK_VALUES // (chunk_size * images[0].numel())) * chunk_size


def answer(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """What a model says about labels: log p(label), which is differentiable, and the label that it predicts.

    Args:
        logits: Shape ``(B, classes)``, or ``(B, labels, 2)`` of independent labels.
        labels: Integers, shape ``(B,)``.

    Returns:
        log p(label), at most 0, and the predicted label, both ``(B,)``.

    Example:
        >>> import torch
        >>> log_p, predicted = answer(torch.tensor([[0.0, 0.0, 9.0]]), torch.tensor([2]))
        >>> round(log_p.exp().item(), 3), predicted.item()
        (1.0, 2)
    """
    return log_probability(logits, labels), predicted(logits, labels)


def differentiable_logits(classify: Classify, leaf: Tensor) -> Tensor:
    """Logits ``(B, classes)`` of images that require a gradient, in float32 at least.

    Raises:
        RuntimeError: If the logits do not depend on the images by differentiable operations.
    """
    logits = classify(leaf)
    if not logits.requires_grad:
        raise RuntimeError(
            "the model's logits carry no gradient back to its input images. Fill-in-the-blanks needs input gradients: "
            "look for torch.no_grad(), .detach(), .argmax() or numpy code inside forward()"
        )
    return logits if logits.dtype == torch.float64 else logits.float()
