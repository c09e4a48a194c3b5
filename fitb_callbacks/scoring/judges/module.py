"""Any classifier as judge."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fitb_callbacks.models.chunks import in_chunks
from fitb_callbacks.models.logits import LogitsFn, classifier
from fitb_callbacks.models.state import preserve_model_state
from fitb_callbacks.models.volumes import takes_folded
from fitb_callbacks.scoring.judges.base import Judge
from fitb_callbacks.utils.messages import describe

__all__ = ["ModuleJudge"]

_CHUNK = 256


class ModuleJudge(Judge):
    """Any classifier as judge: a second checkpoint, the registered champion, a network trained on other data.

    It is put in evaluation mode while it judges and left as it was found; it is never trained and never moved, the
    images are moved to it.

    Args:
        module: The classifier, trained by itself: a copy of the model under probe judges its own gradient.
        logits_fn: As for the probe, where logits cannot be found in the module's output.

    Example:
        >>> import torch
        >>> judge = ModuleJudge(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3)))
        >>> judge.classify(torch.rand(5, 1, 4, 4)).shape
        torch.Size([5])
        >>> judge.check((1, 4, 4), num_classes=10)
        Traceback (most recent call last):
        ...
        ValueError: judge must have 10 classes, as the model; got 3
    """

    def __init__(self, module: nn.Module, logits_fn: LogitsFn | None = None) -> None:
        if not isinstance(module, nn.Module):
            raise TypeError(f"module must be a torch.nn.Module; got {describe(module)}")
        self.module, self.logits_fn = module, logits_fn
        self.name = f"the module {type(module).__name__}"

    def check(self, image_shape: tuple[int, ...], num_classes: int) -> None:
        """Raise ValueError unless the module takes images ``(C, H, W)`` and tells that many classes apart."""
        try:
            logits = self._logits(torch.zeros(2, *image_shape))
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"judge must take images of the shape {tuple(image_shape)}; it fails: {error}") from error
        if logits.shape[1] != num_classes:
            raise ValueError(f"judge must have {num_classes} classes, as the model; got {logits.shape[1]}")

    def of_volumes(self, depth: int) -> ModuleJudge:
        """The judge for images ``(C * D, H, W)``, which the module gets as volumes ``(C, D, H, W)``."""
        return ModuleJudge(self.module, takes_folded(self.logits_fn, depth))

    def scores(self, images: Tensor) -> Tensor:
        """The module's logits for images ``(N, C, H, W)``, on the CPU, shape ``(N, classes)``."""
        logits = self.logits(images)
        return logits if logits.ndim == 2 else logits[..., 1] - logits[..., 0]

    def logits(self, images: Tensor) -> Tensor:
        """The module's logits, on the CPU, shape ``(N, classes)``, or ``(N, labels, 2)`` of independent labels."""
        return in_chunks(self._logits, images, _CHUNK).float().cpu()

    def _logits(self, images: Tensor) -> Tensor:
        own = next((t for t in (*self.module.parameters(), *self.module.buffers()) if t.is_floating_point()), None)
        with preserve_model_state(self.module), torch.no_grad():
            images = images.detach() if own is None else images.detach().to(own.device, own.dtype, copy=True)
            return classifier(self.module, self.logits_fn)(images)
