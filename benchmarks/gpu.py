"""What a probe costs on a GPU, beside the model alone. Writes the tables of docs/performance.md.

    pip install fitb-callbacks[photos] transformers
    python benchmarks/gpu.py                    # some minutes on a GPU; without one it says so and stops

Networks have random weights, since speed does not depend on them. The bare loop gets ready-made images and throws the
gradients away; it is swept over chunk sizes and memory formats. Clocks wait for the device.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import logging
import statistics
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from ascent_speed import FillSpeed, fill_speed
from lightning.pytorch import Trainer
from throughput import bare_loop
from throughput_models import Logits
from timing import cpu_seconds, medians, without_reliance
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from transformers import ResNetConfig, ResNetForImageClassification, ViTConfig, ViTForImageClassification

from fitb_callbacks import FillInBlanks, FillInBlanksCallback
from fitb_callbacks.demo import SmallCNN
from fitb_callbacks.models.pretrained import efficientnet_lite0
from fitb_callbacks.probing.autotune import Plan, tuner_for
from fitb_callbacks.utils.devices import seconds_on

__all__ = ["FULL", "TINY", "Case", "Plans", "measure"]


@dataclass(frozen=True)
class Case:
    """A network, and what it is measured on."""

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, int, int]
    images: int
    masks: int
    chunks: tuple[int, ...]
    dtype: torch.dtype = torch.float32


@dataclass(frozen=True)
class Plans:
    """What is measured.

    Attributes:
        cases: Probed with masks.
        filled: Filled in by ascent.
        training: Number of training images of 28 x 28 pixels, and of epochs.
        pairs: How often the bare loop and the probe are run, in turn.
    """

    cases: tuple[Case, ...]
    filled: tuple[Case, ...]
    training: tuple[int, int]
    pairs: int


def resnet(depths: tuple[int, ...], widths: tuple[int, ...], kind: str) -> nn.Module:
    """A residual network for 1,000 classes."""
    config = ResNetConfig(depths=list(depths), hidden_sizes=list(widths), layer_type=kind, num_labels=1000)
    return Logits(ResNetForImageClassification(config))


def vit(width: int, layers: int, heads: int, side: int, patch: int) -> nn.Module:
    """A vision transformer for 1,000 classes."""
    config = ViTConfig(
        hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=4 * width,
        image_size=side, patch_size=patch, num_labels=1000,
    )  # fmt: skip
    return Logits(ViTForImageClassification(config))


_MOST_PROBES = 8
_PHOTO = (3, 224, 224)
_LARGE = (32, 64, 128, 256)

FULL = Plans(
    cases=(
        Case(
            "ResNet-50, bfloat16",
            partial(resnet, (3, 4, 6, 3), (256, 512, 1024, 2048), "bottleneck"),
            *(_PHOTO, 16, 256, _LARGE, torch.bfloat16),
        ),
        Case("ViT-B/16, bfloat16", partial(vit, 768, 12, 12, 224, 16), _PHOTO, 16, 256, _LARGE, torch.bfloat16),
        Case("small CNN", SmallCNN, (1, 28, 28), 40, 256, (512, 1024, 4096, 10240)),
    ),
    filled=(
        Case("EfficientNet-Lite0", efficientnet_lite0, _PHOTO, 32, 1, (32,)),
        Case("small CNN", SmallCNN, (1, 28, 28), 40, 1, (1024,)),
    ),
    training=(60_000, 12),
    pairs=3,
)

TINY = Plans(
    cases=(
        Case(
            "tiny ResNet, bfloat16", partial(resnet, (1, 1), (8, 16), "basic"), (3, 32, 32), 2, 8, (8,), torch.bfloat16
        ),
        Case("tiny ViT, bfloat16", partial(vit, 16, 1, 2, 16, 8), (3, 16, 16), 2, 8, (8,), torch.bfloat16),
        Case("small CNN", SmallCNN, (1, 28, 28), 2, 8, (8,)),
    ),
    filled=(Case("small CNN", SmallCNN, (1, 28, 28), 2, 1, (8,)),),
    training=(256, 1),
    pairs=1,
)
"""The same on small networks, so that a machine without a GPU can test this script."""


def measure(device: torch.device, plans: Plans) -> Iterator[str]:
    """The tables in Markdown, line by line as they are measured."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    yield f"`python benchmarks/gpu.py` on {name}, torch {torch.__version__}, {today}."
    yield ""
    yield (
        "| network, image | masked images | best bare loop | updates a second | share | with what the model relies on "
        "| first probe / later ones | peak memory of the bare loop in the same chunks / of the probe, MiB |"
    )
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    yield from (throughput_row(case, device, plans.pairs) for case in plans.cases)
    yield ""
    yield "| filled in | images | gradients a second | share of the bare loop in the same chunks |"
    yield "| --- | --- | --- | --- |"
    yield from (fill_row(case, device, plans.pairs) for case in plans.filled)
    yield ""
    yield "| training images | epoch | its own time | probe | overhead |"
    yield "| --- | --- | --- | --- | --- |"
    yield from training_rows(device, *plans.training)


def prepared(case: Case, device: torch.device) -> tuple[nn.Module, Tensor, Tensor]:
    """A network in evaluation mode, random images, and the labels that it predicts."""
    torch.manual_seed(0)
    model = case.build().eval().requires_grad_(False).to(device, case.dtype)
    images = torch.rand(case.images, *case.shape).to(device, case.dtype)
    with torch.no_grad():
        return model, images, model(images).argmax(dim=1)


def throughput_row(case: Case, device: torch.device, pairs: int) -> str:
    """Masked updates a second of the probe and of the best bare loop, and what both keep in memory."""
    model, images, labels = prepared(case, device)
    clock = partial(seconds_on, device)
    number = case.images * case.masks

    def bare(network: nn.Module, plan: Plan) -> None:
        chunk = plan.formatted(images.repeat(-(-plan.chunk_size // len(images)), 1, 1, 1)[: plan.chunk_size])
        of = labels.repeat(-(-plan.chunk_size // len(labels)))[: plan.chunk_size]
        for _ in range(-(-number // plan.chunk_size)):
            bare_loop(network, chunk, of, plan.chunk_size)

    networks = {False: model, True: copy.deepcopy(model).to(memory_format=torch.channels_last)}
    candidates = {
        Plan(size, last): partial(bare, networks[last], Plan(size, last)) for size in case.chunks for last in networks
    }
    seconds = {plan: medians({"": run}, 1, clock)[""] for plan, run in candidates.items()}
    best = min(seconds, key=seconds.__getitem__)
    probe = FillInBlanks(num_masks=case.masks, tolerance=None, fill=None)
    first = cpu_seconds(lambda: probe.probe(model, images, labels), clock)
    tuner = tuner_for(model, images)
    for _ in range(_MOST_PROBES):  # of few images, a search never ends
        if tuner.searching:
            probe.probe(model, images, labels)

    def run() -> None:
        probe.probe(model, images, labels)

    def taken() -> tuple[float, float]:
        """Seconds of a probe, and its speed as a share of the bare loop's."""
        both = [(cpu_seconds(candidates[best], clock), cpu_seconds(run, clock)) for _ in range(pairs + 1)][1:]
        return statistics.median(probed for _, probed in both), statistics.median(alone / own for alone, own in both)

    whole, share_of_whole = taken()
    with without_reliance():
        later, share = taken()
    peaks = [peak_memory(device, measured) for measured in (partial(bare, model, tuner.best), run)]
    cells = [
        f"{case.name}, {' x '.join(map(str, case.shape))}",
        f"{case.images} x {case.masks}",
        f"{number / seconds[best]:,.0f}, chunks of {best.chunk_size}{', channels-last' if best.channels_last else ''}",
        f"{number / later:,.0f}",
        f"{share:.2f}",
        f"{share_of_whole:.2f}",
        f"{first / whole:.2f}",
        " / ".join("not measured" if peak is None else f"{peak:,.0f}" for peak in peaks),
    ]
    return f"| {' | '.join(cells)} |"


def fill_row(case: Case, device: torch.device, pairs: int) -> str:
    """Gradients a second of the fill."""
    model, images, labels = prepared(case, device)
    found: FillSpeed = fill_speed(
        model, images, labels, Plan(case.chunks[0]), pairs=pairs, clock=partial(seconds_on, device)
    )
    return f"| {case.name} | {case.images} | {found.gradients:,.0f} | {found.share:.2f} |"


def training_rows(device: torch.device, number: int, epochs: int) -> list[str]:
    """What the callback costs in a training of a small CNN with default settings."""
    torch.manual_seed(0)
    data = TensorDataset(torch.rand(number, 1, 28, 28), torch.arange(number) % 10)
    probe = FillInBlanksCallback()
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1,
        logger=False,
        callbacks=[probe],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loaders = DataLoader(data, batch_size=64, shuffle=True), DataLoader(data, batch_size=256)
    trainer.fit(SmallCNN(), *loaders)
    return [
        f"| {number:,} | {entry['epoch']:.0f} | {entry['seconds'] / entry['overhead']:.1f} s "
        f"| {entry['seconds']:.2f} s | {entry['overhead']:.1%} |"
        for entry in probe.history
    ]


def peak_memory(device: torch.device, run: Callable[[], object]) -> float | None:
    """MiB that a run allocates at most beyond what was there; None where that is not counted."""
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    return (torch.cuda.max_memory_allocated(device) - before) / 2**20


def main(arguments: list[str] | None = None) -> None:
    """Measure on the GPU, if there is one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "gpu.md")
    asked = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("No GPU was found, so nothing was measured. On a CPU, run benchmarks/throughput.py.")
        return
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with asked.output.open("w") as file:
        for line in measure(torch.device("cuda"), FULL):
            print(line, flush=True)
            print(line, file=file, flush=True)


if __name__ == "__main__":
    main()
