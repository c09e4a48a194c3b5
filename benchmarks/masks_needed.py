"""How many masks until the mean update is as good as that of 10,000 kept ones? Many estimators, side by side.

    OMP_NUM_THREADS=1 python benchmarks/masks_needed.py

The target is the same for all: for each image, the plain mean of `(1 - m) * update` over 10,000 kept masks that were
drawn independently. Of another 10,000 the plain mean gives the ceiling, and the masks for the estimators that need
independent ones. Correlations are over pixels, and averaged over estimates from masks that do not overlap.

Every update was computed once, with all its pixels, so that estimators which look at visible pixels can be tried too.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cache, partial
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.quasirandom import SobolEngine

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from paper_models import MODELS, accuracy, fashion_mnist, mnist, per_class, train

from fitb_callbacks.models.state import preserve_model_state
from fitb_callbacks.probing.adjustment import patch_factors
from fitb_callbacks.probing.masks import random_masks
from fitb_callbacks.utils.patch_grid import PatchGrid

SIDE, PATCH, RATIO = 28, 2, 0.25
GRID = PatchGrid(SIDE, SIDE, PATCH)
PATCHES = (SIDE // PATCH) ** 2
HIDDEN = round(RATIO * PATCHES)
PATCH_OF_VALUE = GRID.patch_of_pixel().flatten()
REFERENCE = 10_000  # kept masks
BUDGETS = (32, 64, 128, 256, 512, 1024)
GOALS = (0.98, 0.99)
REPEATS = 8  # estimates of one budget from masks that do not overlap, at most
BIAS_BUDGET = 128
POOL = REPEATS * BIAS_BUDGET  # masks of a design


@dataclass(frozen=True)
class Pool:
    """What the model made of some masks of one image.

    Attributes:
        hidden: Masked patches, 1 or 0, shape (masks, patches).
        updates: On all pixels, masked or not, shape (masks, values).
        kept: 1 where the label was predicted, else 0, shape (masks,).
        doubt: Logarithm of 1 - p(label), shape (masks,).
    """

    hidden: Tensor
    updates: Tensor
    kept: Tensor
    doubt: Tensor

    def __getitem__(self, rows: slice | Tensor) -> Pool:
        return Pool(self.hidden[rows], self.updates[rows], self.kept[rows], self.doubt[rows])

    def __len__(self) -> int:
        return len(self.kept)

    def until_kept(self, number: int) -> Pool:
        """The masks up to the one that makes the number of kept ones full."""
        return self[slice(int((self.kept.cumsum(0) < number).sum()) + 1)]

    def joined(self, other: Pool) -> Pool:
        """These masks and the others."""
        return Pool(*(torch.cat([getattr(one, field.name) for one in (self, other)]) for field in fields(Pool)))


@dataclass(frozen=True)
class Known:
    """What an estimator may know beside its masks.

    Attributes:
        blank: 1 where a patch holds nothing but the baseline, else 0, shape (patches,).
        change: What hiding a patch takes away, shape (patches,).
        candidates: Masks to choose from; what the model makes of them may be looked at only for those chosen.
    """

    blank: Tensor
    change: Tensor
    candidates: Pool


Estimator = Callable[[Pool, Known], Tensor]
"""Some masks to the mean update (values,)."""


def photographs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Grey crops of scikit-learn's two sample photographs, a class each: images in which no patch is blank."""
    from sklearn.datasets import load_sample_images

    generator = torch.Generator().manual_seed(0)
    crops, labels = [], []
    for label, photograph in enumerate(load_sample_images().images):
        grey = torch.from_numpy(photograph.copy()).float().mean(2)[None] / 255
        for _ in range(2500):
            side = int(torch.randint(40, 140, (1,), generator=generator))
            top, left = (int(torch.randint(0, length - side, (1,), generator=generator)) for length in grey.shape[1:])
            crop = grey[None, :, top : top + side, left : left + side]
            crops.append(F.interpolate(crop, size=(SIDE, SIDE), mode="area")[0])
            labels.append(label)
    order = torch.randperm(len(crops), generator=generator)
    images, answers = torch.stack(crops)[order], torch.tensor(labels)[order]
    return images[:4000], answers[:4000], images[4000:], answers[4000:]


CASES = {
    "MNIST, CNN": (mnist, "CNN", 0.3),
    "Fashion-MNIST, ResNet5": (fashion_mnist, "ResNet5", 0.0),
    "Photographs, CNN": (photographs, "CNN", 0.0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images-per-class", type=int, default=2)
    parser.add_argument("--classes", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/masks_needed"))
    settings = parser.parse_args()
    settings.output.mkdir(parents=True, exist_ok=True)
    rows, tables = [], []
    for case, (load, name, noise) in CASES.items():
        images, labels, others, other_labels = load()
        torch.manual_seed(0)
        model = train(MODELS[name](), images, labels, epochs=4, seed=0, noise=noise)
        rate = accuracy(model, others, other_labels)
        print(f"{case}: accuracy {rate:.3f}", flush=True)
        with preserve_model_state(model):
            found = study(model, *often_right(model, others, other_labels, settings))
        tables += [f"### {case} (accuracy {rate:.2f})", *table(found)]
        rows += [[case, *row] for row in found.rows()]
        (settings.output / "masks_needed.md").write_text("\n".join(tables) + "\n")
    with (settings.output / "masks_needed.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("case", "method", "image", "masks", "correlation"), *rows])


@dataclass
class Found:
    """Correlations with the target by method, budget and image; how good the mean of many estimates is; ceilings."""

    correlations: dict[str, dict[int, list[float]]]
    bias: dict[str, list[tuple[float, float]]]
    ceilings: list[float]
    keep_rates: list[float]
    blank: list[float]
    mates: list[float]

    def rows(self) -> list[tuple[str, int, int, float]]:
        """Method, image, masks and correlation."""
        return [
            (method, image, budget, round(value, 5))
            for method, budgets in self.correlations.items()
            for budget, values in budgets.items()
            for image, value in enumerate(values)
        ]

    def masks_needed(self, method: str, image: int, goal: float) -> float:
        """By interpolation of the noise, 1 / r^2 - 1, which falls with one over the number of masks."""
        noise = [1 / self.correlations[method][budget][image] ** 2 - 1 for budget in BUDGETS]
        wanted = 1 / goal**2 - 1
        if noise[0] <= wanted:
            return BUDGETS[0]
        for place in range(1, len(BUDGETS)):
            if noise[place] <= wanted:
                share = math.log(noise[place - 1] / wanted) / math.log(noise[place - 1] / noise[place])
                return BUDGETS[place - 1] * (BUDGETS[place] / BUDGETS[place - 1]) ** share
        return math.inf


def study(model: nn.Module, images: Tensor, labels: Tensor) -> Found:
    found = Found(defaultdict(lambda: defaultdict(list)), defaultdict(list), [], [], [], [])
    targets, means = [], []
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        started = time.perf_counter()
        target = weighted(first := reference(model, image, label, seed=1), first.hidden)
        second = reference(model, image, label, seed=2)
        known = Known(blank_patches(image), change_of_patches(image), candidates=second[slice(POOL, None)])
        pools = {"independent": second[slice(POOL)]}
        for design, masks in DESIGNS.items():
            pools[design] = pool_of(model, image, label, masks(torch.arange(POOL)))
        found.ceilings.append(correlation(plain(second, known), target))
        found.keep_rates.append(second.kept.mean().item())
        found.blank.append(known.blank.mean().item())
        for title, (design, estimator) in METHODS.items():
            for budget in BUDGETS:
                estimates = [estimator(part, known) for part in parts(pools[design], budget)]
                values = [correlation(estimate, target) for estimate in estimates]
                found.correlations[title][budget].append(sum(values) / len(values))
                if budget == BIAS_BUDGET:
                    mean = torch.stack(estimates).mean(0)
                    slope = (mean @ target / target.square().sum()).item()
                    found.bias[title].append((correlation(mean, target), slope))
        targets.append(target)
        means.append(
            {budget: [plain(part, known) for part in parts(pools["independent"], budget)] for budget in BUDGETS}
        )
        seconds = time.perf_counter() - started
        print(f"image {number}: {found.keep_rates[-1]:.2f} kept, {seconds:.0f} s", flush=True)
    share_in_class(found, labels, targets, means)
    return found


def share_in_class(
    found: Found, labels: Tensor, targets: list[Tensor], means: list[dict[int, list[Tensor]]], share: float = 0.2
) -> None:
    """A fifth of each mean from the other images of its class, where there are some."""
    for one, label in enumerate(labels):
        mates = [other for other in range(len(labels)) if labels[other] == label and other != one]
        found.mates += [correlation(targets[one], targets[mate]) for mate in mates]
        mixed: dict[int, list[Tensor]] = {}
        for budget in BUDGETS:
            mixed[budget] = []
            for repeat, own in enumerate(means[one][budget]):
                others = torch.stack([means[mate][budget][repeat] for mate in mates or [one]])
                others = (others / others.norm(dim=1, keepdim=True)).mean(0) * own.norm()
                mixed[budget].append((1 - share) * own + share * others)
            values = [correlation(mean, targets[one]) for mean in mixed[budget]]
            found.correlations[SHARED][budget].append(sum(values) / len(values))
        mean = torch.stack(mixed[BIAS_BUDGET]).mean(0)
        slope = (mean @ targets[one] / targets[one].square().sum()).item()
        found.bias[SHARED].append((correlation(mean, targets[one]), slope))


SHARED = "a fifth from the class's other image"


def often_right(
    model: nn.Module, images: Tensor, labels: Tensor, settings: argparse.Namespace
) -> tuple[Tensor, Tensor]:
    """The first images of each class for which the model is right under half of the masks or more.

    For others, 10,000 kept masks would take too long.
    """
    classes = min(settings.classes, len(labels.unique()))
    each = settings.images_per_class * settings.classes // classes
    images, labels = per_class(images, labels, 10 * each, classes)
    hidden = independent(torch.arange(64), seed=8)
    pairs = zip(images, labels, strict=True)
    often = torch.tensor([pool_of(model, image, label, hidden).kept.mean() >= 0.5 for image, label in pairs])
    return per_class(images[often], labels[often], each, classes)


def reference(model: nn.Module, image: Tensor, label: Tensor, seed: int) -> Pool:
    """Independent masks until so many are kept."""
    rate = pool_of(model, image, label, independent(torch.arange(256), seed=seed)).kept.mean().item()
    number = math.ceil(1.05 * REFERENCE / rate) + 64
    return pool_of(model, image, label, independent(torch.arange(number), seed=seed)).until_kept(REFERENCE)


@torch.enable_grad()
def pool_of(model: nn.Module, image: Tensor, label: Tensor, hidden: Tensor, chunk_size: int = 128) -> Pool:
    updates, kept, doubt = [], [], []
    for some in hidden.split(chunk_size):
        visible = 1 - some[:, PATCH_OF_VALUE].view(-1, 1, SIDE, SIDE)
        leaf = (image * visible).requires_grad_()  # the baseline is 0
        logits = model(leaf)
        loss = F.cross_entropy(logits, label.expand(len(some)), reduction="none")
        (gradient,) = torch.autograd.grad(loss.sum(), leaf)
        updates.append(-gradient.flatten(1))
        kept.append((logits.argmax(dim=1) == label).float())
        doubt.append((-torch.expm1(-loss.detach())).clamp(min=1e-7).log())
    return Pool(hidden, torch.cat(updates), torch.cat(kept), torch.cat(doubt))


def blank_patches(image: Tensor) -> Tensor:
    ink = torch.zeros(PATCHES).index_add(0, PATCH_OF_VALUE, (image.flatten() != 0).float())
    return (ink == 0).float()


def change_of_patches(image: Tensor) -> Tensor:
    return F.avg_pool2d(image.square().mean(dim=0, keepdim=True), PATCH).flatten().sqrt()


def parts(pool: Pool, budget: int) -> list[Pool]:
    return [pool[slice(start, start + budget)] for start in range(0, len(pool), budget)][:REPEATS]


def correlation(first: Tensor, second: Tensor) -> float:
    return torch.corrcoef(torch.stack([first, second]))[0, 1].item()


# --- Masks. A design gives the hidden patches (masks, patches) of the masks from one number to another. ---


def independent(indices: Tensor, seed: int) -> Tensor:
    """Uniform masks that know nothing of each other: one of each round of the package's."""
    return patches_of(random_masks(4 * indices, GRID, mask_ratio=RATIO, seed=seed))


def partitions(indices: Tensor) -> Tensor:
    """The package's masks: four consecutive ones hide every patch once."""
    return patches_of(random_masks(indices, GRID, mask_ratio=RATIO, seed=3))


def disjoint_pairs(indices: Tensor) -> Tensor:
    """Two of the four; complements exist only at a ratio of 0.5."""
    return patches_of(random_masks(indices // 2 * 4 + indices % 2, GRID, mask_ratio=RATIO, seed=4))


def stratified(indices: Tensor) -> Tensor:
    """Partitions in which each mask hides one patch of every block of 2 x 2. Its masks are not uniform."""
    side = SIDE // PATCH
    generator = torch.Generator().manual_seed(5)
    order = torch.rand(int(indices.max()) // 4 + 1, side // 2, side // 2, 4, generator=generator).argsort(dim=-1)
    hidden = order[indices // 4] == (indices % 4)[:, None, None, None]
    return hidden.view(-1, side // 2, side // 2, 2, 2).transpose(2, 3).reshape(-1, PATCHES).float()


def sobol(indices: Tensor) -> Tensor:
    """Scrambled Sobol points with a dimension a patch; the patches with the smallest coordinates are hidden."""
    points = SobolEngine(PATCHES, scramble=True, seed=6).draw(int(indices.max()) + 1)[indices]
    return (points.argsort(dim=1).argsort(dim=1) < HIDDEN).float()


DESIGNS = {
    "partitions": partitions,
    "disjoint pairs": disjoint_pairs,
    "stratified": stratified,
    "Sobol": sobol,
}


def patches_of(visible: Tensor) -> Tensor:
    """Hidden patches (masks, patches) of visible pixels (masks, height, width)."""
    return (~visible[:, ::PATCH, ::PATCH]).flatten(1).float()


# --- Estimators. ---


def plain(pool: Pool, known: Known) -> Tensor:
    """The mean of `(1 - m) * update` over the kept masks: what all others try to hit."""
    return weighted(pool, pool.hidden)


def weighted(pool: Pool, weights: Tensor) -> Tensor:
    total = torch.einsum("mv,mv->v", pool.updates, (weights * pool.kept[:, None])[:, PATCH_OF_VALUE])
    return total / pool.kept.sum().clamp(min=1)


def also_visible(pool: Pool, known: Known) -> Tensor:
    """The mean over all kept masks, whether they hide the pixel or not."""
    return weighted(pool, torch.full_like(pool.hidden, RATIO))


def hidden_only(pool: Pool, known: Known) -> Tensor:
    """Each pixel's mean over the kept masks that hide it, times the ratio."""
    return weighted(pool, pool.hidden) * times_wanted(pool, pool.hidden)[PATCH_OF_VALUE]


def times_wanted(pool: Pool, weights: Tensor) -> Tensor:
    times = (weights * pool.kept[:, None]).sum(0) / pool.kept.sum().clamp(min=1)
    return RATIO / times.clamp(min=1e-9)


def blanks_shared(hidden: Tensor, blank: Tensor) -> Tensor:
    """Chance that a patch was hidden, given the masked image.

    A blank patch looks the same hidden or not, so which of them are hidden is pure chance.
    """
    share = (hidden * blank).sum(1, keepdim=True) / blank.sum().clamp(min=1)
    return torch.where(blank.bool(), share, hidden)


def blanks(pool: Pool, known: Known) -> Tensor:
    """Rao-Blackwell: `1 - m` replaced by its mean given the masked image. The expectation is exactly the same."""
    return weighted(pool, blanks_shared(pool.hidden, known.blank))


def blanks_hidden_only(pool: Pool, known: Known) -> Tensor:
    weights = blanks_shared(pool.hidden, known.blank)
    return weighted(pool, weights) * times_wanted(pool, weights)[PATCH_OF_VALUE]


def confidence_regression(pool: Pool, known: Known) -> Tensor:
    """Control variate: the size predicted from the mask, whose mean over all masks costs no run of the model."""
    weights = blanks_shared(pool.hidden, known.blank)
    observed, free = predicted_size(pool, known)
    expected = (blanks_shared(free_hidden(), known.blank) * free[:, None]).mean(0)[PATCH_OF_VALUE]
    values = pool.updates * (weights * pool.kept[:, None])[:, PATCH_OF_VALUE]
    control = (weights * observed[:, None])[:, PATCH_OF_VALUE]
    centred = control - control.mean(0)
    slope = (centred * values).sum(0) / centred.square().sum(0).clamp(min=1e-30)
    return (values.mean(0) - slope * (control.mean(0) - expected)) / pool.kept.mean().clamp(min=1e-9)


def confidence_ratio(pool: Pool, known: Known) -> Tensor:
    """Each patch's mean, times the size that its masks' updates should have on average over the size they should have.

    An update's size is in proportion to 1 - p, and its logarithm is nearly linear in the hidden patches. So a few masks
    tell roughly how large the updates of all masks are. Which patches came by the large ones is chance, and corrected.
    """
    weights = blanks_shared(pool.hidden, known.blank)
    observed, free = predicted_size(pool, known)
    wanted = (blanks_shared(free_hidden(), known.blank) * free[:, None]).mean(0)
    had = (weights * observed[:, None]).mean(0)
    return weighted(pool, weights) * (wanted / had.clamp(min=1e-12))[PATCH_OF_VALUE]


def unaware_of_blanks(pool: Pool, known: Known) -> Tensor:
    """The same, as it is for images in which nothing is blank."""
    return confidence_ratio(pool, replace(known, blank=torch.zeros_like(known.blank)))


def predicted_size(pool: Pool, known: Known) -> tuple[Tensor, Tensor]:
    """1 - p times the chance to be kept, from ridge regressions on the hidden patches: of these masks, and of many."""
    seen = 1 - known.blank
    answers = torch.stack([pool.doubt, pool.kept], dim=1)
    centre = answers.mean(0)
    slopes = ridge((pool.hidden - RATIO) * seen, answers - centre, penalty=2.0)

    def size(hidden: Tensor) -> Tensor:
        doubt, keep = (centre + (hidden - RATIO) * seen @ slopes).T
        return doubt.clamp(max=0).exp() * keep.clamp(0, 1)

    return size(pool.hidden), size(free_hidden())


@cache
def free_hidden() -> Tensor:
    """Masks that no model has to see."""
    return patches_of(random_masks(torch.arange(4096), GRID, mask_ratio=RATIO, seed=7))


def adjusted(pool: Pool, known: Known) -> Tensor:
    """The package's: each half's patches times how much larger they would be under all masks, see its docstring."""
    halves = [pool[torch.arange(len(pool)) // 4 % 2 == parity] for parity in (0, 1)]
    total = sum(
        plain(half, known)
        * half.kept.sum()
        * patch_factors(
            half.hidden, free_hidden(), half.doubt.exp()[:, None], half.kept[:, None] > 0, known.change[None]
        )[0][PATCH_OF_VALUE]
        for half in halves
    )
    return total / pool.kept.sum().clamp(min=1)


def patch_regression(pool: Pool, known: Known) -> Tensor:
    """Ridge regression of each pixel's update on the other hidden patches, whose means are known."""
    mean = blanks_hidden_only(pool, known)
    seen = 1 - known.blank
    for patch in seen.nonzero().flatten().tolist():
        rows = (pool.hidden[:, patch] * pool.kept).nonzero().flatten()
        if len(rows) > 2:
            values = patch == PATCH_OF_VALUE
            updates, features = pool.updates[rows][:, values], (pool.hidden[rows] - RATIO) * seen
            features[:, patch] = 0
            centre, place = updates.mean(0), features.mean(0)
            mean[values] = RATIO * (centre - place @ ridge(features - place, updates - centre, penalty=8.0))
    return mean


def both_regressions(pool: Pool, known: Known) -> Tensor:
    """The updates over their predicted size, regressed on the hidden patches; then averaged over all masks."""
    mean = confidence_ratio(pool, known)
    observed, free = predicted_size(pool, known)
    seen = 1 - known.blank
    for patch in seen.nonzero().flatten().tolist():
        rows = (pool.hidden[:, patch] * (observed > 1e-9)).nonzero().flatten()
        if len(rows) > 2:
            values, elsewhere = patch == PATCH_OF_VALUE, free_hidden()[:, patch] > 0
            size = observed[rows, None]
            updates = pool.updates[rows][:, values] * pool.kept[rows, None] / size
            features, free_features = (pool.hidden[rows] - RATIO) * seen, (free_hidden()[elsewhere] - RATIO) * seen
            centre = updates.mean(0)
            slopes = ridge(features, updates - centre, penalty=8.0)
            left = (updates - centre - features @ slopes) * size
            predicted = (centre + free_features @ slopes) * free[elsewhere, None]
            mean[values] = RATIO * (left.mean(0) + predicted.mean(0)) / pool.kept.mean().clamp(min=1e-9)
    return mean


def ridge(features: Tensor, answers: Tensor, penalty: float) -> Tensor:
    """Slopes of a ridge regression, in the form whose matrix has the smaller side."""
    if len(features) < features.shape[1]:
        return features.T @ torch.linalg.solve(features @ features.T + penalty * torch.eye(len(features)), answers)
    square = features.T @ features + penalty * torch.eye(features.shape[1])
    return torch.linalg.solve(square, features.T @ answers)


def importance(pool: Pool, known: Known, *, keep_alone: bool = False) -> Tensor:
    """The first half as a pilot; the other half drawn in proportion to the size, or the keeping, that it predicts."""
    pilot = pool[slice(len(pool) // 2)]
    doubt = torch.zeros_like(pilot.doubt) if keep_alone else pilot.doubt
    seen = 1 - known.blank
    answers = torch.stack([doubt, pilot.kept], dim=1)
    slopes = ridge((pilot.hidden - RATIO) * seen, answers - answers.mean(0), penalty=2.0)
    predicted, keep = (answers.mean(0) + (known.candidates.hidden - RATIO) * seen @ slopes).T
    chance = predicted.clamp(max=0).exp() * keep.clamp(0.05, 1)
    chance = chance / chance.mean() + 0.05
    drawn = torch.multinomial(chance, len(pool) - len(pilot), replacement=True)
    chosen = known.candidates[drawn]
    kept = torch.cat([pilot.kept, chosen.kept * chance.mean() / chance[drawn]])
    return plain(replace(pilot.joined(chosen), kept=kept), known)


METHODS: dict[str, tuple[str, Estimator]] = {
    "independent masks": ("independent", plain),
    "partitions (the package's masks, `adjust=False`)": ("partitions", plain),
    "adjusted, partitions (the package's default)": ("partitions", adjusted),
    "adjusted": ("independent", adjusted),
    "disjoint pairs": ("disjoint pairs", plain),
    "stratified over 2 x 2 patches": ("stratified", plain),
    "Sobol": ("Sobol", plain),
    "visible pixels too": ("independent", also_visible),
    "over hiding masks only": ("independent", hidden_only),
    "blank patches shared": ("independent", blanks),
    "blank patches shared, partitions": ("partitions", blanks),
    "blank patches shared, over hiding masks only, partitions": ("partitions", blanks_hidden_only),
    "importance by keep probability": ("independent", partial(importance, keep_alone=True)),
    "importance by predicted 1 - p": ("independent", importance),
    "regression on patches": ("independent", patch_regression),
    "regression on predicted 1 - p": ("independent", confidence_regression),
    "ratio to predicted 1 - p": ("independent", confidence_ratio),
    "ratio to predicted 1 - p, partitions": ("partitions", confidence_ratio),
    "ratio to predicted 1 - p, partitions, blank patches as any other": ("partitions", unaware_of_blanks),
    "ratio and regression on patches": ("independent", both_regressions),
    "ratio and regression on patches, partitions": ("partitions", both_regressions),
}


def table(found: Found) -> list[str]:
    images = range(len(found.ceilings))
    needed = {
        (method, goal): sorted(found.masks_needed(method, image, goal) for image in images)
        for method in found.correlations
        for goal in GOALS
    }
    lines = [
        "",
        f"{len(found.ceilings)} images; {100 * min(found.keep_rates):.0f} to {100 * max(found.keep_rates):.0f}% of the "
        f"masks kept; {100 * min(found.blank):.0f} to {100 * max(found.blank):.0f}% of the patches blank. Two means of "
        f"{REFERENCE:,} kept independent masks correlate {median(found.ceilings):.4f} (worst "
        f"{min(found.ceilings):.4f})."
        + (f" The targets of two images of a class correlate {median(found.mates):.2f}." if found.mates else ""),
        "",
        f"| method | masks to {GOALS[0]}: median | worst | masks to {GOALS[1]}: median | worst | share of independent, "
        f"{GOALS[0]} | mean of {REPEATS} x {BIAS_BUDGET} | its scale |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for method in found.correlations:
        cells = [pick(needed[method, goal]) for goal in GOALS for pick in (median, max)]
        independent = [found.masks_needed("independent masks", image, GOALS[0]) for image in images]
        own = [found.masks_needed(method, image, GOALS[0]) for image in images]
        shares = [mine / theirs for mine, theirs in zip(own, independent, strict=True) if math.isfinite(theirs)]
        correlations, slopes = zip(*found.bias[method], strict=True)
        lines.append(
            f"| {method} | {' | '.join(map(masks, cells))} | {median(shares):.2f} | {median(correlations):.4f} | "
            f"{median(slopes):.2f} |"
        )
    return [*lines, ""]


def masks(number: float) -> str:
    return f"{number:.0f}" if math.isfinite(number) else f"> {BUDGETS[-1]:,}"


if __name__ == "__main__":
    main()
