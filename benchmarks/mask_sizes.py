"""Which masks for 28, 64 and 224 pixels? Probe one kind of network at three image sizes under many masks.

    OMP_NUM_THREADS=1 python benchmarks/mask_sizes.py

Fashion-MNIST, enlarged where it has to be, so that only the number of pixels differs. "judge" is the share of all
prototypes in which class means of other images see the label, "reliability" how well the updates would come out the
same from other masks; both are those of `fitb_callbacks.scoring.catalogue`. Writes a CSV file with every figure and a
Markdown table of the means over seeds.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections import defaultdict
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from paper_models import accuracy, fashion_mnist, per_class, train

from fitb_callbacks import FillInBlanks
from fitb_callbacks.scoring.judges.centroid import CentroidJudge

SIDES = (28, 64, 224)
PATCHES_PER_SIDE = (28, 14, 7, 4)
MASK_RATIOS = (0.1, 0.25, 0.5, 0.75)
SCORES = ("coverage", "accuracy_all", "judge_accuracy", "area", "reliability")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=SIDES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--images", type=int, default=3_000, help="to train on")
    parser.add_argument("--images-per-class", type=int, default=5)
    parser.add_argument("--num-masks", type=int, default=256)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/mask_sizes"))
    options = parser.parse_args()
    images, labels, other_images, other_labels = fashion_mnist(options.images)
    probe_images, probe_labels = per_class(other_images, other_labels, options.images_per_class)
    rows = []
    for side in options.sides:
        judge = CentroidJudge.from_reference(
            (enlarged(images[:500], side), labels[:500]), image_shape=(1, side, side), num_classes=10
        )
        for seed in options.seeds:
            torch.manual_seed(seed)
            model = train(network(side), enlarged(images, side), labels, epochs=4, seed=seed)
            own = accuracy(model, enlarged(other_images, side), other_labels)
            print(f"{side} pixels, seed {seed}: accuracy {own:.3f}", flush=True)
            for patches, ratio in settings():
                probe = FillInBlanks(
                    mask_ratio=ratio,
                    patch_size=round(side / patches),
                    num_masks=options.num_masks,
                    tolerance=None,
                    adjust=False,
                    gentler=False,
                    low=0,
                    high=1,
                )
                result = probe.probe(model, enlarged(probe_images, side), probe_labels, judge=judge)
                scores = {name: result.metrics[name] for name in SCORES}
                rows.append({
                    "pixels": side, "patches a side": patches, "patch": probe.patch_size, "ratio": ratio, "seed": seed,
                    "own accuracy": own, **scores,
                })  # fmt: skip
                print({name: round(value, 3) for name, value in rows[-1].items()}, flush=True)
    write(options.output, rows)


def network(side: int) -> nn.Module:
    """Three convolutions that come to the same 7 x 7 fields at every size, by a coarser first stride."""
    stem = {28: (3, 2), 64: (5, 4), 224: (17, 16)}[side]
    return nn.Sequential(
        nn.Conv2d(1, 16, stem[0], stride=stem[1], padding=stem[0] // 2), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(7),
        nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 49, 10),
    )  # fmt: skip


def settings() -> list[tuple[int, float]]:
    """Patches a side and mask ratio: each varied with the other at its default."""
    return list(dict.fromkeys([(p, 0.25) for p in PATCHES_PER_SIDE] + [(14, ratio) for ratio in MASK_RATIOS]))


def enlarged(images: Tensor, side: int) -> Tensor:
    return images if side == 28 else F.interpolate(images, (side, side), mode="bilinear")


def write(path: Path, rows: list[dict[str, float]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(
            {name: f"{value:.4f}" if isinstance(value, float) else value for name, value in row.items()} for row in rows
        )
    cells: dict[tuple[float, ...], list[dict[str, float]]] = defaultdict(list)
    for row in rows:
        cells[row["pixels"], row["patches a side"], row["patch"], row["ratio"]].append(row)
    titles = ["pixels", "patches a side", "patch", "ratio", *SCORES]
    lines = ["| " + " | ".join(titles) + " |", "| --- " * len(titles) + "|"]
    for key, found in cells.items():
        means = [sum(row[name] for row in found) / len(found) for name in SCORES]
        lines.append("| " + " | ".join([*(f"{value:g}" for value in key), *(f"{mean:.2f}" for mean in means)]) + " |")
    path.with_suffix(".md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
