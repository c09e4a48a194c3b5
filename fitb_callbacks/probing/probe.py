"""The probe: mask, update, keep if right, average, threshold, classify."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from fitb_callbacks.models.logits import Classify, LogitsFn, classifier
from fitb_callbacks.models.state import preserve_model_state
from fitb_callbacks.probing.adjustment import Adjustment
from fitb_callbacks.probing.autotune import Plan, fastest_plan
from fitb_callbacks.probing.averaging import AddUpdates, Progress, average
from fitb_callbacks.probing.bfgs import bfgs_update
from fitb_callbacks.probing.chunks import block_of, in_chunks, masks_together, usual_chunk_size
from fitb_callbacks.probing.judging import judged
from fitb_callbacks.probing.masks import default_patch_size, masks_per_round, partition_masks, random_masks
from fitb_callbacks.probing.moments import Moments
from fitb_callbacks.probing.progressive import fill_progressively
from fitb_callbacks.probing.result import FillInBlanksResult
from fitb_callbacks.probing.transform import NORMALIZATIONS, prototype
from fitb_callbacks.probing.updates import gradient_update
from fitb_callbacks.scoring.catalogue import METRICS
from fitb_callbacks.scoring.classification import self_consistency
from fitb_callbacks.scoring.intervals import wilson_interval
from fitb_callbacks.scoring.judges.base import Judge
from fitb_callbacks.scoring.update_quality import effective_area, split_half_reliability
from fitb_callbacks.utils.devices import keep_freed_memory, seconds_on
from fitb_callbacks.utils.distributed import confirm
from fitb_callbacks.utils.messages import describe
from fitb_callbacks.utils.validation import check_choice, check_integer, check_number, check_number_between, per_channel

__all__ = ["FillInBlanks", "Progress"]

_FindUpdate = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor | None]]
"""Masked images, labels and visible pixels to the update on the masked pixels, the predictions, and the doubts if the
updates are in proportion to them. Of B images and M masks, each B / M consecutive images share a mask."""

_BLOCK = 2**18
"""Values of masked images that are made at a time, if they are of several chunks: 1 MiB in single precision."""

_Adder = Callable[[_FindUpdate], AddUpdates]
"""What adds the updates that are found in some way."""


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
        adjust: Whether the luck of the draw is taken out of the means of gradients under up to 2,048 random masks, see
            `fitb_callbacks.probing.adjustment.patch_factors`: they come as near to the mean over all masks as plain ones
            over twice as many. False gives plain means, as the paper has them.
        num_steps: Masks in a progressive partition, at least 1 and at most the number of patches; where they do not
            divide the patches evenly, masks differ by one patch. Random masks have no use for it.
        update: "gradient", or "bfgs" for the second-order direction (section 4.5), which takes about twice
            ``bfgs_steps`` gradients a mask.
        bfgs_steps: Quasi-Newton steps before the direction is taken, at least 1.
        normalize: First stage of the threshold transform (equation 4): "rms", "max_abs", "min_max", "z_score" or None,
            see `fitb_callbacks.probing.transform.threshold`. docs/thresholds.md has what speaks for the default.
        binarize: Second stage: pixels whose normalized update is above this number become ``high``, the others
            ``low``; None shows the positive part of the normalized update itself. The paper binarises, and does not
            say where.
        baseline: Value of a masked pixel in the model's input space, one number or one a channel. None takes ``low``:
            black, for most images, also when they are normalised by mean and standard deviation.
        low: Value of a binarised pixel that is off, one number or one a channel. None takes each channel's lowest
            value in the images.
        high: Value of a binarised pixel that is on. None takes each channel's highest value in the images.
        target: "label" fills for the given labels; "predicted" fills for the label that the model predicts for the
            unmasked image, so no labels are needed. Either way a mask is kept if the masked image is predicted as
            that label.
        seed: Of the masks, an integer in [0, 2**32).
        chunk_size: Masked images that go through the model at once, at least 1. None tries, in the first long probe
            of a model, what is fastest, also in channels-last format. The numbers depend on either only by rounding;
            a number here makes them the same to the last bit in every process. Memory depends on it, but not on the
            number of masks.

    Raises:
        ValueError: If a value is out of range; the error names the argument, the value and what is allowed.
        TypeError: If a value has the wrong type.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 10))
        >>> result = FillInBlanks(num_masks=16).probe(model, torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 3]))
        >>> result.updates.shape, sorted(result.metrics)[:4]
        (torch.Size([4, 3, 8, 8]), ['accuracy', 'accuracy_all', 'area', 'coverage'])
    """

    masking: str = "random"
    mask_ratio: float = 0.25
    patch_size: int | None = None
    num_masks: int = 256
    tolerance: float | None = 0.2
    adjust: bool = True
    num_steps: int = 4
    update: str = "gradient"
    bfgs_steps: int = 3
    normalize: str | None = "rms"
    binarize: float | None = None
    baseline: float | Sequence[float] | None = None
    low: float | Sequence[float] | None = None
    high: float | Sequence[float] | None = None
    target: str = "label"
    seed: int = 0
    chunk_size: int | None = None

    def __post_init__(self) -> None:
        check_choice("masking", self.masking, ("random", "progressive"))
        check_number_between("mask_ratio", self.mask_ratio, 0, 1)
        if self.patch_size is not None:
            check_integer("patch_size", self.patch_size, at_least=1)
        check_integer("num_masks", self.num_masks, at_least=1)
        if self.tolerance is not None:
            check_number_between("tolerance", self.tolerance, 0, math.inf)
        check_choice("adjust", self.adjust, (True, False))
        check_integer("num_steps", self.num_steps, at_least=1)
        check_choice("update", self.update, ("gradient", "bfgs"))
        check_integer("bfgs_steps", self.bfgs_steps, at_least=1)
        check_choice("normalize", self.normalize, (*NORMALIZATIONS, None))
        if self.binarize is not None:
            check_number("binarize", self.binarize)
        for name in ("baseline", "low", "high"):
            object.__setattr__(self, name, per_channel(name, getattr(self, name)))
        check_choice("target", self.target, ("label", "predicted"))
        check_integer("seed", self.seed, at_least=0, at_most=2**32 - 1)
        if self.chunk_size is not None:
            check_integer("chunk_size", self.chunk_size, at_least=1)

    def probe(
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
            images: Shape ``(N, C, H, W)``, in the model's input space. Integer images become float32.
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
        images = _checked_images(images)
        device = _device_of(model, default=images.device)
        patch_size = self.resolved_patch_size(images)
        low, high, baseline = self._values(images)
        with preserve_model_state(model):
            classify = classifier(model, logits_fn)
            images = images.detach().to(device, copy=True)  # a copy is a normal tensor even under inference mode
            low, high, baseline = low.to(images), high.to(images), baseline.to(images)
            logits = in_chunks(classify, images, self.chunk_size or usual_chunk_size(images))
            if self.target == "predicted":
                labels = logits.argmax(dim=1)
            labels = _checked_labels(labels, images, num_classes=logits.shape[1])
            if judge is not None:
                judge.check(tuple(images.shape[1:]), logits.shape[1])
            if class_names is not None and len(class_names) != logits.shape[1]:
                raise ValueError(f"class_names must hold {logits.shape[1]} names, one a class; got {len(class_names)}")

            fill = partial(self._fill, low=low, high=high, baseline=baseline)
            asked = _Question(images, labels, baseline, patch_size)
            steps, adjustment = None, None
            prepare: Callable[[Tensor], Tensor]
            adder: _Adder
            if self.masking == "random":
                prepare = partial(self._shown, asked)
                adder = partial(partial, self._add_random, asked)
                if self.adjust and self.update == "gradient":
                    adjustment = Adjustment.of(
                        images, baseline=baseline, patch_size=patch_size, visible=partial(self._visible, asked)
                    )
            else:
                prepare = torch.clone  # partitions are made block by block: nothing is gained by doing it before
                steps = images.new_zeros(len(images), self.num_steps, *images.shape[1:])
                adder = partial(partial, self._add_progressive, asked, fill, steps)
            started = seconds_on(device)
            keep_freed_memory(device)
            plan = self._plan(model, logits_fn, prepare, adder, images, num_ranks=share[1], seconds=seconds)
            averaged = average(
                prepare,
                adder(partial(self._find_update, classify, plan)),
                images,
                num_masks=self._num_updates(),
                masks_per_round=self._updates_per_round(images, patch_size),
                masks_per_index=self.num_steps if steps is not None else 1,
                block_size=self._block_size(plan, images),
                adjustment=adjustment,
                share=share,
                tolerance=self.tolerance,
                seconds=seconds,
                started=started,
                progress=progress,
            )
            if steps is not None and share[1] > 1:
                confirm()
                torch.distributed.all_reduce(steps)  # partition 0 is one rank's; the others hold zeros
            reliability = split_half_reliability(*averaged.means)
            update = averaged.mean
            moments = averaged.halves[0].merged(averaged.halves[1])
            covered = moments.count > 0
            prototypes = torch.where(covered[:, None, None, None], fill(update), baseline)
            predictions = in_chunks(classify, plan.formatted(prototypes), plan.chunk_size).argmax(dim=1)
            predictions = predictions.where(covered, -1)

        resolved = {"patch_size": patch_size, "low": low, "high": high, "baseline": baseline}
        if averaged.out_of_time:
            resolved["num_masks"] = int(averaged.tried.max())
        metrics = self_consistency(predictions, labels, covered, num_classes=logits.shape[1])
        updates = averaged.tried.sum().item() / (1 if steps is None else self.num_steps)
        result = FillInBlanksResult(
            images=images.cpu(),
            labels=labels.cpu(),
            updates=update.cpu(),
            prototypes=prototypes.cpu(),
            predictions=predictions.cpu(),
            kept=moments.count.long().cpu(),
            standard_error=averaged.standard_error.cpu(),
            reliability=reliability.cpu(),
            tried=averaged.tried.cpu(),
            out_of_time=averaged.out_of_time,
            metrics={
                **metrics,
                "area": effective_area(update[covered]).mean().item(),
                "reliability": reliability.nanmean().item(),
                "nonfinite": moments.nonfinite.sum().item() / updates,
            },
            intervals=_intervals(metrics, covered),
            settings=asdict(self)
            | {key: value.flatten().tolist() if isinstance(value, Tensor) else value for key, value in resolved.items()}
            | {"num_classes": logits.shape[1]},
            class_names=None if class_names is None else tuple(map(str, class_names)),
            steps=None if steps is None else steps.cpu(),
        )
        return result if judge is None else judged(result, judge)

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
        device = _device_of(model, default=result.images.device)
        images = result.images.to(device)
        low, high, baseline = self._values(images)
        covered = result.covered.to(device)
        with preserve_model_state(model):
            filled = self._fill(result.updates.to(device), low=low, high=high, baseline=baseline)
            prototypes = torch.where(covered[:, None, None, None], filled, baseline)
            logits = in_chunks(classifier(model, logits_fn), prototypes, self.chunk_size or usual_chunk_size(images))
            predictions = logits.argmax(dim=1).where(covered, -1)
        scores = self_consistency(predictions, result.labels.to(device), covered, num_classes=logits.shape[1])
        return replace(
            result,
            prototypes=prototypes.cpu(),
            predictions=predictions.cpu(),
            judged=None,
            metrics={name: value for name, value in result.metrics.items() if not METRICS[name].needs_judge} | scores,
            intervals=_intervals(scores, covered),
            settings={**result.settings, "normalize": self.normalize, "binarize": self.binarize},
        )

    def _fill(self, update: Tensor, *, low: Tensor, high: Tensor, baseline: Tensor) -> Tensor:
        return prototype(
            update.to(low.dtype),
            low=low,
            high=high,
            baseline=baseline,
            normalize=self.normalize,
            binarize=self.binarize,
        )

    def resolved_patch_size(self, images: Tensor) -> int:
        """The patch size in pixels for images ``(N, C, H, W)``; raises ValueError if it is larger than they are."""
        height, width = images.shape[-2:]
        if self.patch_size is not None and self.patch_size > min(height, width):
            raise ValueError(
                f"patch_size must be at most {min(height, width)}, the shorter side of these images of "
                f"{height} x {width} pixels; got {self.patch_size}"
            )
        patch_size = self.patch_size or default_patch_size(height, width)
        num_patches = -(-height // patch_size) * -(-width // patch_size)
        if num_patches < 2:
            raise ValueError(
                f"patch_size must leave at least 2 patches in images of {height} x {width} pixels; got {patch_size}"
            )
        if self.masking == "progressive" and self.num_steps > num_patches:
            raise ValueError(
                f"num_steps must be at most {num_patches}, the number of patches of {patch_size} pixels in images of "
                f"{height} x {width}; got {self.num_steps}"
            )
        return patch_size

    def _num_updates(self) -> int:
        """Updates of an image, kept or not: one a random mask, or one a partition."""
        return self.num_masks if self.masking == "random" else max(1, self.num_masks // self.num_steps)

    def _values(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Low, high and baseline as tensors (C, 1, 1)."""
        low = _channel_values("low", self.low, images, default=images.amin(dim=(0, 2, 3)))
        high = _channel_values("high", self.high, images, default=images.amax(dim=(0, 2, 3)))
        if (low > high).any():
            raise ValueError(
                f"low must not be greater than high; got {low.flatten().tolist()} and {high.flatten().tolist()}"
            )
        return low, high, _channel_values("baseline", self.baseline, images, default=low)

    def _updates_per_round(self, images: Tensor, patch_size: int) -> int:
        """How many consecutive updates depend on each other."""
        if self.masking == "progressive":
            return 1
        height, width = images.shape[-2:]
        return masks_per_round(height=height, width=width, patch_size=patch_size, mask_ratio=self.mask_ratio)

    def _plan(
        self,
        model: nn.Module,
        logits_fn: LogitsFn | None,
        prepare: Callable[[Tensor], Tensor],
        adder: _Adder,
        images: Tensor,
        *,
        num_ranks: int,
        seconds: float | None,
    ) -> Plan:
        """How the masked images go through the model: what is fastest, unless the chunk size is given."""
        if self.chunk_size is not None:
            return Plan(self.chunk_size)
        classify = classifier(model, logits_fn)
        every = torch.arange(self._num_updates(), device=images.device)

        def attempt(plan: Plan) -> tuple[int, Tensor]:
            together = masks_together(len(images), plan.chunk_size)
            indices, rows = block_of(every[:together], len(images), plan.chunk_size)
            moments = Moments.of(images[rows])
            add = adder(partial(self._find_update, classify, plan))
            add(moments, prepare(indices), torch.arange(rows.stop, device=images.device), rows)
            return len(indices) * int(rows.stop), moments.mean

        return fastest_plan(
            model,
            images,
            attempt,
            planned=self._num_updates() * len(images) // num_ranks,
            seconds=seconds,
            logits_fn=logits_fn,
        )

    def _block_size(self, plan: Plan, images: Tensor) -> int:
        """How many masked images are made and averaged at a time: several small chunks, as each time costs as much."""
        if self.masking != "random" or self.update != "gradient":
            return plan.chunk_size
        return max(1, _BLOCK // (plan.chunk_size * images[0].numel())) * plan.chunk_size

    def _find_update(
        self, classify: Classify, plan: Plan, masked: Tensor, labels: Tensor, visible: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """See `_FindUpdate`."""
        each = len(masked) // len(visible)
        if self.update == "bfgs":
            visible = visible.bool().repeat_interleave(each, dim=0)
            in_format = lambda images: classify(plan.formatted(images))  # noqa: E731
            return *bfgs_update(in_format, masked, labels, visible, num_steps=self.bfgs_steps), None
        masked = plan.formatted(masked)
        update, predicted, doubt = gradient_update(classify, masked, labels, chunk_size=plan.chunk_size)
        # Less itself where visible, not a choice: it takes half the time, and what is not finite stays so and is
        # not kept.
        blocks = update.unflatten(0, (-1, each))
        blocks.addcmul_(blocks, visible[:, None].to(update.dtype), value=-1)
        return update, predicted, doubt

    def _shown(self, asked: _Question, indices: Tensor) -> Tensor:
        """Random masks as factors, 1 where visible and 0 where masked, shape ``(K, 1, 1, H, W)``."""
        return self._visible(asked, indices)[:, None, None].to(asked.images.dtype)

    def _visible(self, asked: _Question, indices: Tensor) -> Tensor:
        """Visible pixels of random masks, boolean, shape ``(K, H, W)``."""
        height, width = asked.images.shape[-2:]
        return random_masks(
            indices,
            height=height,
            width=width,
            patch_size=asked.patch_size,
            mask_ratio=self.mask_ratio,
            seed=self.seed,
        )

    def _add_random(
        self, asked: _Question, find_update: _FindUpdate, moments: Moments, shown: Tensor, of: Tensor, rows: slice
    ) -> tuple[Tensor, Tensor] | None:
        """Updates under random masks."""
        images, labels = asked.images[of], asked.labels[of]
        masked = torch.lerp(asked.baseline, images, shown)  # exact at 0 and 1, and faster than a choice
        block = masked.shape[:2]
        update, predicted, doubt = find_update(masked.flatten(0, 1), labels.repeat(block[0]), shown[:, 0])
        kept = moments.add(update.unflatten(0, block), predicted.view(block) == labels, rows)
        return None if doubt is None else (doubt.view(block), kept)

    def _add_progressive(
        self,
        asked: _Question,
        fill: Callable[[Tensor], Tensor],
        steps: Tensor,
        find_update: _FindUpdate,
        moments: Moments,
        indices: Tensor,
        of: Tensor,
        rows: slice,
    ) -> None:
        """Updates over whole partitions; the steps of partition 0 are put into ``steps``."""
        height, width = asked.images.shape[-2:]
        visible = partition_masks(
            indices, height=height, width=width, patch_size=asked.patch_size, num_steps=self.num_steps, seed=self.seed
        )
        update, right, filled = fill_progressively(
            lambda *asked: find_update(*asked)[:2], fill, asked.images[of], asked.labels[of], visible, asked.baseline
        )
        moments.add(update, right, rows)
        first = indices[0] == 0  # without asking the device for its value
        steps[of] = torch.where(first, filled[0], steps[of])


@dataclass(frozen=True)
class _Question:
    """What a probe asks about, on the model's device: which images are to be seen as what."""

    images: Tensor
    labels: Tensor
    baseline: Tensor
    patch_size: int


def _intervals(metrics: dict[str, float], covered: Tensor) -> dict[str, tuple[float, float]]:
    numbers = {"accuracy": int(covered.sum()), "accuracy_all": len(covered), "coverage": len(covered)}
    return {name: wilson_interval(metrics[name], number) for name, number in numbers.items()}


def _device_of(model: nn.Module, default: torch.device) -> torch.device:
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return default


def _checked_images(images: Tensor) -> Tensor:
    if not isinstance(images, Tensor):
        raise TypeError(f"images must be a tensor of shape (N, C, H, W); got {describe(images)}")
    if images.ndim != 4 or 0 in images.shape:
        raise ValueError(f"images must have the shape (N, C, H, W), none of them 0; got {tuple(images.shape)}")
    if images.is_complex():
        raise TypeError(f"images must be real numbers; got {describe(images)}")
    images = images if images.is_floating_point() else images.float()
    if not images.isfinite().all():
        raise ValueError("images must be finite; got NaN or infinite values")
    return images


def _checked_labels(labels: Tensor | None, images: Tensor, num_classes: int) -> Tensor:
    if labels is None:
        raise ValueError('labels must be given unless target="predicted"; got None')
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.is_complex():
        raise TypeError(f"labels must be an integer tensor of shape ({len(images)},); got {describe(labels)}")
    if labels.shape != (len(images),):
        raise ValueError(f"labels must have the shape ({len(images)},), one an image; got {tuple(labels.shape)}")
    labels = labels.detach().to(images.device, torch.long, copy=True)
    outside = (labels < 0) | (labels >= num_classes)
    if outside.any():
        found = sorted(set(labels[outside].tolist()))
        raise ValueError(
            f"labels must be from 0 to {num_classes - 1}, as the model has {num_classes} classes; got {found[:10]}"
        )
    return labels


def _channel_values(name: str, value: float | Sequence[float] | None, images: Tensor, default: Tensor) -> Tensor:
    channels = images.shape[1]
    if value is None:
        return default.view(channels, 1, 1)
    values = torch.as_tensor(value, dtype=images.dtype, device=images.device).flatten()
    if len(values) not in (1, channels):
        raise ValueError(f"{name} must be one number, or one for each of the {channels} channels; got {len(values)}")
    return values.expand(channels).view(channels, 1, 1)
