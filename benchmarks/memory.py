"""Peak memory of a probe, over that of the model's own forward and backward pass of one chunk.

    OMP_NUM_THREADS=1 python benchmarks/memory.py

Each figure is a process of its own: it builds the model and the images, puts one masked image through, notes the
largest resident memory so far, does the work, and reports by how much the largest resident memory rose. The allocator
is told to return every freed block of 64 KiB or more at once, so that the peak is what is held, not what was.
"""

from __future__ import annotations

import argparse
import csv
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from paper_models import cnn, vit

from fitb_callbacks import FillInBlanks
from fitb_callbacks.models.state import preserve_model_state


def resnet18() -> nn.Module:
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(
        hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic", num_labels=10, num_channels=3
    )
    return ResNetForImageClassification(config)


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int], int]] = {
    "CNN, 1 x 28 x 28": (cnn, (1, 28, 28), 1024),
    "CNN, 1 x 28 x 28, small chunks": (cnn, (1, 28, 28), 128),
    "ResNet-18, 3 x 64 x 64": (resnet18, (3, 64, 64), 128),
    "small ViT, 1 x 28 x 28": (vit, (1, 28, 28), 512),
}
"""A model, its image's shape, and a chunk that takes enough memory to be told from the noise."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/memory"))
    parser.add_argument("--measure", nargs=5, metavar=("MODEL", "WORK", "IMAGES", "MASKS", "PROBES"))
    settings = parser.parse_args()
    if settings.measure:
        model, work, *numbers = settings.measure
        print(measured(model, work, *map(int, numbers)))
        return
    settings.output.mkdir(parents=True, exist_ok=True)
    rows = [("model", "work", "images", "masks", "probes", "MiB"), *map(in_processes, plans())]
    with (settings.output / "memory.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    (settings.output / "memory.md").write_text("\n".join(table(rows[1:])) + "\n")


def plans() -> list[tuple[str, str, int, int, int]]:
    """For each model the bare pass and the probe; for one of them, more masks, images and probes."""
    found = [
        plan
        for model, (_, _, chunk) in MODELS.items()
        for plan in ((model, "bare", 16, chunk // 16, 1), (model, "probe", 16, chunk // 4, 1))
    ]
    first, (_, _, chunk) = next(iter(MODELS.items()))
    few = chunk // 4
    return [*found, (first, "probe", 16, 8 * few, 1), (first, "probe", 64, few, 1), (first, "probe", 16, few, 8)]


def in_processes(plan: tuple[str, str, int, int, int]) -> tuple[str, str, int, int, int, float]:
    command = [sys.executable, __file__, "--measure", *map(str, plan)]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_TRIM_THRESHOLD_": "0",
    }
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    print(*plan, done.stdout.strip(), flush=True)
    return *plan, round(float(done.stdout), 1)


def measured(name: str, work: str, num_images: int, num_masks: int, probes: int) -> float:
    """By how many MiB the work raises the largest resident memory."""
    build, shape, chunk_size = MODELS[name]
    torch.manual_seed(0)
    model, images = build(), torch.rand(num_images, *shape)
    probe = FillInBlanks(num_masks=num_masks, tolerance=None, fill=None, target="predicted", chunk_size=chunk_size)
    with preserve_model_state(model):
        bare(model, images[:1])
    FillInBlanks(num_masks=1, fill=None, target="predicted", chunk_size=1).probe(model, images[:1])
    before = peak()
    if work == "bare":
        with preserve_model_state(model):
            bare(model, images.repeat(num_masks, 1, 1, 1))
    for _ in range(probes if work == "probe" else 0):
        probe.probe(model, images)
    return peak() - before


def bare(model: nn.Module, masked: Tensor) -> Tensor:
    """Forward, and backward to the images alone."""
    leaf = masked.requires_grad_()
    output = model(leaf)
    logits = getattr(output, "logits", output)
    (gradient,) = torch.autograd.grad(F.cross_entropy(logits, logits.argmax(dim=1), reduction="sum"), leaf)
    return gradient


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def table(rows: list[tuple[str, str, int, int, int, float]]) -> list[str]:
    own = {model: mebibytes for model, work, *_, mebibytes in rows if work == "bare"}
    lines = [
        "| model, image | chunk | images | masks | probes | peak, MiB | one bare chunk, MiB | beyond it |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for model, work, images, masks, probes, mebibytes in rows:
        if work == "probe":
            cells = [model, f"{MODELS[model][2]:,}", images, masks, probes, f"{mebibytes:.0f}", f"{own[model]:.0f}"]
            lines.append(f"| {' | '.join(map(str, cells))} | {mebibytes / own[model] - 1:+.1%} |")
    return lines


if __name__ == "__main__":
    main()
