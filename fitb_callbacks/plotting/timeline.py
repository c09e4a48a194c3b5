"""Learned structure over training in one picture: one row per class, one column per probed epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fitb_callbacks.plotting.tiles import Picture

if TYPE_CHECKING:
    from fitb_callbacks.plotting.layout import Heading

__all__ = ["Timeline", "timeline_picture"]

_MOST_COLUMNS = 12
_MOST_CLASSES = 20
_MOST_BEFORE = 64  # as many as a record has
_TILE = 56
_LARGEST_TILE = 112
_LONGEST_NAME = 190
_SHORTEST_BLOCK = 5  # rows
_BEFORE = "before"


@dataclass(frozen=True)
class Timeline:
    """Small prototypes: of the untrained network, of some of the probed epochs, evenly spaced, and of the last.

    Holds at most 13 columns of 20 tiles of 56 pixels, however long the run: when there would be more, every second one
    is dropped, so that what is left begins with the first probe and is evenly spaced.

    Attributes:
        probed: Number of probes so far.
        kept: Which of them have a column, counted from 0.
        epochs: Their epochs.
        tiles: Their first prototype of each class, uint8, shape ``(columns, classes, H, W, 3)``; None before the first.
        scores: Their scores, by name.
        before: Class name to its prototype before training, uint8, shape ``(H, W, 3)``; empty if that was not probed.

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
    scores: tuple[Mapping[str, float], ...] = ()
    before: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def beginning(cls, names: Sequence[str], prototypes: Sequence[Picture]) -> Timeline:
        """The timeline of an untrained network: a name and a picture of each class, of which 64 are kept."""
        return cls(before=dict(zip(names, _tiles(prototypes[:_MOST_BEFORE]), strict=False)))

    def with_probe(
        self, prototypes: Sequence[Picture], epoch: int, scores: Mapping[str, float] | None = None
    ) -> Timeline:
        """Return the timeline with one more probe of the same images: a picture of each class, of which 20 are kept."""
        new = _tiles(prototypes[:_MOST_CLASSES]).unsqueeze(0)
        number = self.probed + 1
        spacing = 1
        while (number - 1) // spacing + 1 > _MOST_COLUMNS:
            spacing *= 2
        columns = [at for at, probe in enumerate(self.kept) if probe % spacing == 0]
        tiles = new if self.tiles is None else torch.cat([self.tiles[columns], new])
        kept = (*(self.kept[at] for at in columns), self.probed)
        epochs = (*(self.epochs[at] for at in columns), epoch)
        all_scores = (*(self.scores[at] for at in columns), dict(scores or {}))
        return Timeline(number, kept, epochs, tiles, all_scores, self.before)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and primitives, loadable with ``weights_only=True``."""
        return {
            "probed": self.probed,
            "kept": list(self.kept),
            "epochs": list(self.epochs),
            "tiles": self.tiles,
            "scores": list(self.scores),
            "before": dict(self.before),
        }

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> Timeline:
        """The timeline that `state_dict` was made of."""
        return cls(
            state["probed"],
            tuple(state["kept"]),
            tuple(state["epochs"]),
            state["tiles"],
            tuple(state["scores"]),
            state.get("before", {}),  # older checkpoints have none
        )


def timeline_picture(timeline: Timeline, names: Sequence[str], heading: Heading | None = None) -> Picture:
    """Draw the timeline: one row per class, one column per probed epoch, in several blocks if there is room.

    The untrained network has the first column, if it was probed.

    Args:
        timeline: With at least one probe.
        names: Names of the classes, those of the rows.
        heading: What the picture is of, and what the scores say.

    Returns:
        Height x width x 3, uint8, 900 pixels wide.
    """
    from PIL import Image, ImageDraw

    from fitb_callbacks.plotting.layout import (
        GAP,
        INK,
        MARGIN,
        PAPER,
        TEXT,
        WIDTH,
        fitted,
        font,
        heading_strip,
        paragraph,
        stacked,
    )
    from fitb_callbacks.plotting.names import told_apart

    assert timeline.tiles is not None
    face, titles = font(), list(names[:_MOST_CLASSES])
    texts = told_apart(titles, face, _LONGEST_NAME)
    margin = max(round(face.getlength(text)) for text in (*texts.values(), "epoch")) + 2 * MARGIN
    first_column = _LARGEST_TILE + MARGIN if timeline.before else 0  # room for its title, too
    room = (WIDTH - margin - first_column - MARGIN) // len(timeline.epochs) - GAP
    side, line = min(_LARGEST_TILE if len(titles) <= 10 else _TILE, room), round(1.4 * TEXT)
    column = max(side, min(room, round(face.getlength(str(timeline.epochs[-1]))) + GAP)) + GAP
    # Where columns are narrow, not each has its epoch above it, but the last one does
    titled = math.ceil((face.getlength(str(timeline.epochs[-1])) + GAP) / column)
    # Few epochs of many classes leave room for more blocks beside the first
    width = margin + first_column + column * len(timeline.epochs)
    blocks = max(1, min(WIDTH // width, math.ceil(len(titles) / _SHORTEST_BLOCK)))
    rows, row = math.ceil(len(titles) / blocks), max(side + GAP, line)
    canvas = Image.new("RGB", (WIDTH, line + row * rows + GAP), PAPER)
    draw = ImageDraw.Draw(canvas)

    def draw_column(title: str, tiles: Sequence[Picture | None], left: int) -> None:
        draw.text((left + side // 2, line // 2), title, INK, face, anchor="mm")
        for number, tile in enumerate(tiles):
            if tile is not None:
                canvas.paste(fitted(tile, (side, side)), (left, line + number * row + (row - side) // 2))

    for block in range(math.ceil(len(titles) / rows)):
        here, edge = slice(block * rows, (block + 1) * rows), block * (WIDTH // blocks) + margin
        draw.text((edge - MARGIN, line // 2), "epoch", INK, face, anchor="rm")
        for number, title in enumerate(titles[here]):
            middle = line + number * row + row // 2
            draw.text((edge - MARGIN, middle), texts[title], INK, face, anchor="rm")
        if timeline.before:
            before = [timeline.before.get(title) for title in titles[here]]
            tiles = [None if tile is None else tile.numpy() for tile in before]
            draw_column(_BEFORE, tiles, edge + (first_column - side) // 2)
        for place, (epoch, all_tiles) in enumerate(zip(timeline.epochs, timeline.tiles, strict=True)):
            title = "" if (len(timeline.epochs) - 1 - place) % titled else str(epoch)
            draw_column(title, list(all_tiles[here].numpy()), edge + first_column + place * column)
    parts = [canvas] if heading is None else [heading_strip(heading), canvas]
    if len(titles) < len(names):
        parts.append(paragraph(f"{len(titles)} of {len(names)} classes."))
    return stacked(parts)


def _tiles(pictures: Sequence[Picture]) -> Tensor:
    """Pictures of one size, made no larger than a tile, uint8 ``(classes, H, W, 3)``."""
    tiles = torch.from_numpy(np.stack(pictures))
    height, width = tiles.shape[1:3]
    if (longer := max(height, width)) <= _TILE:
        return tiles
    size = (max(1, height * _TILE // longer), max(1, width * _TILE // longer))
    small = F.interpolate(tiles.permute(0, 3, 1, 2).float(), size=size, mode="area")
    return small.round().byte().permute(0, 2, 3, 1).contiguous()
