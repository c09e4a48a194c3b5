"""The second-order update: the direction of Broyden, Fletcher, Goldfarb and Shanno, for many images at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fitb_callbacks.models.logits import Classify
from fitb_callbacks.probing.updates import Found, answer, differentiable_logits
from fitb_callbacks.utils.arithmetic import safe_divide

__all__ = ["BFGSUpdate", "Evaluate", "bfgs_direction"]

Evaluate = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Points ``(B, D)`` to the loss ``(B,)`` and its gradient ``(B, D)``; rows do not mix."""

_SUFFICIENT_DECREASE = 1e-4
_HALVINGS = 8
_CURVATURE = 1e-6


@dataclass(frozen=True)
class BFGSUpdate:
    """Second-order update: ``p`` with ``B p = -gradient`` after some BFGS steps (paper, section 4.5).

    Only masked pixels move. The threshold transform looks at an update's direction alone, so the result is given the
    length of the first-order update: masks then weigh in a mean as they do with
    `fitb_callbacks.probing.updates.GradientUpdate`. Images for which the steps fail (see `bfgs_direction`) get the
    first-order update itself.

    Attributes:
        num_steps: Quasi-Newton steps, at least 1; with none the direction would be the gradient's.

    Example:
        >>> import torch
        >>> classify = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
        >>> visible = torch.tensor([[True, False], [True, False]]).view(1, 1, 2, 2)
        >>> update = BFGSUpdate(num_steps=2)
        >>> found = update.find(classify, torch.zeros(1, 1, 2, 2), torch.tensor([2]), visible)
        >>> found.values.shape, found.values[visible].count_nonzero().item()
        (torch.Size([1, 1, 2, 2]), 0)
    """

    num_steps: int

    proportional_to_doubt: ClassVar[bool] = False
    single_pass: ClassVar[bool] = False

    def find(self, classify: Classify, masked: Tensor, labels: Tensor, visible: Tensor) -> Found:
        """See `fitb_callbacks.probing.updates.UpdateRule.find`."""
        first: list[tuple[Tensor, Tensor]] = []

        def evaluate(points: Tensor) -> tuple[Tensor, Tensor]:
            leaf = points.view_as(masked).detach().requires_grad_()
            log_p, predicted = answer(differentiable_logits(classify, leaf), labels)
            if not first:
                first.append((predicted, log_p.detach()))
            (gradient,) = torch.autograd.grad(-log_p.sum(), leaf)
            return -log_p.detach(), gradient.masked_fill(visible & gradient.isfinite(), 0).flatten(1)

        gradient, direction = bfgs_direction(evaluate, masked.flatten(1), num_steps=self.num_steps)
        length = safe_divide(gradient.norm(dim=1, keepdim=True), direction.norm(dim=1, keepdim=True))
        return Found((direction * length).view_as(masked), *first[0])


def bfgs_direction(evaluate: Evaluate, start: Tensor, *, num_steps: int) -> tuple[Tensor, Tensor]:
    """Minimise from each starting point for some BFGS steps, and return the direction of the one that would follow.

    The inverse Hessian's product with the gradient is computed from all steps so far by the two-loop recursion
    (Nocedal and Wright, Numerical Optimization, 2006, algorithm 7.4), which with a full history is BFGS itself without
    its D x D matrix. It begins as the identity, scaled at the first step (equation 6.20). Step lengths are halved
    until the loss falls enough (algorithm 3.1).

    A row for which no length was short enough, or for which the curvature condition ``step . change > 0`` fails, so
    that no positive definite Hessian explains what was seen, falls back to minus its first gradient.

    Args:
        evaluate: Points ``(B, D)`` to loss ``(B,)`` and gradient ``(B, D)``.
        start: Where each row begins, shape ``(B, D)``.
        num_steps: Steps before the direction is taken, at least 1.

    Returns:
        The gradient at the start and the direction at the end, both ``(B, D)``.

    Example:
        >>> import torch
        >>> bowl = lambda x: ((2 * x.square()).sum(1), 4 * x)  # the Newton direction from x is -x
        >>> gradient, direction = bfgs_direction(bowl, torch.tensor([[3.0, 4.0]]), num_steps=1)
        >>> direction.mul(10).round().tolist()  # after a first step of length 1 towards the middle
        [[-24.0, -32.0]]
    """
    point = start
    loss, gradient = evaluate(point)
    first_gradient, sound = gradient, gradient.isfinite().all(dim=1)
    history: list[tuple[Tensor, Tensor, Tensor]] = []
    for _ in range(num_steps):
        direction = -_times_inverse_hessian(gradient, history)
        slope = _dot(direction, gradient)
        length = torch.ones_like(slope)
        for _ in range(_HALVINGS):
            new_loss, new_gradient = evaluate(point + length * direction)
            enough = new_loss.unsqueeze(1) <= loss.unsqueeze(1) + _SUFFICIENT_DECREASE * length * slope
            if (enough | ~sound.unsqueeze(1)).all():
                break
            length = torch.where(enough, length, length / 2)
        step, change = length * direction, new_gradient - gradient
        curvature = _dot(step, change)
        bound = _CURVATURE * step.norm(dim=1, keepdim=True) * change.norm(dim=1, keepdim=True)
        sound = sound & (enough & (curvature > bound)).squeeze(1)
        history.append((step, change, 1 / torch.where(sound.unsqueeze(1), curvature, 1)))
        point, loss, gradient = point + step, new_loss, new_gradient
    direction = -_times_inverse_hessian(gradient, history)
    sound = sound & direction.isfinite().all(dim=1)
    return first_gradient, torch.where(sound.unsqueeze(1), direction, -first_gradient)


def _times_inverse_hessian(gradient: Tensor, history: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    if not history:
        return safe_divide(gradient, gradient.norm(dim=1, keepdim=True))  # the first step has length 1
    product, weights = gradient, []
    for step, change, inverse_curvature in reversed(history):
        weights.append(inverse_curvature * _dot(step, product))
        product = product - weights[-1] * change
    _, change, inverse_curvature = history[0]
    product = safe_divide(product, inverse_curvature * _dot(change, change))
    for (step, change, inverse_curvature), weight in zip(history, reversed(weights), strict=True):
        product = product + step * (weight - inverse_curvature * _dot(change, product))
    return product


def _dot(left: Tensor, right: Tensor) -> Tensor:
    return (left * right).sum(dim=1, keepdim=True)
