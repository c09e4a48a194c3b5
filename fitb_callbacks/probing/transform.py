"""The threshold transform T: from a mean update to a picture on the image's own scale (paper, equation 4)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from fitb_callbacks.utils.arithmetic import safe_divide

__all__ = ["NORMALIZATIONS", "prototype", "threshold"]


_FULL_AT = 2.0  # root mean squares; measured, see docs/thresholds.md


def _max_abs(update: Tensor) -> Tensor:
    return safe_divide(update, update.abs().amax(dim=1, keepdim=True))


def _rms(update: Tensor) -> Tensor:
    # Over the pixels that have an update: in a progressive step, only the masked ones do.
    mean_square = safe_divide(update.square().sum(dim=1), update.count_nonzero(dim=1)).unsqueeze(1)
    return safe_divide(update, _FULL_AT * mean_square.sqrt())


def _min_max(update: Tensor) -> Tensor:
    low = update.amin(dim=1, keepdim=True)
    return safe_divide(update - low, update.amax(dim=1, keepdim=True) - low)


def _z_score(update: Tensor) -> Tensor:
    centred = update - update.mean(dim=1, keepdim=True)
    return safe_divide(centred, centred.square().mean(dim=1, keepdim=True).sqrt())


NORMALIZATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "rms": _rms,
    "max_abs": _max_abs,
    "min_max": _min_max,
    "z_score": _z_score,
}
"""The choices of ``normalize``: functions of updates ``(N, values)``, each row on its own."""


def threshold(update: Tensor, *, normalize: str | None = "rms", binarize: float | None = None) -> Tensor:
    """Normalize, then binarize, each update on its own (paper, equation 4); either stage can be left out.

    Args:
        update: Updates of shape ``(N, C, H, W)``, any scale.
        normalize: ``"rms"`` divides by twice the root mean square of the values that are not zero, ``"max_abs"`` by
            the largest magnitude (result in [-1, 1]; with both, zero stays zero), ``"min_max"`` stretches to [0, 1],
            ``"z_score"`` centres and divides by the standard deviation, None leaves the scale.
        binarize: 1 where the normalized update is greater than this value, else 0; None keeps the normalized update.

    Returns:
        Tensor of the update's shape. A flat update gives zeros.

    Example:
        >>> import torch
        >>> threshold(torch.tensor([[[[-3.0, 0.0, 3.0]]]])).flatten().tolist()
        [-0.5, 0.0, 0.5]
        >>> threshold(torch.tensor([[[[-4.0, 0.1, 2.0]]]]), normalize="max_abs", binarize=0.05).flatten().tolist()
        [0.0, 0.0, 1.0]
    """
    flat = update.flatten(1)
    if normalize is not None:
        flat = NORMALIZATIONS[normalize](flat)
    if binarize is not None:
        flat = (flat > binarize).to(update.dtype)
    return flat.view_as(update)


def prototype(  # noqa: PLR0913 - the terms of equation 4
    update: Tensor,
    *,
    low: Tensor,
    high: Tensor,
    baseline: Tensor,
    normalize: str | None = "rms",
    binarize: float | None = None,
) -> Tensor:
    """The image that an update over all pixels stands for, in the model's input space (paper, section 4.1).

    A binarised pixel takes ``low`` or ``high``. A pixel that is not binarised is the baseline plus the normalized
    update times the value range, kept within ``low`` and ``high``; with the default baseline, which is ``low``, that
    shows the positive part of the update.

    Args:
        update: Mean updates, shape ``(N, C, H, W)``.
        low: Lowest value of each channel, shape ``(C, 1, 1)``.
        high: Highest value of each channel, shape ``(C, 1, 1)``.
        baseline: Value of a masked pixel, shape ``(C, 1, 1)``.
        normalize: See `threshold`.
        binarize: See `threshold`.

    Returns:
        Prototypes, shape ``(N, C, H, W)``.

    Example:
        >>> import torch
        >>> low, high = torch.full((1, 1, 1), -0.5), torch.full((1, 1, 1), 2.0)
        >>> prototype(torch.tensor([[[[-3.0, 0.0, 3.0]]]]), low=low, high=high, baseline=low).flatten().tolist()
        [-0.5, -0.5, 0.75]
    """
    filled = threshold(update, normalize=normalize, binarize=binarize)
    start = baseline if binarize is None else low
    return (start + (high - low) * filled).clamp(min=low, max=high)
