"""How a model would change a masked image to see more of a label in it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fitb_callbacks.models.logits import Classify

__all__ = ["classified", "gradient_update"]


def gradient_update(
    classify: Classify, masked: Tensor, labels: Tensor, *, chunk_size: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """First-order update of masked images: minus the input gradient of the cross-entropy (paper, equation 2).

    The gradient is taken with respect to the masked image itself. Through the product of image and mask it would be
    zero on exactly the pixels that are to be filled. The step size of equation 2 is 1; the threshold transform
    normalises it away. Images do not mix: each row depends on its own image alone, as long as the model's rows do.

    Args:
        classify: Images ``(B, C, H, W)`` to logits ``(B, classes)``.
        masked: Masked images in the model's input space, shape ``(B, C, H, W)``.
        labels: Label whose loss is descended, integers, shape ``(B,)``.
        chunk_size: How many images go through the model at once, at least 1. None is all.

    Returns:
        The update, shape ``(B, C, H, W)``; the label predicted for each masked image, shape ``(B,)``; and the doubt,
        1 - p(label), in [1e-7, 1], shape ``(B,)``.

    Raises:
        RuntimeError: If the logits do not depend on the images by differentiable operations.

    Example:
        >>> import torch
        >>> weight = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> update, predicted, doubt = gradient_update(
        ...     lambda x: x.flatten(1) @ weight, torch.zeros(1, 1, 1, 2), torch.tensor([1])
        ... )
        >>> update.flatten().tolist(), predicted.tolist(), doubt.tolist()
        ([-0.5, 0.5], [0], [0.5])
    """
    step = chunk_size or len(masked)
    # Scaled results of all chunks go right where they belong: in few and small steps, this costs next to nothing.
    update = torch.empty_like(masked, dtype=torch.promote_types(masked.dtype, torch.float32))
    doubts, predicted = [], []
    for images, wanted, own in zip(masked.split(step), labels.split(step), update.split(step), strict=True):
        leaf = images.detach().requires_grad_()
        logits = classified(classify, leaf)
        loss = F.cross_entropy(logits, wanted, reduction="none")
        # A confident model's gradients are so small that half precision would flush them to zero on their way back.
        # They are in proportion to 1 - p(label), so each is divided by that on its way, and multiplied again.
        doubt = torch.expm1(-loss.detach()).neg_().clamp_(min=1e-7)
        (descent,) = torch.autograd.grad(loss, leaf, grad_outputs=doubt.reciprocal().neg_())
        torch.mul(descent, doubt[:, None, None, None], out=own)
        doubts.append(doubt)
        predicted.append(logits.detach().argmax(dim=1))
    return update, torch.cat(predicted), torch.cat(doubts)


def classified(classify: Classify, leaf: Tensor) -> Tensor:
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
