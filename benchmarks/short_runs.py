"""What the callback costs in trainings that are too short for it, with and without it in turn.

OMP_NUM_THREADS=1 python benchmarks/short_runs.py                     # all cases, default settings
OMP_NUM_THREADS=1 python benchmarks/short_runs.py --max-overhead 0.05 # a share that is kept
OMP_NUM_THREADS=1 python benchmarks/short_runs.py --case photographs  # 244 images of 224 pixels, a tiny network
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from fitb_callbacks import FillInBlanksCallback
from fitb_callbacks.callback.time_budget import MaxOverhead
from fitb_callbacks.data.datasets import load_mnist
from fitb_callbacks.demo import SmallCNN


class TinyNet(LightningModule):
    """Two strided convolutions: its epochs are over before a probe has begun."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            *(nn.Conv2d(3, 8, 7, stride=4), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(256, 2)),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Images ``(B, 3, H, W)`` to logits ``(B, 2)``."""
        logits: Tensor = self.net(images)
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Cross-entropy."""
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Accuracy."""
        self.log("val_acc", (self(batch[0]).argmax(dim=1) == batch[1]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.parameters(), lr=1e-3)


Case = tuple[Callable[[], LightningModule], TensorDataset, TensorDataset, int, int]


def digits(number: int, epochs: int) -> Case:
    data = load_mnist()
    return SmallCNN, TensorDataset(*data.train[:number]), TensorDataset(*data.validation[:200]), 64, epochs


def photographs(epochs: int) -> Case:
    """As many images, and as large, as the tutorials' ants and bees; noise with a brighter half does for the time."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(244 + 153) % 2
    images = torch.rand(len(labels), 3, 224, 224, generator=generator)
    images[labels == 1, :, :112] += 0.3
    train, validation = TensorDataset(images[:244], labels[:244]), TensorDataset(images[244:], labels[244:])
    return TinyNet, train, validation, 32, epochs


CASES: dict[str, Callable[[], Case]] = {
    "digits": lambda: digits(500, 5),
    "photographs": lambda: photographs(4),
    "more digits": lambda: digits(4000, 10),
    "a minute": lambda: digits(8000, 16),
}


def seconds_of(case: Case, callbacks: list[FillInBlanksCallback]) -> float:
    make, train, validation, batch_size, epochs = case
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            logger=TensorBoardLogger(folder),
            callbacks=callbacks,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        loaders = DataLoader(train, batch_size=batch_size, shuffle=True), DataLoader(validation, batch_size=batch_size)
        started = time.perf_counter()
        trainer.fit(make(), *loaders)
        return time.perf_counter() - started


def compare(name: str, rounds: int, max_overhead: MaxOverhead) -> None:
    case, pairs, probes = CASES[name](), [], []
    for _ in range(rounds + 1):
        probe = FillInBlanksCallback(max_overhead=max_overhead)
        pairs.append((seconds_of(case, []), seconds_of(case, [probe])))
        probes.append(probe)
    result = probes[-1].result
    what = "none" if result is None else f"{len(result.images)} images, at most {int(result.tried.max())} masks"
    print(f"{name}: probes after epochs {[int(entry['epoch']) for entry in probes[-1].history]}, {what}")
    # The first pair imports
    without, with_it = (statistics.median(each) for each in zip(*pairs[1:], strict=True))
    print(
        f"  {without:.2f} s without, {with_it:.2f} s with it: {with_it - without:+.2f} s, {with_it / without - 1:+.1%} "
        f"(the first pair {pairs[0][0]:.2f} and {pairs[0][1]:.2f})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=[*CASES], help="all without it")
    parser.add_argument("--rounds", type=int, default=5, help="pairs that are counted; one more comes before them")
    parser.add_argument("--max-overhead", type=float, help="a share that is kept; without it, the default")
    parser.add_argument(
        "--cpu-clock",
        action="store_true",
        help="let every clock be this process's CPU time, as on a machine that does nothing else",
    )
    arguments = parser.parse_args()
    if arguments.cpu_clock:
        time.perf_counter = time.process_time
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    for name in CASES if arguments.case is None else [arguments.case]:
        compare(name, arguments.rounds, arguments.max_overhead or "auto")


if __name__ == "__main__":
    main()
