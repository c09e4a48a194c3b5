"""The probe: mask, update, keep if right, average, threshold, classify."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Literal, Unpack, get_args

import torch
from torch import Tensor, nn

from fitb_callbacks.models.answers import predicted
from fitb_callbacks.models.chunks import in_chunks, usual_chunk_size
from fitb_callbacks.models.logits import LogitsFn, classifier
from fitb_callbacks.models.state import preserve_model_state
from fitb_callbacks.models.volumes import folded, takes_folded
from fitb_callbacks.probing.adjustment import Adjustment
from fitb_callbacks.probing.ascent import AscentUpdate
from fitb_callbacks.probing.autotune import Plan, Tuner, tuner_for
from fitb_callbacks.probing.averaging import Average, Progress, average
from fitb_callbacks.probing.bfgs import BFGSUpdate
from fitb_callbacks.probing.fill import fill_images, put_in
from fitb_callbacks.probing.gentler import MOST_GENTLE_MASKS, with_gentler_masks
from fitb_callbacks.probing.inputs import (
    Inputs,
    channel_values,
    check_class_names,
    check_images,
    check_labels,
    device_of,
    inconspicuous_colour,
)
from fitb_callbacks.probing.judging import judged
from fitb_callbacks.probing.prior import ImagePrior
from fitb_callbacks.probing.reliance import MOST_MASKS
from fitb_callbacks.probing.result import FillInBlanksResult, without_pictures
from fitb_callbacks.probing.settings import FillName, MaskingName, Normalization, ProbeSettings, TargetName, UpdateName
from fitb_callbacks.probing.shortcuts import relies_on
from fitb_callbacks.probing.stopping import StoppingRule
from fitb_callbacks.probing.strategies import Masking, ProgressiveMasking, RandomMasking, Targets
from fitb_callbacks.probing.transform import prototype
from fitb_callbacks.probing.updates import GradientUpdate, NoUpdate, UpdateFinder, UpdateRule
from fitb_callbacks.scoring.catalogue import METRICS
from fitb_callbacks.scoring.classification import self_consistency
from fitb_callbacks.scoring.intervals import wilson_interval
from fitb_callbacks.scoring.judges.base import Judge
from fitb_callbacks.scoring.update_quality import effective_area, split_half_reliability
from fitb_callbacks.utils.devices import keep_freed_memory, seconds_on
from fitb_callbacks.utils.patch_grid import PatchGrid
from fitb_callbacks.utils.validation import (
    check_choice,
    check_integer,
    check_number,
    check_number_between,
    per_channel,
    suggest_settings,
)

__all__ = ["FillInBlanks", "Progress"]


@suggest_settings
@dataclass(frozen=True, kw_only=True)
class FillInBlanks:
    """Ask a classifier how it would fill the blanks of masked images, and what it makes of the answer.

    Each image is masked many times; masks under which the model still predicts the label are kept; the updates on the
    masked pixels, averaged over the kept masks, become the image's prototype (paper, section 4.1), which the model
    then classifies (section 4.3). Works on any module that maps images to logits, on its own device. The model is
    left exactly as it was found.

    Args:
        masking: "random" masks are independent of each other. "progressive" masks come in partitions of ``num_steps``
            masks that together hide the image (section 4.2): each part is filled in turn, in an image in which the
            earlier parts are already filled. A partition is kept if the image under its first mask, the only one with
            nothing but original pixels, is predicted as the label. The paper takes a single partition
            (``num_masks=num_steps``); the mean over several is much clearer.
        mask_ratio: Share of the patches that a random mask hides, in (0, 1). The paper's is 0.25. Progressive masks
            hide ``1 / num_steps``.
        patch_size: Side of a patch in pixels, at least 1. None takes about 14 patches on the shorter side: 2 for
            28 pixels as in the paper, 16 for 224.
        num_masks: Most masks an image, at least 1; progressive ones come in whole partitions, at least one.
        tolerance: An image gets no more masks once its mean update is known to this relative standard error, above 0:
            0.2 stands for a correlation of about 0.98 with the mean over all masks there are. It is first looked at
            after 64 masks. None gives every image ``num_masks``.
        adjust: Whether means of gradients over up to 2,048 random masks are adjusted for which masks happened to be
            drawn, see `fitb_callbacks.probing.adjustment.patch_factors`: they come as near to the mean over all masks
            as plain means over twice as many. False gives plain means, as the paper has them.
        gentler: Whether an image that the model classifies right, but under none of its random masks, gets masks of a
            half, a quarter and an eighth of ``mask_ratio``, until one is kept; ``result.mask_ratios`` says which.
        num_steps: Masks in a progressive partition, at least 1 and at most the number of patches; where they do not
            divide the patches evenly, masks differ by one patch. Random masks have no use for it.
        update: "gradient"; "bfgs" for the second-order direction (section 4.5), which takes about twice ``bfgs_steps``
            gradients a mask; or "ascent" for several steps that are shaped to look like the images, see
            `fitb_callbacks.probing.ascent`, which takes ``ascent_steps``. "none" takes forward passes only, for models
            through which no gradient passes: there are no prototypes, but what the model relies on is measured.
        bfgs_steps: Quasi-Newton steps before the direction is taken, at least 1.
        ascent_steps: Ascent steps under a mask, at least 1.
        normalize: First stage of the threshold transform (equation 4): "rms", "max_abs", "min_max", "z_score" or None,
            see `fitb_callbacks.probing.transform.threshold`. docs/thresholds.md has what speaks for the default.
        binarize: Second stage: pixels whose normalized update is above this number become ``high``, the others
            ``low``; None shows the positive part of the normalized update itself. The paper binarises, and does not
            say where.
        fill: "ascent" also fills every image in until no original pixel is left, by 84 gradients an image, see
            `fitb_callbacks.probing.fill`: ``result.filled``. None leaves that out.
        baseline: Value of a masked pixel in the model's input space, one number or one a channel. None takes each
            channel's median, or ``low`` where a quarter of the pixels have the lowest value, like the background of
            digits. "low" is the paper's: black for most images, also when they are normalised.
        low: Value of a binarised pixel that is off, one number or one a channel. None takes each channel's lowest
            value in the images.
        high: Value of a binarised pixel that is on. None takes each channel's highest value in the images.
        target: "label" fills for the given labels; "predicted" fills for the label that the model predicts for the
            unmasked image, so no labels are needed. Either way a mask is kept if the masked image is predicted as
            that label.
        seed: Of the masks, an integer in [0, 2**32).
        chunk_size: Masked images that go through the model at once, at least 1. None finds out, in the first probes of
            a model, what is fastest, also in channels-last format. The numbers depend on either only by rounding; a
            number here makes them the same to the last bit in every process. Memory depends on it, but not on the
            number of masks.

    Raises:
        ValueError: If a value is out of range; the error names the argument, the value and what is allowed.
        TypeError: If a value has the wrong type.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 10))
        >>> result = FillInBlanks(num_masks=16).probe(model, torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 3]))
        >>> result.updates.shape, sorted(result.metrics)[:4]
        (torch.Size([4, 3, 8, 8]), ['accuracy', 'accuracy_all', 'area', 'class_place'])
    """

    masking: MaskingName = "random"
    mask_ratio: float = 0.25
    patch_size: int | None = None
    num_masks: int = 256
    tolerance: float | None = 0.2
    adjust: bool = True
    gentler: bool = True
    num_steps: int = 4
    update: UpdateName = "gradient"
    bfgs_steps: int = 3
    ascent_steps: int = 16
    normalize: Normalization | None = "rms"
    binarize: float | None = None
    fill: FillName | None = "ascent"
    baseline: float | Sequence[float] | Literal["low"] | None = None
    low: float | Sequence[float] | None = None
    high: float | Sequence[float] | None = None
    target: TargetName = "label"
    seed: int = 0
    chunk_size: int | None = None

    def __post_init__(self) -> None:
        check_choice("masking", self.masking, get_args(MaskingName))
        check_number_between("mask_ratio", self.mask_ratio, 0, 1)
        if self.patch_size is not None:
            check_integer("patch_size", self.patch_size, at_least=1)
        check_integer("num_masks", self.num_masks, at_least=1)
        if self.tolerance is not None:
            check_number_between("tolerance", self.tolerance, 0, math.inf)
        check_choice("adjust", self.adjust, (True, False))
        check_choice("gentler", self.gentler, (True, False))
        check_integer("num_steps", self.num_steps, at_least=1)
        check_choice("update", self.update, get_args(UpdateName))
        check_integer("bfgs_steps", self.bfgs_steps, at_least=1)
        check_choice("normalize", self.normalize, (*get_args(Normalization), None))
        if self.binarize is not None:
            check_number("binarize", self.binarize)
        check_integer("ascent_steps", self.ascent_steps, at_least=1)
        check_choice("fill", self.fill, (*get_args(FillName), None))
        for name in ("baseline", "low", "high"):
            if (name, getattr(self, name)) != ("baseline", "low"):
                object.__setattr__(self, name, per_channel(name, getattr(self, name)))
        check_choice("target", self.target, get_args(TargetName))
        check_integer("seed", self.seed, at_least=0, at_most=2**32 - 1)
        if self.chunk_size is not None:
            check_integer("chunk_size", self.chunk_size, at_least=1)

    @classmethod
    def paper(cls, **settings: Unpack[ProbeSettings]) -> FillInBlanks:
        """The probe as section 4 of the paper has it: black baseline, plain means over all masks, and nothing else.

        Args:
            settings: What should differ from that, by the names of `FillInBlanks`: the paper's 10,000 masks, its
                progressive masks, its threshold.

        Example:
            >>> probe = FillInBlanks.paper(num_masks=10_000)
            >>> probe.baseline, probe.fill, probe.tolerance, probe.adjust, probe.gentler
            ('low', None, None, False, False)
        """
        plain: ProbeSettings = {
            "baseline": "low",
            "fill": None,
            "tolerance": None,
            "adjust": False,
            "gentler": False,
        }
        plain.update(settings)
        return cls(**plain)

    def probe(  # noqa: PLR0913 - what to probe is separate from how, which is in the fields
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor | None = None,
        *,
        logits_fn: LogitsFn | None = None,
        class_names: Sequence[str] | None = None,
        judge: Judge | None = None,
        share: tuple[int, int] = (0, 1),
        seconds: float | None = None,
        progress: Progress | None = None,
    ) -> FillInBlanksResult:
        """Probe a model on some images.

        Args:
            model: Any classifier. It is put in evaluation mode for the probe and left as it was found.
            images: Shape ``(N, C, H, W)``, in the model's input space. Integer images become float32. Volumes
                ``(N, C, D, H, W)`` are probed with their slices as channels, see `fitb_callbacks.models.volumes`.
            labels: Integers in [0, classes), shape ``(N,)``. Not needed with ``target="predicted"``.
            logits_fn: ``logits_fn(model, images)`` returns logits ``(B, classes)``, for models from whose output they
                cannot be found (see `fitb_callbacks.models.logits.find_logits`).
            class_names: One name a class, for the figure.
            judge: Who classifies the prototypes in the model's place, see `fitb_callbacks.scoring.judges`; adds its
                scores.
            share: This process's rank and the number of processes. With more than one, each takes its share of the
                masks and all end with the same result; every process has to call this with the same images.
            seconds: Time limit for the masks: images get no more when it is used up. The first 64, or partitions of as
                many, are always made. ``result.tried`` says how many there were, ``result.out_of_time`` whether that
                was for lack of time.
            progress: ``progress(done, total)`` is called every few chunks, with numbers of images times masks, or
                times partitions. It does not wait for a GPU.

        Returns:
            The prototypes, updates and scores.

        Raises:
            TypeError: If images, labels or the model's output are of the wrong type; the error says what was found.
            ValueError: If shapes or values are wrong: labels outside the classes, a patch larger than the image, a
                judge for other images or classes.
        """
        depth, images, logits_fn = _as_images(images, logits_fn)
        judge = judge if judge is None or depth is None else judge.of_volumes(depth)
        with preserve_model_state(model):
            inputs = self._check(model, images, labels, logits_fn)
            check_class_names(class_names, inputs.num_classes)
            if judge is not None:
                judge.check(tuple(inputs.images.shape[1:]), inputs.num_classes)

            tuner = None if self.chunk_size is not None else tuner_for(model, inputs.images, logits_fn)
            averaged, plan = self._average(inputs, tuner, share=share, seconds=seconds, progress=progress)
            in_format = replace(inputs, classify=lambda images: inputs.classify(plan.formatted(images)))
            relied = relies_on(
                in_format,
                num_masks=self._reliance_masks(),
                seed=self.seed,
                chunk_size=plan.chunk_size,
                reference=None if judge is None else judge.reference,
            )
            averaged, mask_ratios = self._gentler(inputs, averaged, tuner, share)
            prototypes, predictions = self._prototypes(inputs, averaged.mean, averaged.covered, plan)
            fills = self.fill is not None and self.update != "none"
            fill: dict[str, Any] = self._filled(inputs, plan, share) if fills else {}
        result = self._score(inputs, averaged, prototypes, predictions, class_names)
        result = replace(
            result,
            metrics={**result.metrics, **relied.metrics},
            intervals={**result.intervals, **relied.intervals},
            reliance=relied.maps,
            image_predictions=relied.predictions,
            mask_ratios=mask_ratios,
            settings=result.settings if depth is None else {**result.settings, "depth": depth},
            **fill,
        )
        if self.update == "none":
            return without_pictures(result)
        return result if judge is None else judged(result, judge)

    def check(self, model: nn.Module, images: Tensor, *, logits_fn: LogitsFn | None = None) -> int:
        """Find updates for what the model sees in some images, and nothing else: can it be probed at all?

        Args:
            model: As for `probe`.
            images: As for `probe`.
            logits_fn: As for `probe`.

        Returns:
            Its number of classes.

        Raises:
            TypeError: As `probe` does.
            ValueError: As `probe` does.

        Example:
            >>> import torch
            >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
            >>> FillInBlanks(num_masks=1).check(model, torch.rand(2, 1, 8, 8))
            3
        """
        _, images, logits_fn = _as_images(images, logits_fn)
        with preserve_model_state(model):
            plain = replace(self, target="predicted", chunk_size=self.chunk_size or usual_chunk_size(images))
            inputs = plain._check(model, images, None, logits_fn)
            plain._average(inputs, None, share=(0, 1), seconds=None, progress=None)
        return inputs.num_classes

    def _check(self, model: nn.Module, images: Tensor, labels: Tensor | None, logits_fn: LogitsFn | None) -> Inputs:
        """Step 1: check what was given, and resolve defaults."""
        images = check_images(images)
        grid, low, high, baseline = self.patch_grid(images), *self._values(images)
        # A copy is a normal tensor even under inference mode.
        images = images.detach().to(device_of(model, default=images.device), copy=True)
        classify = classifier(model, logits_fn)
        logits = in_chunks(classify, images, self.chunk_size)
        if self.target == "predicted":
            labels = predicted(logits)
        return Inputs(
            classify=classify,
            images=images,
            labels=check_labels(labels, images, num_classes=logits.shape[1]),
            grid=grid,
            low=low.to(images),
            high=high.to(images),
            baseline=baseline.to(images),
            num_classes=logits.shape[1],
            independent=logits.ndim == 3,
        )

    def _average(
        self,
        inputs: Inputs,
        tuner: Tuner | None,
        *,
        share: tuple[int, int],
        seconds: float | None,
        progress: Progress | None,
    ) -> tuple[Average, Plan]:
        """Step 2: find the updates under all masks, and average those that are kept."""
        started = seconds_on(inputs.images.device)
        keep_freed_memory(inputs.images.device)
        masking, rule = self._masking(inputs), self._rule(inputs)
        adjustment = None
        if self.adjust and self.masking == "random" and rule.proportional_to_doubt:
            adjustment = Adjustment.for_images(inputs.images, baseline=inputs.baseline, grid=inputs.grid)
        stopping = StoppingRule(
            num_updates=self._num_updates(),
            round_length=masking.round_length,
            masks_per_update=masking.masks_per_update,
            tolerance=None if self.update == "none" else self.tolerance,  # nothing that could be known better
            seconds=seconds,
        )
        plan = tuner.best if tuner is not None else Plan(self.chunk_size or usual_chunk_size(inputs.images))
        finder = UpdateFinder(rule, inputs.classify, plan, tuner)
        averaged = average(masking, finder, stopping, adjustment, share=share, started=started, progress=progress)
        return averaged, tuner.best if tuner is not None else plan

    def _gentler(
        self, inputs: Inputs, averaged: Average, tuner: Tuner | None, share: tuple[int, int]
    ) -> tuple[Average, Tensor | None]:
        """The average with gentler masks where all others failed, and the ratio of each image's masks."""
        if self.masking != "random":
            return averaged, None
        if not self.gentler or self.update == "none":
            return averaged, torch.full((len(inputs.labels),), self.mask_ratio)

        def average_again(some: Inputs, ratio: float) -> Average:
            fewer = replace(self, mask_ratio=ratio, num_masks=min(self.num_masks, MOST_GENTLE_MASKS))
            return fewer._average(some, tuner, share=share, seconds=None, progress=None)[0]

        return with_gentler_masks(inputs, averaged, average_again, mask_ratio=self.mask_ratio, num_processes=share[1])

    def _prototypes(self, inputs: Inputs, updates: Tensor, covered: Tensor, plan: Plan) -> tuple[Tensor, Tensor]:
        """Step 3: turn the mean updates into images, and ask the model what it sees in them."""
        prototypes = torch.where(covered[:, None, None, None], self._transform(updates, inputs), inputs.baseline)
        prototypes = prototypes.to(inputs.images.dtype)  # a model in half precision takes nothing else
        logits = in_chunks(inputs.classify, plan.formatted(prototypes), plan.chunk_size)
        return prototypes, predicted(logits, inputs.labels).where(covered, -1)

    def _filled(self, inputs: Inputs, plan: Plan, share: tuple[int, int]) -> dict[str, Tensor]:
        """The images filled in, and what the model sees in them: fields of the result."""
        steps = fill_images(inputs, plan, seed=self.seed, share=share)
        filled = steps[:, -1]
        logits = in_chunks(inputs.classify, plan.formatted(filled), plan.chunk_size)
        fields = {"filled": filled, "fill_steps": steps, "fill_predictions": predicted(logits, inputs.labels)}
        return {name: tensor.cpu() for name, tensor in fields.items()}

    def _score(
        self,
        inputs: Inputs,
        averaged: Average,
        prototypes: Tensor,
        predictions: Tensor,
        class_names: Sequence[str] | None,
    ) -> FillInBlanksResult:
        """Step 4: put everything into numbers, on the CPU."""
        moments, update, covered = averaged.moments, averaged.mean, averaged.covered
        tried = averaged.num_updates * averaged.masking.masks_per_update
        reliability = split_half_reliability(*averaged.means)
        rates = self_consistency(predictions, inputs.labels, covered, num_classes=inputs.num_classes)
        metrics = {
            **rates,
            "area": effective_area(update[covered]).mean().item(),
            "reliability": reliability.nanmean().item(),
            "nonfinite": moments.nonfinite.sum().item() / averaged.num_updates.sum().item(),
        }
        resolved: dict[str, Any] = {"patch_size": inputs.grid.patch_size, "num_classes": inputs.num_classes}
        if inputs.independent:
            resolved["independent"] = True
        if averaged.out_of_time:
            resolved["num_masks"] = int(tried.max())
        values = {name: getattr(inputs, name).flatten().tolist() for name in ("low", "high", "baseline")}
        return FillInBlanksResult(
            images=inputs.images.cpu(),
            labels=inputs.labels.cpu(),
            updates=update.cpu(),
            prototypes=prototypes.cpu(),
            predictions=predictions.cpu(),
            kept=moments.count.long().cpu(),
            standard_error=averaged.standard_error.cpu(),
            reliability=reliability.cpu(),
            tried=tried.cpu(),
            out_of_time=averaged.out_of_time,
            metrics=metrics,
            intervals=_intervals(rates, covered),
            settings=asdict(self) | resolved | values,
            class_names=None if class_names is None else tuple(map(str, class_names)),
            steps=None if averaged.steps is None else averaged.steps.cpu(),
        )

    def threshold_again(
        self, model: nn.Module, result: FillInBlanksResult, *, logits_fn: LogitsFn | None = None
    ) -> FillInBlanksResult:
        """What a probe of random masks would have found with this one's ``normalize`` and ``binarize``.

        The updates are those of the result, so this costs one classification of the prototypes. The model must be the
        one that was probed. A judge's scores are left out; `fitb_callbacks.probing.judging.judged` makes them anew.

        Args:
            model: As for `probe`.
            result: Of random masks, with settings that differ from these in ``normalize`` and ``binarize`` alone.
            logits_fn: As for `probe`.

        Raises:
            ValueError: If the result is of progressive masks, where the transform has a part in the updates.
        """
        if result.steps is not None:
            raise ValueError('result must be of masking="random"; got one of progressive masks')
        images = result.images.to(device_of(model, default=result.images.device))
        logits_fn = logits_fn if result.depth is None else takes_folded(logits_fn, result.depth)
        low, high, baseline = self._values(images)
        inputs = Inputs(
            classify=classifier(model, logits_fn),
            images=images,
            labels=result.labels.to(images.device),
            grid=self.patch_grid(images),
            low=low,
            high=high,
            baseline=baseline,
            num_classes=int(result.settings["num_classes"]),
        )
        covered = result.covered.to(images.device)
        with preserve_model_state(model):
            plan = Plan(self.chunk_size or usual_chunk_size(images))
            prototypes, predictions = self._prototypes(inputs, result.updates.to(images.device), covered, plan)
        rates = self_consistency(predictions, inputs.labels, covered, num_classes=inputs.num_classes)
        return replace(
            result,
            prototypes=prototypes.cpu(),
            predictions=predictions.cpu(),
            judged=None,
            judge_ranks=None,
            metrics={name: value for name, value in result.metrics.items() if not METRICS[name].needs_judge} | rates,
            intervals=_intervals(rates, covered),
            settings={**result.settings, "normalize": self.normalize, "binarize": self.binarize},
        )

    def patch_grid(self, images: Tensor) -> PatchGrid:
        """The patches of images ``(N, C, H, W)``.

        Raises:
            ValueError: If a patch is larger than the images, there is only one, or there are fewer than ``num_steps``.
        """
        height, width = images.shape[-2:]
        if self.patch_size is not None and self.patch_size > min(height, width):
            raise ValueError(
                f"patch_size must be at most {min(height, width)}, the shorter side of these images of "
                f"{height} x {width} pixels; got {self.patch_size}"
            )
        grid = PatchGrid.for_images(images, self.patch_size)
        if grid.num_patches < 2:
            raise ValueError(
                f"patch_size must leave at least 2 patches in images of {height} x {width} pixels; "
                f"got {grid.patch_size}"
            )
        if self.masking == "progressive" and self.num_steps > grid.num_patches:
            raise ValueError(
                f"num_steps must be at most {grid.num_patches}, the number of patches of {grid.patch_size} pixels in "
                f"images of {height} x {width}; got {self.num_steps}"
            )
        return grid

    def _masking(self, inputs: Inputs) -> Masking:
        targets = Targets(inputs.images, inputs.labels, inputs.baseline, inputs.grid, self.seed)
        if self.masking == "random":
            return RandomMasking(targets, self.mask_ratio)
        if self.update == "ascent":  # its updates are pixel values already
            return ProgressiveMasking(targets, self.num_steps, fill=partial(put_in, inputs))
        return ProgressiveMasking(targets, self.num_steps, fill=lambda update: self._transform(update, inputs))

    def _rule(self, inputs: Inputs) -> UpdateRule:
        if self.update == "bfgs":
            return BFGSUpdate(self.bfgs_steps)
        if self.update == "ascent":
            prior, weighted = ImagePrior.from_images(inputs.images), self.masking == "random"
            steps, seed = self.ascent_steps, self.seed
            return AscentUpdate(prior, inputs.low, inputs.high, num_steps=steps, weighted=weighted, seed=seed)
        return GradientUpdate() if self.update == "gradient" else NoUpdate()

    def _num_updates(self) -> int:
        """Updates of an image, kept or not: one a random mask, or one a partition."""
        return self.num_masks if self.masking == "random" else max(1, self.num_masks // self.num_steps)

    def _reliance_masks(self) -> int:
        """Masks that tell where the model looks; progressive ones are about what it knows beside that."""
        return min(self.num_masks, MOST_MASKS) if self.masking == "random" else 0

    def _values(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Low, high and baseline as tensors (C, 1, 1)."""
        low = channel_values("low", self.low, images, default=images.amin(dim=(0, 2, 3)))
        high = channel_values("high", self.high, images, default=images.amax(dim=(0, 2, 3)))
        if (low > high).any():
            raise ValueError(
                f"low must not be greater than high; got {low.flatten().tolist()} and {high.flatten().tolist()}"
            )
        if self.baseline == "low":
            return low, high, low
        return low, high, channel_values("baseline", self.baseline, images, default=inconspicuous_colour(images, low))

    def _transform(self, update: Tensor, inputs: Inputs) -> Tensor:
        """The threshold transform of equation 4."""
        return prototype(
            update.to(inputs.low.dtype),
            low=inputs.low,
            high=inputs.high,
            baseline=inputs.baseline,
            normalize=self.normalize,
            binarize=self.binarize,
        )


def _as_images(images: Tensor, logits_fn: LogitsFn | None) -> tuple[int | None, Tensor, LogitsFn | None]:
    """Of volumes their depth, their slices as channels, and logits of these; of images None and what was given."""
    if not isinstance(images, Tensor) or images.ndim != 5:
        return None, images, logits_fn
    depth = images.shape[2]
    return depth, folded(images), takes_folded(logits_fn, depth)


def _intervals(rates: dict[str, float], covered: Tensor) -> dict[str, tuple[float, float]]:
    """95% intervals of those scores that are rates."""
    numbers = {"accuracy": int(covered.sum()), "accuracy_all": len(covered), "coverage": len(covered)}
    return {name: wilson_interval(rates[name], number) for name, number in numbers.items()}
