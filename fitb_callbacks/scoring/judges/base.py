"""What every judge can do."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

__all__ = ["Judge"]


class Judge(Protocol):
    """Anything that classifies images without being the model under probe."""

    def check(self, image_shape: tuple[int, ...], num_classes: int) -> None:
        """Raise ValueError unless the judge can judge images ``(C, H, W)`` of that many classes."""

    def classify(self, images: Tensor) -> Tensor:
        """Class of each image ``(N, C, H, W)``, integers on the CPU, shape ``(N,)``."""
