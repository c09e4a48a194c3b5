"""The probe against what one would otherwise write: a notebook's loop over masks, and Captum.

    pip install captum
    OMP_NUM_THREADS=1 python benchmarks/alternatives.py
    python benchmarks/alternatives.py --wall-clock

The same network (the demo's, after one epoch of MNIST), the same digits, the same masks, in turn in one process, in
seconds of its CPU time. Then the time to a good prototype: masks and seconds until the probe's mean update correlates
0.98 with the one of 10,000 masks, against the notebook's seconds for these 10,000. With ``--wall-clock``, only the
first part, in the time that one waits with as many threads as torch takes by itself; needs a machine with nothing else
to do.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import statistics
import time
import warnings
from functools import partial

import torch
import torch.nn.functional as F
from captum.attr import Saliency
from lightning.pytorch import Trainer
from timing import Clock, cpu_seconds, medians
from torch import Tensor
from torch.utils.data import DataLoader

from fitb_callbacks import FillInBlanks
from fitb_callbacks.data.datasets import load_mnist
from fitb_callbacks.data.selection import ImageSelection
from fitb_callbacks.demo import SmallCNN
from fitb_callbacks.probing.autotune import tuner_for
from fitb_callbacks.probing.masks import random_masks
from fitb_callbacks.utils.patch_grid import PatchGrid

MASKS = 256
MANY = 10_000
BFLOAT16 = torch.autocast("cpu", torch.bfloat16)
MASKING = {"grid": PatchGrid(28, 28, patch_size=2), "mask_ratio": 0.25, "seed": 0}


def trained_network() -> tuple[SmallCNN, Tensor, Tensor]:
    """The demo's network after one epoch, and a digit of each class that it recognises."""
    data = load_mnist()
    torch.manual_seed(0)
    model = SmallCNN()
    trainer = Trainer(
        max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False
    )
    trainer.fit(model, DataLoader(data.train, batch_size=64, shuffle=True))
    images, labels = data.validation.tensors
    with torch.no_grad():
        right = model.eval()(images).argmax(dim=1) == labels
    chosen = ImageSelection(per_class=1, max_images=10)
    chosen.offer(images[right], labels[right])
    return model, chosen.images, chosen.labels


def notebook(model: SmallCNN, images: Tensor, labels: Tensor, masks: Tensor) -> Tensor:
    """The mean update, image by image and mask by mask, as the formulas read."""
    means = []
    for image, label in zip(images, labels, strict=True):
        total, kept = torch.zeros_like(image), 0
        for visible in masks:
            masked = (image * visible).unsqueeze(0).requires_grad_()
            logits = model(masked)
            F.cross_entropy(logits, label.unsqueeze(0)).backward()
            if logits.argmax().item() == label.item():
                total -= masked.grad[0] * ~visible
                kept += 1
            model.zero_grad()
        means.append(total / max(kept, 1))
    return torch.stack(means)


def captum(model: SmallCNN, images: Tensor, labels: Tensor, masks: Tensor, chunk_size: int) -> None:
    """Gradients of the label's logit for all masked images, in chunks of one size."""
    saliency = Saliency(model)
    masked = (images * masks[:, None, None]).flatten(0, 1)
    of = labels.repeat(len(masks))
    for some, targets in zip(masked.split(chunk_size), of.split(chunk_size), strict=True):
        saliency.attribute(some, target=targets, abs=False)


def throughput(model: SmallCNN, images: Tensor, labels: Tensor, rounds: int, clock: Clock) -> dict[str, float]:
    """Masked updates a second of each."""
    masks, many = (random_masks(torch.arange(number), **MASKING) for number in (MASKS, MANY))
    probe = FillInBlanks(num_masks=MASKS, tolerance=None, baseline=0.0, fill=None)
    for context in (contextlib.nullcontext(), BFLOAT16):
        with context:
            FillInBlanks(num_masks=100 * MASKS, tolerance=1e9, baseline=0.0, fill=None).probe(
                model, images, labels
            )  # finds its plan

    def in_bfloat16() -> None:
        with BFLOAT16:
            probe.probe(model, images, labels)

    number = MASKS * len(images)
    candidates = {
        "notebook": lambda: notebook(model, images[:2], labels[:2], masks[:64]),
        "Captum, 10,000 masks of an image in one call": lambda: captum(model, images[:1], labels[:1], many, MANY),
        "Captum, 256 masks of 4 images in one call": lambda: captum(model, images[:4], labels[:4], masks, 4 * MASKS),
        **{f"Captum, chunks of {size}": lambda size=size: captum(model, images[:4], labels[:4], masks, size)
           for size in (32, 64, 128, 256)},
        "probe": lambda: probe.probe(model, images, labels),
        "probe in bfloat16": in_bfloat16,
    }  # fmt: skip
    numbers = dict.fromkeys(candidates, 4 * MASKS) | {
        "notebook": 2 * 64,
        "Captum, 10,000 masks of an image in one call": MANY,
        "probe": number,
        "probe in bfloat16": number,
    }
    return {name: numbers[name] / seconds for name, seconds in medians(candidates, rounds, clock).items()}


def correlations(updates: Tensor, truth: Tensor) -> list[float]:
    """Of each image's update with the true one."""
    return [
        torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1].item()
        for a, b in zip(updates, truth, strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--wall-clock", action="store_true")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    model, images, labels = trained_network()

    masks = random_masks(torch.arange(16), **MASKING)
    ours = (
        FillInBlanks(num_masks=16, tolerance=None, baseline=0.0, fill=None, adjust=False)
        .probe(model, images, labels)
        .updates
    )
    difference = (ours - notebook(model, images, labels, masks)).abs().max() / ours.abs().max()
    print(f"The probe and the notebook give the same plain mean update, up to {difference:.0e} of its largest value.")

    clock = time.perf_counter if arguments.wall_clock else time.process_time
    speeds = throughput(model, images, labels, arguments.rounds, clock)
    print(f"Threads: {torch.get_num_threads()}.")
    print(f"The probe chose {tuner_for(model, images).best} in float32.")
    for name, speed in speeds.items():
        print(f"{name}: {speed:,.0f} updates a second; the probe is {speeds['probe'] / speed:.1f} times as fast")

    if arguments.wall_clock:
        return

    ours = FillInBlanks(num_masks=MASKS, tolerance=None, baseline=0.0, fill=None)
    with BFLOAT16:
        rounded = ours.probe(model, images, labels).updates
    agreement = min(correlations(rounded, ours.probe(model, images, labels).updates))
    print(f"Mean updates in bfloat16 correlate {agreement:.4f} or more with those in float32.")

    truth = (
        FillInBlanks(num_masks=MANY, tolerance=None, baseline=0.0, fill=None, seed=99)
        .probe(model, images, labels)
        .updates
    )
    for tolerance in (0.3, 0.25, 0.2, 0.15):
        probe = FillInBlanks(num_masks=MANY, tolerance=tolerance, baseline=0.0, fill=None)
        result = probe.probe(model, images, labels)
        run = partial(probe.probe, model, images, labels)
        seconds = statistics.median(cpu_seconds(run) for _ in range(5))
        found = correlations(result.updates, truth)
        share = MANY * len(images) / speeds["notebook"] / seconds
        print(
            f"tolerance {tolerance}: {result.tried.float().mean():.0f} masks an image, correlation "
            f"{statistics.median(found):.3f} (worst image {min(found):.3f}), {seconds:.2f} s: 1/{share:.0f} of the "
            f"notebook's {MANY * len(images) / speeds['notebook']:.0f} s for {MANY:,} masks"
        )


if __name__ == "__main__":
    main()
