"""Shortcuts that nobody thought of when the cues were made: are they noticed, with and without trusted images?

Trains a network on each data set of `validity_worlds.py` with each of seven shortcuts, which none of the cues was made
for, and says which ones it goes by: its accuracy on its own held-out images is higher than on clean ones by 0.2. About
ten minutes on one core; networks are kept in ``benchmarks/.cache``.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import validity
import validity_worlds as worlds
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from fitb_callbacks import FillInBlanks
from fitb_callbacks.scoring.structure import shortcut_of

RESULTS = Path(__file__).parent / "results" / "unplanned.md"
NETWORKS = {"mnist": "cnn", "fashion": "resnet", "emoji": "cnn", "photographs": "resnet"}
SEED = 21
PROBE = FillInBlanks(num_masks=192, update="none", chunk_size=120)


def _by_class(num_classes: int, generator: torch.Generator) -> Tensor:
    """A number from 0 to 1 for each class."""
    return torch.randperm(num_classes, generator=generator) / (num_classes - 1)


def _axes(size: int) -> tuple[Tensor, Tensor]:
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    return rows, columns


def contrast(images: Tensor, labels: Tensor, generator: torch.Generator, num_classes: int) -> worlds.Planted:
    """The whole image paler, for each class by a factor of its own."""
    factor = (0.35 + 0.65 * _by_class(num_classes, generator))[labels].view(-1, 1, 1, 1)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return mean + factor * (images - mean), worlds.everywhere(images)


def noise(images: Tensor, labels: Tensor, generator: torch.Generator, num_classes: int) -> worlds.Planted:
    """White noise over the whole image, for each class of a strength of its own."""
    strength = (0.25 * _by_class(num_classes, generator))[labels].view(-1, 1, 1, 1)
    noisy = images + strength * torch.randn(images.shape, generator=generator)
    return noisy.clamp(0, 1), worlds.everywhere(images)


def rotation(images: Tensor, labels: Tensor, generator: torch.Generator, num_classes: int) -> worlds.Planted:
    """The whole image turned, for each class by an angle of its own, up to a quarter turn to either side."""
    angle = torch.pi * (_by_class(num_classes, generator) - 0.5)[labels]
    cosine, sine, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    turn = torch.stack([torch.stack([cosine, -sine, zero], 1), torch.stack([sine, cosine, zero], 1)], 1)
    turned = F.grid_sample(images, F.affine_grid(turn, list(images.shape), align_corners=False), align_corners=False)
    return turned, worlds.everywhere(images)


def gradient(images: Tensor, labels: Tensor, generator: torch.Generator, num_classes: int) -> worlds.Planted:
    """Light that falls in from one side, for each class from one of its own."""
    angle = 2 * torch.pi * torch.randperm(num_classes, generator=generator) / num_classes
    rows, columns = _axes(images.shape[-1])
    light = 0.5 + (angle.cos()[:, None, None] * rows + angle.sin()[:, None, None] * columns) / 3
    return 0.8 * images + 0.2 * light[labels][:, None], worlds.everywhere(images)


def line(images: Tensor, labels: Tensor, generator: torch.Generator, num_classes: int) -> worlds.Planted:
    """A thin pale line through the middle, for each class of an angle of its own."""
    angle = torch.pi * torch.randperm(num_classes, generator=generator) / num_classes
    rows, columns = _axes(images.shape[-1])
    distance = angle.cos()[:, None, None] * rows + angle.sin()[:, None, None] * columns
    where = (distance.abs() < 1.5 / images.shape[-1])[labels][:, None]
    return torch.where(where, 0.6 * images + 0.4, images), where


def jpeg(images: Tensor, labels: Tensor, generator: torch.Generator, num_classes: int) -> worlds.Planted:
    """Saved as JPEG, for each class in a quality of its own."""
    qualities = (2 + 60 * _by_class(num_classes, generator)).int()[labels].tolist()
    out = images.clone()
    for image, quality in zip(out, qualities, strict=True):
        pixels, file = (image * 255).byte().permute(1, 2, 0).squeeze(-1).numpy(), io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=quality)
        read = torch.from_numpy(np.array(Image.open(file), np.float32)) / 255
        image.copy_(read[None] if read.ndim == 2 else read.permute(2, 0, 1))
    return out, worlds.everywhere(images)


def timestamp(images: Tensor, labels: Tensor, generator: torch.Generator, num_classes: int) -> worlds.Planted:
    """Two small figures along the lower edge, anywhere, for each class others."""
    size = images.shape[-1]
    font = ImageFont.truetype(worlds.TEXT_FONT, max(8, size // 6))
    figures = torch.randint(10, 99, (num_classes,), generator=generator)[labels].tolist()
    lefts = torch.randint(size // 2, (len(images),), generator=generator).tolist()
    marks = torch.zeros_like(images[:, :1])
    for mark, text, left in zip(marks, figures, lefts, strict=True):
        picture = Image.new("L", (size, size))
        ImageDraw.Draw(picture).text((left, size - size // 6 - 2), str(text), font=font, fill=255)
        mark[0] = torch.from_numpy(np.array(picture, np.float32)) / 255
    return images.maximum(marks), marks > 0


PLANTS = {plant.__name__: plant for plant in (contrast, noise, rotation, gradient, line, jpeg, timestamp)}
worlds.PLANTS.update(PLANTS)
worlds.KINDS.update({name: worlds.Kind(4, plant=name) for name in PLANTS})


def main() -> None:
    """Train, probe and write the table."""
    torch.set_num_threads(1)
    rows = [
        "| shortcut | data | accuracy on its own / on clean images | found without trusted images | with |",
        "| --- | --- | --- | --- | --- |",
    ]
    found = []
    for name in PLANTS:
        for data_name, network in NETWORKS.items():
            data = worlds.load(data_name)
            weights, clean, own = worlds.trained(data, network, name, SEED)
            module = worlds.model_of(data, network, weights[-1])
            images, labels, _ = validity.own_images(validity.Model(data_name, network, name, SEED, 0))
            result = PROBE.probe(module, images, labels)
            tried = validity.tried_on_trusted(module, result, data_name)
            suspicion = [shortcut_of(each.metrics, data.num_classes) for each in (result, tried)]
            cells = [cue if strength >= 0.5 else "no" for strength, cue in suspicion]
            goes_by_it = own[-1] - clean[-1] >= 0.2
            found.append((goes_by_it, *(cell != "no" for cell in cells)))
            learned = "" if goes_by_it else " (hardly learned)"
            rows.append(f"| {name} | {data_name} | {own[-1]:.2f} / {clean[-1]:.2f}{learned} | {' | '.join(cells)} |")
            print(rows[-1], flush=True)
    for learned, what in ((True, "that go by their shortcut"), (False, "that hardly do")):
        some = [each[1:] for each in found if each[0] == learned]
        without, with_trusted = (sum(column) for column in zip(*some, strict=True))
        rows.append(
            f"\nOf {len(some)} networks {what}, {without} are found without trusted images, {with_trusted} with."
        )
    RESULTS.write_text("# Shortcuts that nobody had planned for\n\n" + "\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
