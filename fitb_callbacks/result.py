"""What a probe found."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["FillInBlanksResult"]

_FORMAT = "fitb-callbacks result 1"


@dataclass(frozen=True, eq=False)
class FillInBlanksResult:
    """Prototypes, updates and scores of one probe. All tensors are on the CPU.

    Attributes:
        images: The probe images, shape ``(N, C, H, W)``, in the model's input space.
        labels: The label each image was filled for, shape ``(N,)``.
        updates: Mean update of each image over its kept masks, shape ``(N, C, H, W)``; zero where none was kept.
        prototypes: What the updates show as an image, shape ``(N, C, H, W)``, in the model's input space, values from
            ``settings["low"]`` to ``settings["high"]``; the baseline where no mask was kept.
        predictions: Class that the model predicts for each prototype, shape ``(N,)``; -1 where no mask was kept.
        kept: Number of masks kept for each image, or of whole partitions with progressive masks, shape ``(N,)``.
        metrics: Score name, without prefix, to value; see `fitb_callbacks.metrics.METRICS`.
        settings: Everything the numbers depend on beside model and images, as JSON types: the probe's settings with
            its defaults resolved (patch size, low, high, baseline).
        class_names: Names of the classes, or None.
        steps: With progressive masks, each image after every step of the first partition, shape ``(N, S, C, H, W)``;
            None with random masks.

    Example:
        >>> import torch
        >>> from fitb_callbacks import FillInBlanks
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
        >>> result = FillInBlanks(num_masks=8).probe(model, torch.rand(5, 1, 4, 4), torch.tensor([0, 1, 2, 0, 1]))
        >>> result.prototypes.shape, 0.0 <= result.coverage <= 1.0
        (torch.Size([5, 1, 4, 4]), True)
    """

    images: Tensor
    labels: Tensor
    updates: Tensor
    prototypes: Tensor
    predictions: Tensor
    kept: Tensor
    metrics: Mapping[str, float]
    settings: Mapping[str, Any]
    class_names: Sequence[str] | None = None
    steps: Tensor | None = None

    @property
    def covered(self) -> Tensor:
        """Whether any mask was kept, boolean, shape ``(N,)``."""
        return self.kept > 0

    @property
    def coverage(self) -> float:
        """Share of the images with at least one kept mask, in [0, 1]."""
        return self.covered.float().mean().item()

    def figure(self) -> Image:
        """The grid that the callback logs, a column a class, as a Pillow image. Needs Pillow."""
        from PIL import Image

        from fitb_callbacks.pictures import prototype_grid

        return Image.fromarray(prototype_grid(self))

    def _repr_png_(self) -> bytes | None:
        return self.figure()._repr_png_()

    def __repr__(self) -> str:
        scores = ", ".join(f"{name}={value:.3g}" for name, value in self.metrics.items())
        return f"FillInBlanksResult({len(self.images)} images of {tuple(self.images.shape[1:])}, {scores})"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the result to one ``.npz`` file of plain arrays, without pickle.

        Args:
            path: File to write, replaced if it exists.

        Example:
            >>> import tempfile, torch
            >>> from fitb_callbacks import FillInBlanks, FillInBlanksResult
            >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
            >>> result = FillInBlanks(num_masks=8).probe(model, torch.rand(2, 1, 4, 4), torch.tensor([0, 1]))
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     result.save(f"{folder}/probe.npz")
            ...     again = FillInBlanksResult.load(f"{folder}/probe.npz")
            >>> torch.equal(result.prototypes, again.prototypes)
            True
        """
        arrays = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.steps is None:
            del arrays["steps"]
        described = {"format": _FORMAT} | {name: arrays.pop(name) for name in ("metrics", "settings", "class_names")}
        described["metrics"], described["settings"] = dict(self.metrics), dict(self.settings)
        described["class_names"] = None if self.class_names is None else list(self.class_names)
        half = {name: str(array.dtype) for name, array in arrays.items() if array.dtype == torch.bfloat16}
        with open(path, "wb") as file:  # noqa: PTH123 - given a name, savez would append .npz to it
            np.savez_compressed(
                file,
                description=np.array(json.dumps(described)),
                **{name: (array.float() if name in half else array).numpy() for name, array in arrays.items()},
            )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> FillInBlanksResult:
        """Read a result written by `save`.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is not a saved result.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            described = json.loads(str(arrays.pop("description")))
            if described.pop("format") != _FORMAT:
                raise ValueError("unknown format")
            values: dict[str, Any] = {name: torch.from_numpy(array) for name, array in arrays.items()}
            return cls(**values, **described)
        except FileNotFoundError:
            raise
        except Exception as error:
            raise ValueError(f"{os.fspath(path)!r} is not a saved FillInBlanksResult: {error}") from error
