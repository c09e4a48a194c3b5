"""Check that a model is deterministic: the same image always gets the same logits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fitb_callbacks.models.logits import LogitsFn, classifier
from fitb_callbacks.models.state import preserve_model_state

__all__ = ["check_steady"]


def check_steady(model: nn.Module, images: Tensor, *, logits_fn: LogitsFn | None = None) -> None:
    """Raise ValueError unless a model gives an image the same logits each time, whatever else is in the batch.

    An exported model keeps the mode in which it was exported: dropout goes on drawing, batch normalisation goes on
    averaging over the batch, and neither can be switched off.

    Args:
        model: Any classifier.
        images: Shape ``(N, C, H, W)``.
        logits_fn: As for the probe.

    Example:
        >>> import torch
        >>> class Noisy(torch.nn.Flatten):
        ...     def forward(self, images):
        ...         return torch.nn.functional.dropout(super().forward(images))
        >>> check_steady(Noisy(), torch.ones(8, 1, 4, 4))
        Traceback (most recent call last):
        ...
        ValueError: it gives the same images other logits each time, as if dropout were on; export it after .eval()
    """
    own = next((t for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()), images)
    images = images.to(own)
    classify = classifier(model, logits_fn)
    with preserve_model_state(model), torch.no_grad():
        first, second = classify(images), classify(images)
        if first.isnan().any() or second.isnan().any():
            raise ValueError("its logits for these images are NaN: look at its weights, and how images are normalised")
        if not torch.allclose(first, second, rtol=1e-3, atol=1e-4):
            raise ValueError(
                "it gives the same images other logits each time, as if dropout were on; export it after .eval()"
            )
        half = classify(images[: (len(images) + 1) // 2])
        if len(images) > 1 and not torch.allclose(first[: len(half)], half, rtol=1e-3, atol=1e-4):
            raise ValueError(
                "its logits for an image depend on the others in the batch, as if batch normalisation were in training "
                "mode; export it after .eval()"
            )
