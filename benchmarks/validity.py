"""Which scores tell a model that learned its classes from one that did not, and where it looks?

Trains networks of `validity_worlds.py`, healthy ones and ones with a planted shortcut in doses, probes each, and writes
how well the scores tell them apart to ``benchmarks/results/validity.md``. A model counts as healthy or broken by its
accuracy on clean held-out images alone, above chance, compared with the best of its data set and network: at least 0.7
of it, or at most 0.5. Formula and constants were fixed on seeds 3 to 8. Weights and scores are kept in
``benchmarks/.cache``, so that the next run goes on where the last one was. It ends after ten minutes with what there is
by then; ``--full`` takes every dose, and all the time it needs. Needs captum for the comparison of maps:
``pip install captum``.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch
import validity_worlds as worlds
from torch import Tensor, nn
from torchmetrics.functional.classification import binary_auroc
from torchmetrics.functional.regression import spearman_corrcoef

from fitb_callbacks import FillInBlanks, FillInBlanksResult, RidgeJudge
from fitb_callbacks.probing.judging import judged
from fitb_callbacks.scoring.intervals import wilson_interval
from fitb_callbacks.scoring.structure import shortcut_of

SCORES = worlds.CACHE / "scores.jsonl"
RESULTS = Path(__file__).parent / "results" / "validity.md"
PROBE_IMAGES = 40
PROBE = FillInBlanks(
    num_masks=192, tolerance=10.0, chunk_size=120
)  # 64 for updates, and 192 for the maps, as by default
EPOCHS = (0, 1, 3, 7)
LEARNED_FROM = 400  # training images of the judge that shares them
HEALTHY_FROM, BROKEN_UP_TO = 0.7, 0.5
LOCAL = ("patch", "moving patch", "tag", "stripe")
NAMES = {
    "patch": "spot", "moving patch": "spot", "tag": "spot", "border": "rim", "tint": "colour", "shading": "shading",
    "texture": "detail", "blur": "sharpness", "background": "pattern",
}  # fmt: skip
"""What the cue profile should name each shortcut."""


@dataclass(frozen=True)
class Model:
    """One epoch of one training."""

    data: str
    network: str
    kind: str
    seed: int
    epoch: int


def models(seeds: Sequence[int], kinds: Sequence[str] | None, *, full: bool = False) -> list[Model]:
    """The last epoch of every training, and five of each clean one."""
    found = []
    for data, network, kind, seed in worlds.all_models(seeds, full=full):
        if kinds is None or kind in kinds:
            last = max(1, worlds.KINDS[kind].epochs) - 1 if worlds.KINDS[kind].healthy else 0
            epochs = EPOCHS if kind == "clean" else [last]
            found += [Model(data, network, kind, seed, epoch) for epoch in epochs]
    return found


def examine(model: Model) -> dict[str, object]:
    """Train, probe and score one model."""
    data, kind = worlds.load(model.data), worlds.KINDS[model.kind]
    weights, clean, own = worlds.trained(data, model.network, model.kind, model.seed)
    module = worlds.model_of(data, model.network, weights[model.epoch])
    images, labels, where = own_images(model)
    result = PROBE.probe(module, images, labels)
    trusted = judged(tried_on_trusted(module, result, model.data), trusted_judge(model.data))
    learned, answers = worlds.training_set(kind, data, model.seed)
    shared = judged(result, ridge((learned[:LEARNED_FROM], answers[:LEARNED_FROM])))
    scores = {f"{name}, trusted": value for name, value in trusted.metrics.items()}
    scores |= {f"{name}, own": shared.metrics[name] for name in ("structure", "knows", "judge_excess", "judge_ceiling")}
    suspicion, cue = shortcut_of(result.metrics, data.num_classes)  # without trusted images
    found: dict[str, object] = {
        **vars(model),
        "named": cue if suspicion >= 0.5 else None,
        "clean": clean[model.epoch],
        "own": own[model.epoch],
        "tone": shared.interpretation()["tone"],
        "headline": shared.interpretation()["headline"],
        "tone, trusted": trusted.interpretation()["tone"],
        "headline, trusted": trusted.interpretation()["headline"],
        "scores": scores,
        "intervals": {name: list(ends) for name, ends in shared.intervals.items()},
    }
    if kind.plant in LOCAL:
        found["reliance"] = share_on_mark(module, result, where, clean_images(model))
    return found


def own_images(model: Model) -> tuple[Tensor, Tensor, Tensor]:
    """Probe images as the model gets them, their labels, and where the mark is, as many of each class."""
    data, kind = worlds.load(model.data), worlds.KINDS[model.kind]
    images, where = worlds.probe_set(kind, data, model.seed)
    labels = data.held_out[1]
    if kind.wrong_labels == 1:  # whoever labels at random does so in the validation data, too
        labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(model.seed))]
    per_class = PROBE_IMAGES // data.num_classes
    chosen = torch.cat([(labels == c).nonzero().flatten()[:per_class] for c in range(data.num_classes)])
    return images[chosen], labels[chosen], where[chosen] if len(where) else where


def clean_images(model: Model) -> Tensor:
    """The same probe images without the mark."""
    data = worlds.load(model.data)
    images, labels = data.held_out
    per_class = PROBE_IMAGES // data.num_classes
    return images[torch.cat([(labels == c).nonzero().flatten()[:per_class] for c in range(data.num_classes)])]


@lru_cache(maxsize=8)
def trusted_judge(name: str) -> RidgeJudge:
    """The default judge of the trusted images."""
    data = worlds.load(name)
    return RidgeJudge.from_reference(
        data.trusted, image_shape=tuple(data.trusted[0].shape[1:]), num_classes=data.num_classes
    )


def tried_on_trusted(module: nn.Module, result: FillInBlanksResult, name: str) -> FillInBlanksResult:
    """What a probe with a trusted judge would add: the model's accuracy on some of the judge's images."""
    reference = trusted_judge(name).reference
    assert reference is not None
    accuracy, num_classes = worlds.accuracy(module, *reference), worlds.load(name).num_classes
    metrics = {**result.metrics, "reference_accuracy": accuracy}
    intervals = {**result.intervals, "reference_accuracy": wilson_interval(accuracy, len(reference[1]))}
    return replace(result, metrics=metrics | {"shortcut": shortcut_of(metrics, num_classes)[0]}, intervals=intervals)


def ridge(split: tuple[Tensor, Tensor]) -> RidgeJudge:
    """The default judge of some images."""
    judge = RidgeJudge()
    judge.update(*split)
    return judge


# --- the share of an explanation that lies on the mark, by one measure for all ---


def share_on_mark(
    module: nn.Module, result: FillInBlanksResult, where: Tensor, clean: Tensor
) -> dict[str, tuple[float, float, int]]:
    """Method to the share of images whose top patch touches the mark, the share of the map's mass there, and how many.

    Of the images that the model gets right with the mark and wrong without it: of the others nobody knows whether it
    goes by the mark.
    """
    from captum.attr import GradientShap, IntegratedGradients, LayerGradCam, Saliency

    torch.manual_seed(0)
    with torch.no_grad():
        seen, unseen = (module(some).argmax(dim=1) == result.labels for some in (result.images, clean))
    decisive = seen & ~unseen
    if not decisive.any() or result.reliance is None:
        return {}
    images, labels, where = result.images[decisive], result.labels[decisive], where[decisive]
    black = torch.zeros_like(images)
    grid = PROBE.patch_grid(images)
    maps = {"reliance (this package)": result.reliance.flatten(1)[decisive]}

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


def _on(values: Tensor, touched: Tensor) -> tuple[float, float, int]:
    top = touched[torch.arange(len(values)), values.argmax(dim=1)] & (values.amax(dim=1) > 0)
    mass = (values * touched).sum(dim=1) / values.sum(dim=1).clamp(min=1e-12)
    return top.float().mean().item(), mass.mean().item(), len(values)


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
    for good, what in ((True, "healthy"), (False, "broken")):
        tones = [run["tone, trusted"] for run, is_good in zip(runs, healthy, strict=True) if is_good is good]
        rows.append(f"Red with trusted images: {tones.count('bad')} of {len(tones)} {what} models.")
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
    """For each local mark and method, over the data sets: top patch on the mark / share of the mass on it."""
    methods = list(dict.fromkeys(name for run in runs for name in run.get("reliance", {})))
    rows = [f"| mark | images | {' | '.join(methods)} |", "| --- | --- |" + " --- |" * len(methods)]
    for kind in dict.fromkeys(run["kind"] for run in runs if run.get("reliance")):
        told = [run["reliance"] for run in runs if run["kind"] == kind and run.get("reliance")]
        number = sum(next(iter(each.values()))[2] for each in told)
        cells = []
        for method in methods:
            parts = [each[method] for each in told if method in each]
            weight = max(1, sum(part[2] for part in parts))
            top, mass = (sum(part[i] * part[2] for part in parts) / weight for i in (0, 1))
            cells.append(f"{top:.2f} / {mass:.2f}" if parts else "")
        rows.append(f"| {kind} | {number} | {' | '.join(cells)} |")
    return "\n".join(rows)


def naming_table(runs: Sequence[dict]) -> str:
    """How often each shortcut is named as what it is, among broken models; and what healthy ones are accused of."""
    healthy = health(runs)
    rows = ["| shortcut | broken models | named so | named something else | not named |", "| --- |" + " --- |" * 4]
    for plant, name in NAMES.items():
        broken = [
            run["named"]
            for run, good in zip(runs, healthy, strict=True)
            if good is False and worlds.KINDS[run["kind"]].plant == plant
        ]
        right, silent = broken.count(name), broken.count(None)
        others = sorted({cue for cue in broken if cue not in (name, None)})
        wrong = f"{len(broken) - right - silent}" + (f" ({', '.join(others)})" if others else "")
        rows.append(f"| {plant} | {len(broken)} | {right} | {wrong} | {silent} |")
    accused = [run["named"] for run, good in zip(runs, healthy, strict=True) if good]
    found = [cue for cue in accused if cue is not None]
    rows += [
        "",
        f"Of {len(accused)} healthy models, {len(found)} are accused{': ' if found else ''}{', '.join(found)}.",
    ]
    return "\n".join(rows)


def epochs_table(runs: Sequence[dict]) -> str:
    """The headline over a healthy training, with a trusted reference, against accuracy on clean images."""
    rows = [
        "| data, network | accuracy on clean images | structure | below its best | accuracy of its favourite, "
        "less the best | rank correlation |",
        "| --- |" + " --- |" * 5,
    ]
    for data in dict.fromkeys(run["data"] for run in runs):
        series = sorted((r for r in runs if r["data"] == data and r["kind"] == "clean"), key=lambda r: r["epoch"])
        if len(series) < 3:
            continue
        clean = torch.tensor([run["clean"] for run in series])
        headline = torch.tensor([run["scores"]["structure, trusted"] for run in series]).nan_to_num(0)
        correlation = spearman_corrcoef(headline, clean).item()
        texts = ["  ".join(f"{value:.2f}" for value in values.tolist()) for values in (clean, headline)]
        fall, kept = headline.max() - headline[-1], clean[headline.argmax()] - clean.max()
        rows.append(
            f"| {data}, {series[0]['network']} | {texts[0]} | {texts[1]} "
            f"| {fall:.2f} | {kept:.2f} | {correlation:.2f} |"
        )
    return "\n".join(rows)


def doses_table(runs: Sequence[dict]) -> str:
    """The mean over data sets of some scores by how many of the training images have the shortcut."""
    rows = ["| shortcut | dose | clean accuracy | structure, trusted | shortcut | red |", "| --- |" + " --- |" * 5]
    for plant in worlds.DOSED:
        for dose in (0.0, 0.2, 0.5, 1.0):
            kind = "clean" if dose == 0 else f"{plant} {dose:.0%}"
            told = [run for run in runs if run["kind"] == kind and (dose > 0 or run["epoch"] == max(EPOCHS))]
            if told:
                clean = _mean([run["clean"] for run in told])
                cells = [clean, *(_mean([run["scores"][f"{name}, trusted"] for run in told]) for name in _DOSE_SCORES)]
                red = sum(run["tone"] == "bad" for run in told)
                shown = " | ".join(f"{cell:.2f}" for cell in cells)
                rows.append(f"| {plant} | {dose:.0%} | {shown} | {red} of {len(told)} |")
    return "\n".join(rows)


_DOSE_SCORES = ("structure", "shortcut")


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def main() -> None:
    """Examine what is not yet known, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[3])
    parser.add_argument("--kinds", nargs="+", default=None, help="some of the kinds only")
    parser.add_argument("--full", action="store_true", help="every dose of every shortcut")
    parser.add_argument("--minutes", type=float, default=10, help="start no model after so long; the next call goes on")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    worlds.CACHE.mkdir(parents=True, exist_ok=True)
    lines = SCORES.read_text().splitlines() if SCORES.exists() else []
    known = {tuple(run[name] for name in vars(Model("", "", "", 0, 0))): run for run in map(json.loads, lines)}
    wanted = models(arguments.seeds, arguments.kinds, full=arguments.full)
    started = time.monotonic()
    for number, model in enumerate(wanted):
        key = tuple(vars(model).values())
        if key not in known and (arguments.full or time.monotonic() - started < 60 * arguments.minutes):
            known[key] = examine(model)
            with SCORES.open("a") as file:
                file.write(json.dumps(known[key]) + "\n")
            print(f"{number + 1} of {len(wanted)}: {model}", file=sys.stderr, flush=True)
    runs = [known[key] for model in wanted if (key := tuple(vars(model).values())) in known]
    tables = {
        f"{len(runs)} models: which scores tell healthy from broken (AUROC)": separation_table,
        "What the shortcut is called": naming_table,
        "Where the map points": reliance_table,
        "Over a healthy training": epochs_table,
        "Doses": doses_table,
        "Every model": kinds_table,
    }
    parts = [f"## {title}\n\n{table(runs)}" for title, table in tables.items()]
    arguments.output.write_text("# Validity\n\n" + "\n\n".join(parts) + "\n")
    print(arguments.output.read_text())


if __name__ == "__main__":
    main()
