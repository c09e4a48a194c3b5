"""How a probe's time grows with masks, images, classes, image side and processes: one changed, the others fixed.

    OMP_NUM_THREADS=1 python benchmarks/growth.py

Seconds are those of the processor, not of the clock, in one thread: on a machine that others use, the rest is their
work. All probes of a sweep run in turn, `--repeats` times over, and each figure is the median. The chunk is fixed, so
that the same kernels are compared. Of several processes, the one that works longest counts. What a probe's time should
be in proportion to is measured beside it: the model's own forward and backward pass of as many images, in the same
chunks, over the number of processes. Writes a table, a CSV file and a plot.
"""

from __future__ import annotations

import argparse
import csv
import socket
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import multiprocessing

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from paper_models import cnn

from fitb_callbacks import FillInBlanks
from fitb_callbacks.models.state import preserve_model_state

CHUNK = 128


@dataclass(frozen=True)
class Size:
    """Of a probe."""

    masks: int = 256
    images: int = 20
    classes: int = 10
    side: int = 28
    ranks: int = 1


SWEEPS: dict[str, tuple[str, tuple[int, ...]]] = {
    "masks": ("masks", (32, 64, 128, 256, 512, 1024)),
    "images": ("images", (5, 10, 20, 40, 80)),
    "classes": ("classes", (2, 10, 100, 1000)),
    "side": ("image side in pixels", (14, 28, 56)),
    "ranks": ("processes", (1, 2)),
}
"""What is changed, its name, and the values."""

Seconds = dict[str, dict[int, tuple[float, float]]]
"""Of the probe and of the model alone, by what is changed and its value."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/growth"))
    parser.add_argument("--plot", type=Path, default=Path("docs/images/growth.png"))
    settings = parser.parse_args()
    settings.output.mkdir(parents=True, exist_ok=True)
    probe_seconds(Size(masks=32), rank=0)  # the first run loads kernels
    found: Seconds = {}
    for field, (title, values) in SWEEPS.items():
        runs = {value: [] for value in values}
        for _ in range(settings.repeats):
            for value in values:
                size = replace(Size(), **{field: value})
                probe = spawned_seconds(size) if field == "ranks" else probe_seconds(size, rank=0)
                runs[value].append((probe, bare_seconds(size)))
        found[field] = {value: tuple(map(median, zip(*times, strict=True))) for value, times in runs.items()}
        print(title, found[field], flush=True)
    with (settings.output / "growth.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("what", "value", "probe_seconds", "bare_seconds"))
        for field, sweep in found.items():
            writer.writerows((field, value, f"{probe:.4f}", f"{bare:.4f}") for value, (probe, bare) in sweep.items())
    (settings.output / "growth.md").write_text("\n".join(table(found)) + "\n")
    plot(found, settings.plot)


def spawned_seconds(size: Size) -> float:
    """Of one probe in processes of their own, of the one that works longest."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    results = multiprocessing.get_context("spawn").SimpleQueue()
    multiprocessing.spawn(in_process, (size, port, results), nprocs=size.ranks)
    return max(results.get() for _ in range(size.ranks))


def in_process(rank: int, size: Size, port: int, results: multiprocessing.SimpleQueue) -> None:
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=size.ranks)
    probe_seconds(replace(size, masks=32), rank)
    dist.barrier()
    results.put(probe_seconds(size, rank))
    dist.destroy_process_group()


def probe_seconds(size: Size, rank: int) -> float:
    torch.manual_seed(0)
    model = cnn(classes=size.classes, side=size.side)
    images = torch.rand(size.images, 1, size.side, size.side)
    probe = FillInBlanks(num_masks=size.masks, tolerance=None, fill=None, target="predicted", chunk_size=CHUNK)
    started = time.process_time()
    probe.probe(model, images, share=(rank, size.ranks))
    return time.process_time() - started


def bare_seconds(size: Size) -> float:
    """Of the model alone: forward, and backward to the images, for a process's share of the masked images."""
    torch.manual_seed(0)
    model = cnn(classes=size.classes, side=size.side)
    images, labels = torch.rand(CHUNK, 1, size.side, size.side), torch.randint(size.classes, (CHUNK,))
    with preserve_model_state(model):
        started = time.process_time()
        for _ in range(size.masks * size.images // size.ranks // CHUNK):
            leaf = images.requires_grad_()
            torch.autograd.grad(F.cross_entropy(model(leaf), labels, reduction="sum"), leaf)
        return time.process_time() - started


def table(found: Seconds) -> list[str]:
    lines = [
        "| what grows | from, to | seconds of the probe | of the model alone | probe / model |",
        "| --- | --- | --- | --- | --- |",
    ]
    for field, (title, values) in SWEEPS.items():
        probe, bare = zip(*found[field].values(), strict=True)
        columns = (
            (f"{value:,}" for value in values),
            (f"{seconds:.2f}" for seconds in probe),
            (f"{seconds:.2f}" for seconds in bare),
            (f"{mine / models:.2f}" for mine, models in zip(probe, bare, strict=True)),
        )
        lines.append(f"| {title} | {' | '.join(map(', '.join, columns))} |")
    return lines


def plot(found: Seconds, path: Path) -> None:
    """Time against each, both logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import NullFormatter, StrMethodFormatter

    figure, axes = pyplot.subplots(1, len(SWEEPS), figsize=(10.5, 2.6), sharey=True, layout="constrained")
    for axis, (field, (title, values)) in zip(axes, SWEEPS.items(), strict=True):
        probe, bare = zip(*found[field].values(), strict=True)
        axis.plot(values, bare, color="0.7", linewidth=4, label="the model alone")
        axis.plot(values, probe, "o-", color="tab:blue", label="probe")
        axis.set(xscale="log", yscale="log", xlabel=title, xticks=values[:: 1 + len(values) // 6])
        for one in (axis.xaxis, axis.yaxis):
            one.set_major_formatter(StrMethodFormatter("{x:g}"))
            one.set_minor_formatter(NullFormatter())
        axis.minorticks_off()
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks((0.1, 0.3, 1, 3, 10))
    axes[0].set_ylabel("seconds")
    axes[2].legend(frameon=False, loc="upper center")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
