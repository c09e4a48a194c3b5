"""Learned structure over training as one picture: a row a class, a column a probed epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fitb_callbacks.plotting.layout import lay_out
from fitb_callbacks.plotting.tiles import Picture

__all__ = ["Timeline", "timeline_picture"]

_MOST_COLUMNS = 12
_MOST_CLASSES = 20
_TILE = 56
_SHAPE = 1.4  # width by height that the picture comes near to


@dataclass(frozen=True)
class Timeline:
    """Small prototypes of some of the epochs that were probed, evenly spaced, and of the last.

    Holds at most 13 columns of 20 tiles of 56 pixels, however long the run: when there would be more, every second one
    is dropped, so that what is left begins with the first probe and is evenly spaced.

    Attributes:
        probed: Number of probes so far.
        kept: Which of them have a column, counted from 0.
        epochs: Their epochs.
        tiles: Their first prototype of each class, uint8, shape ``(columns, classes, H, W, 3)``; None before the first.

    Example:
        >>> prototypes = [np.zeros((4, 4, 3), np.uint8)] * 3
        >>> timeline = Timeline()
        >>> for epoch in range(100):
        ...     timeline = timeline.with_probe(prototypes, epoch)
        >>> timeline.epochs
        (0, 16, 32, 48, 64, 80, 96, 99)
        >>> timeline.tiles.shape
        torch.Size([8, 3, 4, 4, 3])
    """

    probed: int = 0
    kept: tuple[int, ...] = ()
    epochs: tuple[int, ...] = ()
    tiles: Tensor | None = None

    def with_probe(self, prototypes: Sequence[Picture], epoch: int) -> Timeline:
        """Return the timeline with one more probe of the same images: a picture of each class, of which 20 are kept."""
        new = _tiles(prototypes[:_MOST_CLASSES]).unsqueeze(0)
        number = self.probed + 1
        spacing = 1
        while (number - 1) // spacing + 1 > _MOST_COLUMNS:
            spacing *= 2
        columns = [at for at, probe in enumerate(self.kept) if probe % spacing == 0]
        tiles = new if self.tiles is None else torch.cat([self.tiles[columns], new])
        kept = (*(self.kept[at] for at in columns), self.probed)
        return Timeline(number, kept, (*(self.epochs[at] for at in columns), epoch), tiles)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and primitives, loadable with ``weights_only=True``."""
        return {"probed": self.probed, "kept": list(self.kept), "epochs": list(self.epochs), "tiles": self.tiles}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> Timeline:
        """The timeline that `state_dict` was made of."""
        return cls(state["probed"], tuple(state["kept"]), tuple(state["epochs"]), state["tiles"])


def timeline_picture(timeline: Timeline, names: Sequence[str]) -> Picture:
    """The timeline as a picture; epochs stand above the columns.

    For dashboards, which show pictures that are somewhat wider than high: few epochs of many classes stand in blocks of
    classes side by side, many epochs of few classes in bands one below the other.

    Args:
        timeline: With at least one probe.
        names: Names of the classes, those of the rows.

    Returns:
        Height x width x 3, uint8.
    """
    assert timeline.tiles is not None
    titles = list(names[:_MOST_CLASSES])
    across = len(timeline.epochs) + 1  # with the titles
    rows = math.ceil(len(titles) / max(1, round(math.sqrt(_SHAPE * len(titles) / across))))
    blocks = []
    for first in range(0, len(titles), rows):
        block = slice(first, first + rows)
        columns = [
            (str(epoch), list(tiles[block].numpy()), "", True)
            for epoch, tiles in zip(timeline.epochs, timeline.tiles, strict=True)
        ]
        missing = rows - len(titles[block])
        blocks.append(lay_out(columns, row_titles=titles[block] + [""] * missing, corner="epoch", tile=_TILE))
    return np.concatenate(blocks, axis=1)


def _tiles(pictures: Sequence[Picture]) -> Tensor:
    """Pictures of one size, made no larger than a tile, uint8 ``(classes, H, W, 3)``."""
    tiles = torch.from_numpy(np.stack(pictures))
    height, width = tiles.shape[1:3]
    if (longer := max(height, width)) <= _TILE:
        return tiles
    size = (max(1, height * _TILE // longer), max(1, width * _TILE // longer))
    small = F.interpolate(tiles.permute(0, 3, 1, 2).float(), size=size, mode="area")
    return small.round().byte().permute(0, 2, 3, 1).contiguous()
