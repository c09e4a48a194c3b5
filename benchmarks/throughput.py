"""Masked updates a second of the probe, against the best bare loop of forward and input gradient.

    OMP_NUM_THREADS=1 python benchmarks/throughput.py

The bare loop gets its images ready made and throws the gradients away. It is swept over chunk sizes and memory
formats; the probe finds its own, in first probes that are not counted. Then the best bare loop and the probe are run
in turn, and the median of the ratios is taken: for masked updates, means and prototypes alone, which is what the loop
compares with, and for the whole probe, which also finds out what the model relies on. Times are this process's CPU
time, so that other programs count little.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
import unittest.mock
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from throughput_models import MODELS, build
from timing import cpu_seconds, medians, without_reliance
from torch import Tensor, nn

from fitb_callbacks import FillInBlanks
from fitb_callbacks.probing.adjustment import Adjustment
from fitb_callbacks.probing.autotune import tuner_for
from fitb_callbacks.utils.devices import keep_freed_memory

IMAGES_AND_MASKS = {
    "small CNN, 1 x 28 x 28": [(40, 256), (8, 512)],  # what the callback takes by default with ten classes; few images
    "ResNet-18, 3 x 64 x 64": [(4, 256)],
    "small ViT, 3 x 32 x 32": [(4, 256)],
}


def bare_loop(model: nn.Module, masked: Tensor, labels: Tensor, chunk_size: int) -> None:
    """Input gradients of masked images, and nothing else."""
    for images, of in zip(masked.split(chunk_size), labels.split(chunk_size), strict=True):
        leaf = images.detach().requires_grad_()
        torch.autograd.grad(F.cross_entropy(model(leaf), of, reduction="sum"), leaf)


def measure(name: str, num_images: int, num_masks: int, *, rounds: int, pairs: int) -> None:
    """Print the updates a second of every candidate."""
    title = f"{name}, {num_images} images x {num_masks} masks"
    model, images, labels = build(name, num_images)
    masked, of = images.repeat(num_masks, 1, 1, 1), labels.repeat(num_masks)
    bare = copy.deepcopy(model).requires_grad_(False)
    last = copy.deepcopy(bare).to(memory_format=torch.channels_last)
    keep_freed_memory(images.device)  # as the probe does, so that the bare loop gains by it too
    sizes = (16, 32, 64, 128, 256)
    candidates: dict[str, Callable[[], None]] = {}
    for size in sizes:
        candidates[f"bare, {size}"] = lambda size=size: bare_loop(bare, masked, of, size)
        candidates[f"bare, {size}, channels-last"] = lambda size=size: bare_loop(last, masked, of, size)
    seconds = medians(candidates, rounds)
    for key, value in seconds.items():
        print(f"{title}: {key}: {len(masked) / value:,.0f} a second", flush=True)
    best = candidates[min(seconds, key=seconds.__getitem__)]
    probe = FillInBlanks(num_masks=num_masks, tolerance=None, fill=None)  # of one gradient, as the bare loop
    tuner = tuner_for(model, images)
    while tuner.searching:
        probe.probe(model, images, labels)
    for what in ("updates", "whole"):
        with without_reliance() if what == "updates" else nullcontext():
            run = lambda: probe.probe(model, images, labels)  # noqa: E731
            taken = [(cpu_seconds(best), cpu_seconds(run)) for _ in range(pairs + 1)][1:]
            adjusting, total = adjustment_seconds(run)
        ratio = statistics.median(bare / probed for bare, probed in taken)
        speed = len(masked) / statistics.median(probed for _, probed in taken)
        print(
            f"{title}: probe, {what}: {speed:,.0f} a second, {ratio:.2f} of the best bare loop; "
            f"{adjusting / total:.1%} of its time is for the adjustment; {tuner.best}",
            flush=True,
        )


def adjustment_seconds(run: Callable[[], object]) -> tuple[float, float]:
    """CPU seconds of a probe's adjustment of means, and of the whole probe; the second run counts."""
    spent: list[float] = []
    original = Adjustment.factors

    def timed(self: Adjustment, *arguments: Any) -> Tensor:
        started = time.process_time()
        factors = original(self, *arguments)
        spent.append(time.process_time() - started)
        return factors

    with unittest.mock.patch.object(Adjustment, "factors", timed):
        run()
        spent.clear()
        total = cpu_seconds(run)
        return sum(spent), total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=15, help="of the best bare loop and the probe, in turn")
    parser.add_argument("--only", default="", help="part of a model's name")
    arguments = parser.parse_args()
    for name in MODELS:
        if arguments.only in name:
            for size in IMAGES_AND_MASKS[name]:
                measure(name, *size, rounds=arguments.rounds, pairs=arguments.pairs)


if __name__ == "__main__":
    main()
