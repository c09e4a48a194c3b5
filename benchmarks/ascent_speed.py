"""How fast images are filled in, against a bare loop of as many forward passes and input gradients.

    OMP_NUM_THREADS=1 python benchmarks/ascent_speed.py

A fill takes 84 gradients an image. The bare loop takes as many, of ready-made images, and throws them away; it runs in
the fill's own chunks and memory format. Both are run in turn, and the median of the ratios is taken. Times are this
process's CPU time, so that other programs count little.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from time import process_time

import torch
from throughput import bare_loop
from throughput_models import MODELS, build
from timing import Clock, cpu_seconds
from torch import Tensor, nn

from fitb_callbacks import FillInBlanks
from fitb_callbacks.models.logits import classifier
from fitb_callbacks.models.state import preserve_model_state
from fitb_callbacks.probing.autotune import Plan, tuner_for
from fitb_callbacks.probing.fill import FILL_GRADIENTS, fill_images
from fitb_callbacks.probing.inputs import Inputs
from fitb_callbacks.utils.devices import keep_freed_memory
from fitb_callbacks.utils.patch_grid import PatchGrid

__all__ = ["FillSpeed", "fill_speed"]

IMAGES = {"small CNN, 1 x 28 x 28": 40, "ResNet-18, 3 x 64 x 64": 8, "small ViT, 3 x 32 x 32": 16}


@dataclass(frozen=True)
class FillSpeed:
    """How fast a fill is: gradients a second, and its speed as a share of the bare loop's."""

    gradients: float
    share: float


def fill_speed(  # noqa: PLR0913 - what is measured, and how
    model: nn.Module, images: Tensor, labels: Tensor, plan: Plan, *, pairs: int, clock: Clock = process_time
) -> FillSpeed:
    """Compare the fill with the bare loop.

    Args:
        model: In evaluation mode, without parameter gradients.
        images: Shape ``(N, C, H, W)``, on the model's device.
        labels: Shape ``(N,)``.
        plan: Chunk size and memory format of both.
        pairs: How often both are run, in turn; a first pair is not counted.
        clock: Seconds since some moment.
    """
    low, high = images.amin(dim=(0, 2, 3))[:, None, None], images.amax(dim=(0, 2, 3))[:, None, None]
    inputs = Inputs(
        classifier(model), images, labels, PatchGrid.for_images(images), low, high, (low + high) / 2, num_classes=10
    )
    repeated = plan.formatted(images)

    def bare() -> None:
        for _ in range(FILL_GRADIENTS):
            bare_loop(model, repeated, labels, plan.chunk_size)

    def fill() -> None:
        with preserve_model_state(model):
            fill_images(inputs, plan, seed=0)

    runs: tuple[Callable[[], None], ...] = (bare, fill)
    taken = [[cpu_seconds(run, clock) for run in runs] for _ in range(pairs + 1)][1:]
    return FillSpeed(
        gradients=len(images) * FILL_GRADIENTS / statistics.median(filled for _, filled in taken),
        share=statistics.median(alone / filled for alone, filled in taken),
    )


def main() -> None:
    """Measure every model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--only", default="", help="part of a model's name")
    parser.add_argument("--images", type=int, default=None, help="how many to fill")
    asked = parser.parse_args()
    for name in MODELS:
        if asked.only not in name:
            continue
        model, images, labels = build(name, asked.images or IMAGES[name])
        model.requires_grad_(False)
        keep_freed_memory(images.device)
        tuner = tuner_for(model, images)
        while tuner.searching:
            FillInBlanks(num_masks=64, fill=None).probe(model, images, labels)
        found = fill_speed(model, images, labels, tuner.best, pairs=asked.pairs)
        print(f"{name}: {found.gradients:,.0f} gradients a second, {found.share:.2f} of the bare loop, {tuner.best}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
