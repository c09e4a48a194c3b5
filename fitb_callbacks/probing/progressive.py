"""Progressive masks: fill one part of the image after the other, each fill conditioning the next."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["fill_progressively"]


def fill_progressively(
    find_update: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]],
    fill: Callable[[Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    visible: Tensor,
    baseline: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Replace images by what a model fills in, step by step, until no original pixel is left (paper, section 4.2).

    Each step masks one part of the current image, finds the update on it, and puts the fill there; the next step sees
    that as part of the image. All images and partitions take a step at once.

    Each step's update is divided by the root mean square of its values, so that the parts of the whole weigh alike, as
    they do in the filled image, where every step is normalised by itself.

    Only under its first mask does an image hold nothing but original pixels, so whether the model knows the label is
    judged there; afterwards it is fed its own fills.

    Args:
        find_update: Masked images ``(B, C, H, W)``, labels ``(B,)`` and visible pixels ``(B, 1, H, W)`` to the update
            on the masked pixels ``(B, C, H, W)``, zero elsewhere, and the predictions ``(B,)``.
        fill: The threshold transform: updates to images, both ``(B, C, H, W)``.
        images: Shape ``(R, C, H, W)``.
        labels: Integers, shape ``(R,)``.
        visible: The masks of K partitions, boolean, shape ``(K, S, H, W)`` for S steps.
        baseline: Value of a masked pixel, shape ``(C, 1, 1)``.

    Returns:
        The update of all steps together, shape ``(K, R, C, H, W)``; whether the image under the first mask was
        predicted as its label, boolean, ``(K, R)``; and the image after every step, ``(K, R, S, C, H, W)``.

    Example:
        >>> import torch
        >>> visible = torch.tensor([[[[False, True]], [[True, False]]]])  # one partition of a 1 x 2 image in two steps
        >>> update, right, steps = fill_progressively(
        ...     lambda masked, labels, visible: (torch.full_like(masked, 9.0).masked_fill(visible, 0), labels),
        ...     lambda update: update - 4.0,
        ...     torch.zeros(1, 1, 1, 2), torch.tensor([3]), visible, torch.zeros(1, 1, 1),
        ... )
        >>> steps.flatten(2).tolist(), update.flatten().tolist(), right.item()
        ([[[5.0, 0.0, 5.0, 5.0]]], [1.0, 1.0], True)
    """
    block = (len(visible), len(images))
    current, labels = images.repeat(block[0], 1, 1, 1), labels.repeat(block[0])
    total, steps, right = torch.zeros_like(current), [], []
    for mask in visible.unbind(dim=1):
        seen = mask.repeat_interleave(block[1], dim=0).unsqueeze(1)
        update, predicted = find_update(torch.where(seen, current, baseline), labels, seen)
        current = torch.where(seen, current, fill(update))
        values = update.flatten(1)
        scale = (values.square().sum(dim=1) / values.count_nonzero(dim=1).clamp(min=1)).sqrt()[:, None, None, None]
        total = total + update / torch.where(scale > 0, scale, 1)
        steps.append(current)
        right.append(predicted == labels)
    return total.unflatten(0, block), right[0].view(block), torch.stack(steps, dim=1).unflatten(0, block)
