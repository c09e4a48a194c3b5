"""How well other tools tell the healthy models of `validity.py` from the broken ones.

Each gets what it asks for, of 200 of the model's own held-out images: SpRAy (Lapuschkin et al., 2019) the maps of
integrated gradients, ShortKit-ML's detectors the embeddings of the layer before the last, with the labels. Some of
these ask for group labels, too, which nobody has in a training run; they then take the labels. A verdict of "high"
counts as 2, "moderate" as 1. Reads what `validity.py` has kept, so run that first. Needs captum and ShortKit-ML::

    pip install captum
    pip install --no-deps shortkit-ml plotly narwhals seaborn statsmodels patsy openpyxl et-xmlfile markdown
    python benchmarks/rivals.py --seeds 7
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import torch
import validity
import validity_worlds as worlds
from torch import Tensor, nn

RESULTS = Path(__file__).parent / "results" / "rivals.md"
IMAGES = 200
DETECTORS = ("hbac", "probe", "statistical", "geometric", "frequency", "gce")
RISK = {"low": 0.0, "moderate": 1.0, "high": 2.0}


def main() -> None:
    """Ask every tool about every model, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[7])
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    runs = [json.loads(line) for line in validity.SCORES.read_text().splitlines()]
    runs = [run for run in runs if run["seed"] in arguments.seeds]
    with redirect_stdout(StringIO()):  # these tools tell what they are at
        found = [risks(run) for run in runs]
    RESULTS.write_text(table(runs, found))
    print(RESULTS.read_text())


def risks(run: dict) -> dict[str, float]:
    """Tool to how much of a risk it sees in a model; NaN where it fails."""
    model = validity.Model(*(run[name] for name in ("data", "network", "kind", "seed", "epoch")))
    data, kind = worlds.load(model.data), worlds.KINDS[model.kind]
    weights, *_ = worlds.trained(data, model.network, model.kind, model.seed)
    module = worlds.model_of(data, model.network, weights[model.epoch])
    images, _ = worlds.probe_set(kind, data, model.seed)
    images, labels = images[:IMAGES], data.held_out[1][:IMAGES]
    seen = embeddings(module, images).double().numpy()
    return {"SpRAy": spray(heatmaps(module, images, labels), labels.numpy())} | {
        name: detected(name, seen, labels.numpy()) for name in DETECTORS
    }


def embeddings(module: nn.Module, images: Tensor) -> Tensor:
    """What goes into the last linear layer, shape ``(N, features)``."""
    last = [layer for layer in module.modules() if isinstance(layer, nn.Linear)][-1]
    kept: list[Tensor] = []
    handle = last.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0].detach()))
    with torch.no_grad():
        module(images)
    handle.remove()
    return kept[0]


def heatmaps(module: nn.Module, images: Tensor, labels: Tensor) -> np.ndarray:
    """Positive integrated gradients, shape ``(N, H, W)``."""
    from captum.attr import IntegratedGradients

    parts = [
        IntegratedGradients(module).attribute(some, torch.zeros_like(some), its, n_steps=8)
        for some, its in zip(images.split(50), labels.split(50), strict=True)
    ]
    return torch.cat(parts).detach().clamp(min=0).sum(dim=1).numpy()


def spray(maps: np.ndarray, labels: np.ndarray) -> float:
    """The risk by clusters of maps."""
    from shortcut_detect.xai.spray_detector import SpRAyDetector

    try:
        detector = SpRAyDetector(downsample_size=16)
        detector.fit(maps, labels=labels)
        return RISK.get(detector.results_["risk_level"], float("nan"))
    except (ValueError, np.linalg.LinAlgError):  # maps without any positive part
        return float("nan")


def detected(name: str, seen: np.ndarray, labels: np.ndarray) -> float:
    """The risk by one of ShortKit-ML's detectors."""
    from shortcut_detect.unified import ShortcutDetector

    try:
        result = ShortcutDetector(methods=[name], seed=0).fit(seen, labels).results_.get(name, {})
    except (ValueError, np.linalg.LinAlgError):
        return float("nan")
    return RISK.get(str(result.get("risk_value", "unknown")), float("nan"))


def table(runs: Sequence[dict], found: Sequence[dict[str, float]]) -> str:
    """AUROC of each tool, and how often it sees a high risk."""
    healthy = validity.health(runs)
    rows = [
        "| tool | AUROC | sees a high risk in healthy models | in broken ones | no answer |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name in found[0]:
        scored = [{**run, "scores": {name: -each[name]}} for run, each in zip(runs, found, strict=True)]
        cells = [f"{validity.auroc(scored, healthy, name):.2f}"]
        for wanted in (True, False):
            some = [each[name] for each, good in zip(found, healthy, strict=True) if good is wanted]
            cells.append(f"{sum(risk == 2 for risk in some)} of {len(some)}")
        cells.append(str(sum(np.isnan(each[name]) for each in found)))
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return f"# Other tools on the models of validity.py\n\n{len(runs)} models.\n\n" + "\n".join(rows) + "\n"


if __name__ == "__main__":
    main()
