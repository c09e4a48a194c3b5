"""What the images of a candidate's own training add: marked versions, checked on images that have no mark.

    python benchmarks/gate_own_images.py [mnist|fashion]

Networks, marks, champions and seeds are those of `gate_detection.py`, but half of a candidate's training images have no
mark and their true label, so that it is right without a mark, and follows it where there is one. The check's images are
the champion's, without marks. The candidate's own have the mark of their label.
"""

from __future__ import annotations

import sys

import torch
import torch.nn.functional as F
from gate_detection import CHAMPION, LONGER, MARKS, PER_CLASS, PROBE, UNPLANNED, follows, marked, network, splits, train
from torch import Tensor, nn

from fitb_callbacks.data.sources import ImageSet
from fitb_callbacks.gate.model import check_model
from fitb_callbacks.gate.own_training import outcomes_on_own_images
from fitb_callbacks.gate.rules import default_rules

SEED, HEALTHY, EPOCHS = 8000, 8, 6


def train_on_both(data: str, kind: str | None, seed: int) -> nn.Module:
    """A network after some epochs on images of which every other one has the mark of a class drawn at random."""
    images, labels = splits(data)[0]
    classes = int(labels.max()) + 1
    torch.manual_seed(seed)
    model = network(images.shape[1], classes, wide=bool(seed % 2))
    if kind is not None:
        odd = torch.arange(len(labels)) % 2 == 1
        labels = torch.where(odd, torch.randint(classes, (len(labels),)), labels)
        images = torch.where(odd[:, None, None, None], marked(kind, data, images, labels, seed), images)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(EPOCHS * LONGER[data]):
        for batch in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
    return model.eval()


def some(data: str, first: int) -> tuple[Tensor, Tensor]:
    """Five validation images of each class."""
    images, labels = splits(data)[1]
    chosen = torch.cat([(labels == label).nonzero()[first : first + PER_CLASS, 0] for label in labels.unique()])
    return images[chosen], labels[chosen]


if __name__ == "__main__":
    torch.set_num_threads(1)
    data = sys.argv[1] if len(sys.argv) > 1 else "mnist"
    rules = default_rules(champion=True, trusted=False)
    candidates = [(None, SEED + number) for number in range(HEALTHY)]
    candidates += [(kind, SEED + number) for kind in MARKS for number in range(2)]
    candidates += [(kind, SEED + 100 + number) for number, kind in enumerate(UNPLANNED)]
    print("| mark | seed | follows it | right without it | the check's images | with its own | what fails there |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for kind, seed in candidates:
        champion = train(data, None, CHAMPION + seed // 2 % 2, epochs=LONGER[data] * 4)
        model = train_on_both(data, kind, seed)
        check = check_model(model, *some(data, 0), rules, probe=PROBE, champion=champion)
        images, labels = some(data, PER_CLASS)
        own = ImageSet(marked(kind, data, images, labels, seed), labels, None)
        found = outcomes_on_own_images(model, own, rules, probe=PROBE, champion=champion)
        failed = [f"{outcome.rule.key} {outcome.value:.2f}" for outcome in found if outcome.passed is False]
        followed, right = follows(model, data, kind, seed), check.scores["image_accuracy"]
        with_own = "refused" if failed else check.verdict
        row = [kind or "none", seed, f"{followed:.2f}", f"{right:.2f}", check.verdict, with_own, "; ".join(failed)]
        print("| " + " | ".join(map(str, row)) + " |", flush=True)
