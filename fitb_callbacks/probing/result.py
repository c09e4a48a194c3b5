"""The result of a probe: tensors, scores and settings, and what pictures show of them."""

from __future__ import annotations

import json
import math
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fitb_callbacks.models.volumes import central_slices, unfolded
from fitb_callbacks.plotting.tiles import Cell
from fitb_callbacks.probing.masks import partition_masks, random_masks
from fitb_callbacks.probing.reliance import reliance_summary
from fitb_callbacks.scoring.catalogue import DECIDING
from fitb_callbacks.scoring.classification import by_class, confusion_matrix
from fitb_callbacks.scoring.interpretation import Spot, interpret
from fitb_callbacks.utils.patch_grid import PatchGrid

if TYPE_CHECKING:
    from PIL.Image import Image

    from fitb_callbacks.plotting.layout import Heading

__all__ = ["FillInBlanksResult", "without_pictures"]

_FORMAT = "fitb-callbacks result 2"


@dataclass(frozen=True, eq=False)
class FillInBlanksResult:
    """Prototypes, updates and scores of one probe. All tensors are on the CPU.

    Attributes:
        images: The probe images, shape ``(N, C, H, W)``, in the model's input space. Of volumes, slices are channels:
            ``C * D`` of them, and `depth` is D.
        labels: The label each image was filled for, shape ``(N,)``.
        updates: Mean update of each image over its kept masks, shape ``(N, C, H, W)``; zero where none was kept.
        prototypes: What the updates show as an image, shape ``(N, C, H, W)``, in the model's input space, values from
            ``settings["low"]`` to ``settings["high"]``; the baseline where no mask was kept.
        predictions: Class that the model predicts for each prototype, shape ``(N,)``; -1 where no mask was kept.
        kept: Number of masks kept for each image, or of whole partitions with progressive masks, shape ``(N,)``.
        standard_error: Standard error of each value of the updates, shape ``(N, C, H, W)``.
        reliability: How well each update would come out the same from other masks, up to 1, shape ``(N,)``; NaN where
            half of the masks kept nothing. See `fitb_callbacks.scoring.update_quality.split_half_reliability`.
        tried: Number of masks made for each image, kept or not, shape ``(N,)``.
        out_of_time: Whether there were no more because of a time limit.
        metrics: Score name, without prefix, to value; see `fitb_callbacks.scoring.catalogue.METRICS`.
        settings: Everything the numbers depend on beside model and images, as JSON types: the probe's settings with
            its defaults resolved (patch size, low, high, baseline).
        intervals: Name of each score that is a rate to the ends of its 95% interval.
        judged: Class that the judge sees in each prototype, shape ``(N,)``; -1 where no mask was kept or it sees
            none. None without a judge.
        judge_ranks: Share of the wrong classes that the judge ranks below the label on the filled images, or on the
            prototypes where nothing was filled, shape ``(N,)``. None without a judge.
        class_names: Names of the classes, or None.
        steps: With progressive masks, each image after every step of the first partition, shape ``(N, S, C, H, W)``;
            None with random masks.
        filled: The images filled in until no original pixel is left, shape ``(N, C, H, W)``; None without a fill.
        fill_steps: The images after each step of that fill, shape ``(N, S, C, H, W)``; None without a fill.
        fill_predictions: Class that the model predicts for each filled image, shape ``(N,)``; None without a fill.
        reliance: Share of what the model relies on that lies in each patch, shape ``(N, rows, columns)``, each image's
            sum 1, or 0 where no patch matters; see `fitb_callbacks.probing.reliance`. None if it was not measured.
        mask_ratios: Share of each image that the masks of its update hid, shape ``(N,)``: the setting, or less where
            the model knew the image but under none of the usual masks. None with progressive masks.
        image_predictions: Class that the model predicts for each image itself, unmasked, shape ``(N,)``.

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
    standard_error: Tensor
    reliability: Tensor
    tried: Tensor
    metrics: Mapping[str, float]
    settings: Mapping[str, Any]
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    judged: Tensor | None = None
    judge_ranks: Tensor | None = None
    class_names: Sequence[str] | None = None
    steps: Tensor | None = None
    out_of_time: bool = False
    filled: Tensor | None = None
    fill_steps: Tensor | None = None
    fill_predictions: Tensor | None = None
    reliance: Tensor | None = None
    mask_ratios: Tensor | None = None
    image_predictions: Tensor | None = None

    @property
    def covered(self) -> Tensor:
        """Whether any mask was kept, boolean, shape ``(N,)``."""
        return self.kept > 0

    @property
    def gentler(self) -> Tensor:
        """Whether an image's update is from masks that hide less than the usual ones, boolean, shape ``(N,)``."""
        if self.mask_ratios is None:
            return torch.zeros_like(self.covered)
        return self.mask_ratios < 0.99 * float(self.settings["mask_ratio"])

    @property
    def coverage(self) -> float:
        """Share of the images with at least one kept mask, in [0, 1]."""
        return self.covered.float().mean().item()

    @property
    def per_class(self) -> dict[str, list[float]]:
        """``accuracy`` and ``coverage`` over all images of each class, and ``judge_accuracy`` if there is a judge.

        An uncovered image counts as wrong; NaN stands for a class without an image.
        """
        right = {"coverage": self.covered}
        if self.has_pictures:
            right["accuracy"] = self.covered & (self.predictions == self.labels)
        if self.judged is not None:
            right["judge_accuracy"] = self.judged == self.labels
        return {name: by_class(of, self.labels, num_classes=self._num_classes) for name, of in right.items()}

    @property
    def confusion(self) -> Tensor:
        """Which label's prototypes the model takes for which class, covered images only: `(label, prediction)`."""
        return confusion_matrix(self.predictions, self.labels, num_classes=self._num_classes)

    @property
    def answers(self) -> dict[str, Tensor]:
        """Class that the "model", and the "judge" if there is one, takes each prototype for; -1 for none."""
        return {"model": self.predictions} | ({} if self.judged is None else {"judge": self.judged})

    @property
    def classes(self) -> list[int]:
        """Labels of which there is a probe image, ascending."""
        return sorted(set(self.labels.tolist()))

    def class_name(self, label: int) -> str:
        """Name of a class; its number if the classes have no names."""
        return self.class_names[label] if self.class_names else str(label)

    @property
    def has_pictures(self) -> bool:
        """Whether there are updates and prototypes: not with ``update="none"``."""
        return bool(self.settings.get("update") != "none")

    @property
    def depth(self) -> int | None:
        """Slices of each volume, where images are volumes with their slices as channels; None for plain images."""
        depth: int | None = self.settings.get("depth")
        return depth

    @property
    def value_range(self) -> tuple[Tensor, Tensor]:
        """Values of each channel that are shown as black and as white, shape ``(C, 1, 1)`` each."""
        return self._of_channels("low"), self._of_channels("high")

    def cells(self, indices: Sequence[int] | None = None) -> list[Cell]:
        """What pictures show of some images.

        Args:
            indices: Which images; None for one of each class, in the order of `classes`: its first image that has a
                prototype, or its first image if none has. Not the best one, which would change from epoch to epoch.

        Example:
            >>> import torch
            >>> from fitb_callbacks import FillInBlanks
            >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
            >>> result = FillInBlanks(num_masks=8).probe(model, torch.rand(5, 1, 4, 4), torch.tensor([0, 1, 2, 0, 1]))
            >>> [cell.name for cell in result.cells()]
            ['0', '1', '2']
        """
        if indices is None:
            indices = self.shown_images
        show, (low, high) = self._shown, self.value_range
        visible, baseline = show(self._first_masks(), masks=True), show(self._of_channels("baseline"))
        if self.depth is not None:
            low, high = (unfolded(ends, self.depth) for ends in (low, high))
            low, high = low.amin(dim=1), high.amax(dim=1)
        shown = self.predictions if self.fill_predictions is None else self.fill_predictions
        gentler = self.gentler
        return [
            Cell(
                name=self.class_name(int(self.labels[index])),
                image=show(self.images[index]),
                visible=visible,
                update=show(self.updates[index]),
                prototype=show(self.prototypes[index]) if self.covered[index] and self.has_pictures else None,
                answer=self.class_name(int(shown[index])) if shown[index] >= 0 else None,
                right=bool(shown[index] == self.labels[index]),
                low=low,
                high=high,
                baseline=baseline,
                steps=None if self.steps is None else show(self.steps[index]),
                filled=None if self.filled is None else show(self.filled[index]),
                reliance=None if self.reliance is None else self._shown_reliance(index),
                gentler=bool(gentler[index]),
                is_volume=self.depth is not None,
            )
            for index in indices
        ]

    @property
    def shown_images(self) -> list[int]:
        """Index of the image that stands for each class in pictures, in the order of `classes`."""
        by_label = [(self.labels == label).nonzero()[:, 0].tolist() for label in self.classes]
        return [next((index for index in each if self.covered[index]), each[0]) for each in by_label]

    def _shown(self, tensor: Tensor, *, masks: bool = False) -> Tensor:
        """What a picture shows of images ``(..., C, H, W)`` or masks ``(S, H, W)``: of volumes, three slices."""
        if self.depth is None:
            return tensor
        size = self.images.shape[-2:]
        volumes = tensor.unsqueeze(-3) if masks else unfolded(tensor, self.depth)
        return central_slices(volumes.expand(*volumes.shape[:-3], self.depth, *size))

    def _shown_reliance(self, index: int) -> Tensor:
        assert self.reliance is not None
        if self.depth is None:
            return self.reliance[index]
        grid = PatchGrid.for_images(self.images, self.settings["patch_size"])
        return self._shown(grid.to_pixels(self.reliance[index].flatten())[None], masks=True)[0]

    def _of_channels(self, setting: str) -> Tensor:
        return torch.tensor(self.settings[setting], dtype=self.images.dtype)[:, None, None]

    def _first_masks(self) -> Tensor:
        """Visible pixels of the first random mask, or of the first partition's masks, boolean ``(S, H, W)``."""
        settings, first = self.settings, torch.zeros(1, dtype=torch.long)
        grid = PatchGrid.for_images(self.images, settings["patch_size"])
        if self.steps is not None:
            return partition_masks(first, grid, num_steps=settings["num_steps"], seed=settings["seed"])[0]
        return random_masks(first, grid, mask_ratio=settings["mask_ratio"], seed=settings["seed"])

    @property
    def _num_classes(self) -> int:
        return int(self.settings["num_classes"])

    def interpretation(self, judge: str | None = None) -> dict[str, str]:
        """What the scores say, in words: see `fitb_callbacks.scoring.interpretation.interpret`."""
        covered = set(self.labels[self.covered].tolist())
        return interpret(
            self.metrics,
            self.intervals,
            num_classes=self._num_classes,
            num_images=len(self.labels),
            classes_without=[self.class_name(label) for label in self.classes if label not in covered],
            spot=self._spot(),
            judge=judge,
            recognised=self._recognised,
        )

    @property
    def _recognised(self) -> float | None:
        """Share of the filled images that the model takes for their label."""
        if self.fill_predictions is None:
            return None
        return (self.fill_predictions == self.labels).float().mean().item()

    def _spot(self) -> Spot | None:
        if self.reliance is None:
            return None
        grid = PatchGrid.for_images(self.images, self.settings["patch_size"])
        found = reliance_summary(self.reliance.flatten(1), grid)
        return Spot(found.place(grid), found.area)

    def heading(self, title: str = "", *, judge: str | None = None) -> Heading:
        """What stands at the top of a picture of this result. Needs Pillow.

        Args:
            title: What was probed, such as the run and the epoch.
            judge: The judge in words.
        """
        from fitb_callbacks.plotting.layout import Heading

        said = self.interpretation(judge)
        images = f"{len(self.labels)} probe images of {len(self.classes)} classes"
        return Heading(f"{title}, {images}" if title else images, said["headline"], said["tone"])  # type: ignore[arg-type]

    def figure(self, title: str = "") -> Image:
        """Draw what the model fills in for each class, as the callback logs it: a Pillow image. Needs Pillow.

        Args:
            title: What was probed, such as the run and the epoch.
        """
        from PIL import Image

        from fitb_callbacks.plotting.prototypes import prototype_grid

        return Image.fromarray(prototype_grid(self.cells(), self.heading(title)))

    def summary(self, title: str = "", *, judge: str | None = None) -> Image:
        """Draw verdict, deciding scores and up to 12 classes on one card: a Pillow image. Needs Pillow.

        Args:
            title: What was probed, such as the run and the epoch.
            judge: The judge in words.
        """
        from PIL import Image

        from fitb_callbacks.plotting.at_a_glance import glance_picture

        scores = {name: [(0, self.metrics[name])] for name in DECIDING if name in self.metrics}
        return Image.fromarray(glance_picture(self.cells(), scores, self.intervals, self.heading(title, judge=judge)))

    def html(self, title: str = "", *, judge: str | None = None) -> str:
        """Summary, reason and all scores as a piece of HTML, as notebooks show it. Needs Pillow.

        Args:
            title: What was probed, such as the run and the epoch.
            judge: The judge in words.
        """
        from fitb_callbacks.probing.html import probe_html

        return probe_html(self.summary(title, judge=judge), self.metrics, self.intervals, self.interpretation(judge))

    def _repr_html_(self) -> str:
        return self.html()

    def _repr_png_(self) -> bytes | None:
        return self.summary()._repr_png_()

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
        described: dict[str, Any] = {
            "format": _FORMAT,
            "metrics": dict(self.metrics),
            "settings": dict(self.settings),
        }
        described["intervals"] = {name: list(ends) for name, ends in self.intervals.items()}
        described["out_of_time"] = self.out_of_time
        described["class_names"] = None if self.class_names is None else list(self.class_names)
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
        # NumPy has no bfloat16
        arrays: dict[str, Any] = {
            name: (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
            for name, tensor in tensors.items()
        }
        with open(path, "wb") as file:  # noqa: PTH123 - given a name, savez would append .npz to it
            np.savez_compressed(file, description=np.array(json.dumps(described)), **arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> FillInBlanksResult:
        """Read a result written by `save`.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is not a saved result.
        """
        try:
            with Path(path).open("rb") as content:
                if not zipfile.is_zipfile(content):  # of which NumPy would advise to load it unsafely
                    raise ValueError("it is no .npz file, or cut off")
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            described = json.loads(str(arrays.pop("description")))
            if described.pop("format") != _FORMAT:
                raise ValueError("unknown format")
            described["intervals"] = {name: tuple(ends) for name, ends in described["intervals"].items()}
            values: dict[str, Any] = {name: torch.from_numpy(array) for name, array in arrays.items()}
            return cls(**values, **described)
        except FileNotFoundError:
            raise
        except Exception as error:
            raise ValueError(f"{os.fspath(path)!r} is not a saved FillInBlanksResult: {error}") from error


_WITHOUT_PICTURES = ("coverage", "nonfinite", "image_accuracy", "shortcut", "spot_share", "same_place", "class_place")


def without_pictures(result: FillInBlanksResult) -> FillInBlanksResult:
    """The result of forward passes only: scores of updates and prototypes are undefined, and no class is recognised."""
    metrics = {
        name: value if name in _WITHOUT_PICTURES or name.startswith("cue_") else math.nan
        for name, value in result.metrics.items()
    }
    intervals = {name: ends for name, ends in result.intervals.items() if not math.isnan(metrics.get(name, math.nan))}
    return replace(result, predictions=torch.full_like(result.predictions, -1), metrics=metrics, intervals=intervals)
