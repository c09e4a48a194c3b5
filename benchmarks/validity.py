"""Which scores tell a model that learned its classes from one that did not, and where it looks?

Trains networks of `validity_worlds.py`, healthy ones and ones with a planted shortcut in doses, probes each, and prints
how well the scores tell them apart. A model counts as healthy or broken by its accuracy on clean held-out images alone,
above chance, compared with the best of its data set and network: at least 0.7 of it, or at most 0.5. Formula and
constants were fixed on seed 0. Weights and scores are kept in ``benchmarks/.cache``.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import validity_worlds as worlds
from torch import Tensor, nn
from torchmetrics.functional.classification import binary_auroc

from fitb_callbacks import FillInBlanks, RidgeJudge
from fitb_callbacks.probing.judging import judged

SCORES = worlds.CACHE / "scores.jsonl"
PROBE_IMAGES = 24
PROBE = FillInBlanks(num_masks=48, tolerance=None, chunk_size=128)
HEALTHY_FROM, BROKEN_UP_TO = 0.7, 0.5
LOCAL = ("patch", "moving patch", "tag", "stripe")
RELIANCE_MASKS = 192


@dataclass(frozen=True)
class Model:
    """One epoch of one training."""

    data: str
    network: str
    kind: str
    seed: int
    epoch: int


def models(seeds: Sequence[int], kinds: Sequence[str] | None) -> list[Model]:
    """The last epoch of every training, and three of each clean one."""
    found = []
    for data, network, kind, seed in worlds.all_models():
        if seed in seeds and (kinds is None or kind in kinds):
            last = max(1, worlds.KINDS[kind].epochs) - 1 if worlds.KINDS[kind].healthy else 0
            epochs = sorted({0, 2, last}) if kind == "clean" else [last]
            found += [Model(data, network, kind, seed, epoch) for epoch in epochs]
    return found


def examine(model: Model) -> dict[str, object]:
    """Train, probe and score one model."""
    data, kind = worlds.load(model.data), worlds.KINDS[model.kind]
    weights, clean, own = worlds.trained(data, model.network, model.kind, model.seed)
    module = worlds.model_of(data, model.network, weights[model.epoch])
    images, labels, where = own_images(model)
    result = PROBE.probe(module, images, labels)
    trusted = judged(result, ridge(data.trusted))
    shared = judged(result, ridge(worlds.training_set(kind, data, model.seed)))
    scores = {f"{name}, trusted": value for name, value in trusted.metrics.items()}
    scores |= {f"{name}, own": shared.metrics[name] for name in ("structure", "knows", "judge_excess", "judge_ceiling")}
    found: dict[str, object] = {
        **vars(model),
        "clean": clean[model.epoch],
        "own": own[model.epoch],
        "tone": shared.interpretation()["tone"],
        "headline": shared.interpretation()["headline"],
        "scores": scores,
    }
    if kind.plant in LOCAL:
        found["reliance"] = share_on_mark(module, images, labels, where)
    return found


def own_images(model: Model) -> tuple[Tensor, Tensor, Tensor]:
    """Probe images as the model gets them, their true labels, and where the mark is, as many of each class."""
    data, kind = worlds.load(model.data), worlds.KINDS[model.kind]
    if kind.wrong_labels == 1:  # random labels have no truth to hold out
        images, labels = worlds.training_set(kind, data, model.seed)
        where = torch.zeros(0)
    else:
        images, where = worlds.probe_set(kind, data, model.seed)
        labels = data.held_out[1]
    per_class = PROBE_IMAGES // data.num_classes
    chosen = torch.cat([(labels == c).nonzero().flatten()[:per_class] for c in range(data.num_classes)])
    return images[chosen], labels[chosen], where[chosen] if len(where) else where


def ridge(split: tuple[Tensor, Tensor]) -> RidgeJudge:
    """The default judge of some images."""
    judge = RidgeJudge()
    judge.update(*split)
    return judge


# --- the share of an explanation that lies on the mark, by one measure for all ---


def share_on_mark(module: nn.Module, images: Tensor, labels: Tensor, where: Tensor) -> dict[str, tuple[float, float]]:
    """Method to the share of images whose top patch touches the mark, and the share of the map's mass there."""
    from captum.attr import GradientShap, IntegratedGradients, LayerGradCam, Saliency

    torch.manual_seed(0)
    black = torch.zeros_like(images)
    result = FillInBlanks(num_masks=RELIANCE_MASKS, tolerance=None, fill=None, chunk_size=128).probe(
        module, images, labels
    )
    assert result.reliance is not None
    grid = PROBE.patch_grid(images)
    maps = {"reliance (this package)": result.reliance.flatten(1)}

    def by_patch(attribution: Tensor) -> Tensor:
        return grid.patch_means(attribution.detach().clamp(min=0).sum(dim=1, keepdim=True))[:, 0]

    maps["integrated gradients"] = by_patch(IntegratedGradients(module).attribute(images, black, labels, n_steps=16))
    maps["saliency"] = by_patch(Saliency(module).attribute(images, labels))
    maps["GradientShap"] = by_patch(GradientShap(module).attribute(images, black, target=labels, n_samples=8))
    convolutions = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]
    if len(convolutions) > 1:
        coarse = LayerGradCam(module, convolutions[-1]).attribute(images, labels, relu_attributions=True)
        maps["Grad-CAM"] = by_patch(torch.nn.functional.interpolate(coarse, images.shape[-2:], mode="bilinear"))
    touched = grid.patch_means(where.float())[:, 0] > 0
    return {name: _on(values, touched) for name, values in maps.items()}


def _on(values: Tensor, touched: Tensor) -> tuple[float, float]:
    top = touched[torch.arange(len(values)), values.argmax(dim=1)] & (values.amax(dim=1) > 0)
    mass = (values * touched).sum(dim=1) / values.sum(dim=1).clamp(min=1e-12)
    return top.float().mean().item(), mass.mean().item()


# --- tables ---


def health(runs: Sequence[dict]) -> list[bool | None]:
    """Healthy, broken, or neither, by accuracy on clean images alone."""

    def excess(run: dict) -> float:
        chance = 1 / worlds.load(run["data"]).num_classes
        return (run["clean"] - chance) / (1 - chance)

    best: dict[tuple[str, str], float] = {}
    for run in runs:
        key = run["data"], run["network"]
        best[key] = max(best.get(key, 0.0), excess(run))
    shares = [excess(run) / best[run["data"], run["network"]] for run in runs]
    return [True if share >= HEALTHY_FROM else False if share <= BROKEN_UP_TO else None for share in shares]


def auroc(runs: Sequence[dict], healthy: Sequence[bool | None], score: str) -> float:
    """How often a healthy model scores higher than a broken one; an undefined score counts as 0."""
    pairs = [(run["scores"].get(score, math.nan), good) for run, good in zip(runs, healthy, strict=True)]
    known = [(value, good) for value, good in pairs if good is not None]
    if len({good for _, good in known}) < 2:
        return math.nan
    values = torch.tensor([value for value, _ in known], dtype=torch.float64).nan_to_num(0)
    ranks = values.unique(return_inverse=True)[1]  # binary_auroc squashes values outside [0, 1]; ranks keep the order
    return binary_auroc(ranks / max(1, int(ranks.max())), torch.tensor([int(good) for _, good in known])).item()


def separation_table(runs: Sequence[dict]) -> str:
    """AUROC of each score, on all data and on each set."""
    healthy = health(runs)
    sets = sorted({run["data"] for run in runs})
    shown = [f"{name}, {whose}" for whose in ("trusted", "own") for name in ("structure", "knows", "judge_excess")]
    shown += ["accuracy, trusted", "area, trusted"]
    rows = [f"| score | all | {' | '.join(sets)} |", "| --- |" + " --- |" * (len(sets) + 1)]
    for score in shown:
        cells = [auroc(runs, healthy, score)]
        for name in sets:
            chosen = [(run, good) for run, good in zip(runs, healthy, strict=True) if run["data"] == name]
            cells.append(auroc([run for run, _ in chosen], [good for _, good in chosen], score))
        rows.append(f"| {score} | {' | '.join(f'{cell:.2f}' for cell in cells)} |")
    alarms = [run["tone"] == "bad" for run, good in zip(runs, healthy, strict=True) if good]
    caught = [run["tone"] == "bad" for run, good in zip(runs, healthy, strict=True) if good is False]
    rows.append("")
    for what, values in (("healthy", alarms), ("broken", caught)):
        rows.append(f"Red without trusted images: {sum(values)} of {len(values)} {what} models.")
    return "\n".join(rows)


def kinds_table(runs: Sequence[dict]) -> str:
    """Every model's main scores."""
    rows = [
        "| kind | data | epoch | clean | own | knows, trusted | structure, trusted | structure, own | shortcut "
        "| verdict |",
        "| --- |" + " --- |" * 9,
    ]
    for run in sorted(runs, key=lambda run: (run["kind"], run["data"], run["epoch"])):
        shown = [run["clean"], run["own"]]
        shown += [run["scores"][key] for key in ("knows, trusted", "structure, trusted", "structure, own")]
        shown.append(run["scores"]["shortcut, trusted"])
        cells = " | ".join(f"{value:.2f}" for value in shown)
        rows.append(f"| {run['kind']} | {run['data']} | {run['epoch'] + 1} | {cells} | {run['headline']} |")
    return "\n".join(rows)


def reliance_table(runs: Sequence[dict]) -> str:
    """For each local mark and method: images whose top patch touches the mark / share of the mass on it."""
    rows = []
    for run in runs:
        if "reliance" in run:
            methods = "; ".join(f"{name} {top:.2f} / {mass:.2f}" for name, (top, mass) in run["reliance"].items())
            rows.append(f"{run['kind']}, {run['data']}: {methods}")
    return "\n".join(rows)


def main() -> None:
    """Examine what is not yet known, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--kinds", nargs="+", default=None)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    worlds.CACHE.mkdir(parents=True, exist_ok=True)
    lines = SCORES.read_text().splitlines() if SCORES.exists() else []
    known = {tuple(run[name] for name in vars(Model("", "", "", 0, 0))): run for run in map(json.loads, lines)}
    wanted = models(arguments.seeds, arguments.kinds)
    for number, model in enumerate(wanted):
        if (key := tuple(vars(model).values())) not in known:
            known[key] = examine(model)
            with SCORES.open("a") as file:
                file.write(json.dumps(known[key]) + "\n")
            print(f"{number + 1} of {len(wanted)}: {model}", file=sys.stderr, flush=True)
    runs = [known[tuple(vars(model).values())] for model in wanted]
    print(kinds_table(runs), separation_table(runs), reliance_table(runs), sep="\n\n")


if __name__ == "__main__":
    main()
