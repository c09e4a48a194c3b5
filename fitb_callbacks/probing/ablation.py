"""One probe over many mask ratios, patch sizes and thresholds (paper, section 4.4 and figure 4)."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fitb_callbacks.probing.probe import FillInBlanks
from fitb_callbacks.probing.result import FillInBlanksResult
from fitb_callbacks.utils.validation import check_number_between

if TYPE_CHECKING:
    from fitb_callbacks.models.logits import LogitsFn
    from fitb_callbacks.plotting.tiles import Picture

__all__ = ["Ablation", "Cell", "ablate"]

_FINGERPRINT = "ablation.sha256"


@dataclasses.dataclass(frozen=True)
class Cell:
    """One setting of an ablation, and what the probe found with it."""

    mask_ratio: float
    patch_size: int
    binarize: float | None
    result: FillInBlanksResult


@dataclasses.dataclass(frozen=True)
class Ablation:
    """All cells of an ablation.

    Attributes:
        cells: By threshold, then patch size, then mask ratio, in the order in which these were given.
    """

    cells: Sequence[Cell]

    def write_csv(self, path: str | os.PathLike[str]) -> None:
        """Write one row per cell: mask ratio, patch size, threshold (empty: not binarised), then every score."""
        names = list(self.cells[0].result.metrics)
        with open(path, "w", newline="", encoding="utf-8") as file:  # noqa: PTH123 - any path-like
            writer = csv.writer(file)
            writer.writerow(["mask_ratio", "patch_size", "binarize", *names])
            for cell in self.cells:
                scores = [f"{cell.result.metrics[name]:.6g}" for name in names]
                writer.writerow([cell.mask_ratio, cell.patch_size, cell.binarize, *scores])

    def picture(self, index: int = 0) -> Picture:
        """Draw one image's prototypes: one column per mask ratio, one row per patch size, one block per threshold.

        Args:
            index: Which of the probe images.

        Returns:
            Height x width x 3, uint8; blank where no mask was kept. Needs Pillow.
        """
        from fitb_callbacks.plotting.layout import lay_out
        from fitb_callbacks.plotting.tiles import prototype_tile

        cuts = list(dict.fromkeys(cell.binarize for cell in self.cells))
        columns: dict[float, list[Picture]] = {}
        rows = {}
        for cell in self.cells:
            columns.setdefault(cell.mask_ratio, []).append(prototype_tile(cell.result.cells([index])[0]))
            cut = "" if len(cuts) == 1 else ", no cut" if cell.binarize is None else f", > {cell.binarize:g}"
            rows[cell.patch_size, cell.binarize] = f"patch {cell.patch_size}{cut}"
        return lay_out(
            [(f"ratio {ratio:g}", tiles, "", True) for ratio, tiles in columns.items()],
            row_titles=list(rows.values()),
            bands=1,
        )


def ablate(  # noqa: PLR0913 - what to probe, the lists to go through, and where to write
    model: nn.Module,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    probe: FillInBlanks | None = None,
    mask_ratios: Sequence[float] = (0.1, 0.25, 0.5, 0.75),
    patch_sizes: Sequence[int] = (1, 2, 4, 7),
    thresholds: Sequence[float | None] | None = None,
    folder: str | os.PathLike[str] | None = None,
    logits_fn: LogitsFn | None = None,
    class_names: Sequence[str] | None = None,
    on_cell: Callable[[int, int], None] = lambda done, total: None,
) -> Ablation:
    """Probe a model under every combination of mask ratio, patch size and threshold.

    With random masks, thresholds share the updates, so that further ones cost next to nothing. Progressive masks come
    in partitions of ``round(1 / mask_ratio)``, and each threshold is a probe of its own, since what one step fills in
    is what the next one sees.

    Args:
        model: As for `FillInBlanks.probe`, like images, labels, ``logits_fn`` and ``class_names``.
        images: Shape ``(N, C, H, W)``.
        labels: Integers, shape ``(N,)``.
        probe: All other settings. None takes the defaults.
        mask_ratios: Each in (0, 1), at least one.
        patch_sizes: Sides in pixels, at least one.
        thresholds: Values of ``binarize``; None takes the probe's alone.
        folder: Where each cell is written as it is finished. Cells found there are not computed again, so the same call
            goes on after an interruption. None writes nothing.
        logits_fn: As for the probe.
        class_names: As for the probe.
        on_cell: Called with the number of finished cells and of all cells, first with 0.

    Returns:
        The cells.

    Raises:
        ValueError: If a list is empty or a value out of range, or if the folder holds an ablation of another model, of
            other images or other settings.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
        >>> ablation = ablate(model, torch.rand(3, 1, 4, 4), torch.arange(3), probe=FillInBlanks(num_masks=8),
        ...                   mask_ratios=[0.25, 0.5], patch_sizes=[1, 2], thresholds=[0.05, None])
        >>> len(ablation.cells), ablation.cells[0].mask_ratio, ablation.cells[-1].binarize
        (8, 0.25, None)
    """
    probe = probe or FillInBlanks()
    cuts = [probe.binarize] if thresholds is None else list(thresholds)
    for name, values in (("mask_ratios", mask_ratios), ("patch_sizes", patch_sizes), ("thresholds", cuts)):
        if not values:
            raise ValueError(f"{name} must hold at least one value; got {values!r}")
    for ratio in mask_ratios:
        check_number_between("every value in mask_ratios", ratio, 0, 1)
    settings = {
        (cut, size, ratio): dataclasses.replace(
            probe,
            mask_ratio=ratio,
            patch_size=size,
            gentler=False,  # a cell is about its own ratio
            binarize=cut,
            num_steps=round(1 / ratio) if probe.masking == "progressive" else probe.num_steps,
        )
        for cut in cuts
        for size in patch_sizes
        for ratio in mask_ratios
    }
    for setting in settings.values():
        setting.patch_grid(images)
    if folder is not None:
        _claim(Path(folder), _fingerprint(model, images, labels, probe))

    results: dict[tuple[float | None, int, float], FillInBlanksResult] = {}
    on_cell(0, len(settings))
    for (cut, size, ratio), setting in settings.items():
        path = None if folder is None else Path(folder) / f"ratio-{ratio:g}_patch-{size}_threshold-{cut}.npz"
        if path is not None and path.exists():
            result = FillInBlanksResult.load(path)
        else:
            sibling = results.get((cuts[0], size, ratio)) if probe.masking == "random" else None
            if sibling is not None:
                result = setting.threshold_again(model, sibling, logits_fn=logits_fn)
            else:
                result = setting.probe(model, images, labels, logits_fn=logits_fn, class_names=class_names)
            if path is not None:
                unfinished = path.with_suffix(".part")
                result.save(unfinished)
                unfinished.replace(path)
        results[cut, size, ratio] = result
        on_cell(len(results), len(settings))
    return Ablation([Cell(ratio, size, cut, result) for (cut, size, ratio), result in results.items()])


def _claim(folder: Path, fingerprint: str) -> None:
    """Mark a folder as this ablation's, or refuse it if it is another's."""
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / _FINGERPRINT
    if not mark.exists():
        mark.write_text(fingerprint + "\n")
    elif mark.read_text().strip() != fingerprint:
        raise ValueError(
            f"folder must be new or hold the same ablation; {str(folder)!r} holds one of another model, "
            "of other images or other settings"
        )


def _fingerprint(model: nn.Module, images: Tensor, labels: Tensor | None, probe: FillInBlanks) -> str:
    """A hash of all that the cells depend on beside their own three settings."""
    shared = dataclasses.replace(probe, mask_ratio=0.5, patch_size=None, binarize=None, num_steps=1, chunk_size=None)
    digest = hashlib.sha256(repr(shared).encode())
    for name, value in {**model.state_dict(), "images": images, "labels": labels}.items():
        if isinstance(value, Tensor):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
