"""What the callback costs in a real training: the demo's network on all of Fashion-MNIST, default settings.

OMP_NUM_THREADS=1 python benchmarks/overhead.py
OMP_NUM_THREADS=1 python benchmarks/overhead.py --judge-only    # what the judge's learning costs, once a run
"""

from __future__ import annotations

import argparse
import logging
import warnings
from pathlib import Path

import torch
from lightning.pytorch import Trainer
from timing import cpu_seconds
from torch import Tensor
from torch.utils.data import DataLoader

from fitb_callbacks import FillInBlanksCallback, RidgeJudge
from fitb_callbacks.data.datasets import load_fashion_mnist
from fitb_callbacks.demo import SmallCNN


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="folder of Fashion-MNIST's four .gz files")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--judge-only", action="store_true")
    arguments = parser.parse_args()
    if arguments.judge_only:
        print(judge_cost(*load_fashion_mnist(arguments.data_dir).train.tensors))
        return
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.INFO)
    data = load_fashion_mnist(arguments.data_dir)
    torch.manual_seed(0)
    probe = FillInBlanksCallback()
    trainer = Trainer(
        max_epochs=arguments.epochs,
        logger=False,
        callbacks=[probe],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loaders = DataLoader(data.train, batch_size=64, shuffle=True), DataLoader(data.validation, batch_size=256)
    trainer.fit(SmallCNN(), *loaders)
    assert probe.result is not None
    for entry in probe.history:
        epoch_seconds = entry["seconds"] / entry["overhead"]
        print(
            f"epoch {entry['epoch']:.0f}: {epoch_seconds:.1f} s, probe {entry['seconds']:.2f} s, "
            f"overhead {entry['overhead']:.1%}, fitb/accuracy {entry['accuracy']:.3f}"
        )
    tried = probe.result.tried
    print(f"{len(tried)} images, masks an image: {tried.min()} to {tried.max()}, mean {tried.float().mean():.0f}")


def judge_cost(images: Tensor, labels: Tensor) -> str:
    """What the default judge's learning takes, against training on as many images as there are, in CPU seconds."""
    model, judge = SmallCNN(), RidgeJudge()
    optimizer = torch.optim.Adam(model.parameters())

    def steps() -> None:
        for batch in torch.arange(20 * 64).split(64):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()

    def learn() -> None:
        for batch in torch.arange(len(images)).split(64):
            judge.update(images[batch], labels[batch])

    steps()  # the first ones are slower
    epoch, learning = cpu_seconds(steps) * len(images) / (20 * 64), cpu_seconds(learn)
    return (
        f"An epoch of {len(images):,} images takes {epoch:.1f} CPU seconds, the judge {learning:.2f}, once a run: "
        f"{learning / epoch:.1%} of that epoch"
    )


if __name__ == "__main__":
    main()
