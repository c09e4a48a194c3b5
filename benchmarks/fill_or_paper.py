"""Would someone else recognise digits and clothes as filled in by default, and as the paper fills them in?

    OMP_NUM_THREADS=1 python benchmarks/fill_or_paper.py          # two minutes

A small CNN fills in images that it was not trained on, by the default fill, by the paper's random masks (means of 256
gradients) and by the paper's progressive masks (one partition into four). The judge is no network: the five nearest of
other training images. An image without a kept mask counts as not recognised.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from paper_models import cnn, fashion_mnist, mnist, per_class, train

from fitb_callbacks import FillInBlanks

PER_CLASS, TRAINED_ON = 5, 2000
DATA = {"MNIST": mnist, "Fashion-MNIST": fashion_mnist}


def main() -> None:
    """Print a row a data set and seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print("| data, seed | the images | default fill | the paper's random masks | its progressive masks |")
    print("| --- | --- | --- | --- | --- |")
    for name, load in DATA.items():
        images, labels, others, of_others = load()
        recognised = judge(images[TRAINED_ON:], labels[TRAINED_ON:])
        probed, wanted = per_class(others, of_others, PER_CLASS)
        for seed in range(asked.seeds):
            torch.manual_seed(seed)
            model = train(cnn(), images[:TRAINED_ON], labels[:TRAINED_ON], epochs=3, seed=seed)
            filled = FillInBlanks(num_masks=8, chunk_size=128).probe(model, probed, wanted).filled
            paper = FillInBlanks.paper(num_masks=256, chunk_size=128).probe(model, probed, wanted)
            steps = FillInBlanks.paper(masking="progressive", num_masks=4, chunk_size=128).probe(model, probed, wanted)
            assert filled is not None
            assert steps.steps is not None
            shares = [
                recognised(probed, wanted),
                recognised(filled, wanted),
                recognised(paper.prototypes, wanted),
                recognised(steps.steps[:, -1], wanted),
            ]
            print(f"| {name}, {seed} | {' | '.join(f'{share:.2f}' for share in shares)} |", flush=True)


def judge(images: Tensor, labels: Tensor) -> Callable[[Tensor, Tensor], float]:
    """Share of images that the nearest of these take for their label, compared by their directions from the mean."""
    mean = images.flatten(1).mean(dim=0)

    def directions(seen: Tensor) -> Tensor:
        return torch.nn.functional.normalize(seen.flatten(1) - mean, dim=1)

    neighbours = KNeighborsClassifier(5).fit(directions(images).numpy(), labels.numpy())

    def share(seen: Tensor, wanted: Tensor) -> float:
        return float((neighbours.predict(directions(seen).numpy()) == wanted.numpy()).mean())

    return share


if __name__ == "__main__":
    main()
