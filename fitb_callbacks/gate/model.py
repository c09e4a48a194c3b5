"""Does a model show what the rules ask for? Pure: a model, images and rules in, a typed verdict out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from fitb_callbacks.gate.bootstrap import RESAMPLED, differences, interval, resampled_scores, resamples
from fitb_callbacks.gate.rules import PEER_ACCURACY, Rule
from fitb_callbacks.models.logits import LogitsFn
from fitb_callbacks.models.steadiness import check_steady
from fitb_callbacks.probing.averaging import Progress
from fitb_callbacks.probing.probe import FillInBlanks
from fitb_callbacks.probing.result import FillInBlanksResult
from fitb_callbacks.scoring.intervals import wilson_interval
from fitb_callbacks.scoring.judges.base import Judge
from fitb_callbacks.scoring.judges.module import ModuleJudge
from fitb_callbacks.utils.messages import one_line
from fitb_callbacks.utils.validation import check_choice

__all__ = ["ModelCheck", "Outcome", "check_model"]

Interval = tuple[float, float]

_ROUNDING = 1e-6  # of scores in single precision: 0.7 must be at least 0.7


@dataclass(frozen=True)
class Outcome:
    """What came of one rule.

    Attributes:
        rule: The rule.
        value: The candidate's score; for "max_drop", how much lower it is than the reference's.
        interval: Ends of the 95% interval of the value; NaN where there is none.
        kept: Whether the rule is kept.
        certain: Whether the whole interval says the same as `kept`.
    """

    rule: Rule
    value: float
    interval: Interval
    kept: bool
    certain: bool


@dataclass(frozen=True, eq=False)
class ModelCheck:
    """The verdict on a model, and all it rests on.

    Attributes:
        outcomes: One for each rule, in their order.
        candidate: What the probe found.
        reference: What it found of the reference model, on the same images and masks; None without one.
        peer_accuracy: Share of the candidate's prototypes that the reference classifies as their label, and the other
            way round, over all probe images; None without a reference.
    """

    outcomes: tuple[Outcome, ...]
    candidate: FillInBlanksResult
    reference: FillInBlanksResult | None = None
    peer_accuracy: tuple[float, float] | None = None

    @property
    def passed(self) -> bool:
        """Whether every rule is kept."""
        return all(outcome.kept for outcome in self.outcomes)

    @property
    def scores(self) -> dict[str, float]:
        """The candidate's scores, those that are defined."""
        return _defined(self.candidate, self.peer_accuracy and self.peer_accuracy[0])

    @property
    def reference_scores(self) -> dict[str, float] | None:
        """The reference's scores, those that are defined; None without a reference."""
        if self.reference is None:
            return None
        return _defined(self.reference, self.peer_accuracy and self.peer_accuracy[1])

    def as_dict(self) -> dict[str, Any]:
        """The verdict as JSON types, without pictures."""
        return {
            "verdict": "passed" if self.passed else "refused",
            "rules": [
                {
                    "rule": str(outcome.rule),
                    "kind": outcome.rule.kind,
                    "key": outcome.rule.key,
                    "bound": outcome.rule.bound,
                    "value": outcome.value,
                    "interval": None if math.isnan(sum(outcome.interval)) else list(outcome.interval),
                    "kept": outcome.kept,
                    "certain": outcome.certain,
                }
                for outcome in self.outcomes
            ],
            "scores": self.scores,
            "reference_scores": self.reference_scores,
            "images": len(self.candidate.images),
            "settings": dict(self.candidate.settings),
        }


def check_model(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    rules: Sequence[Rule],
    *,
    probe: FillInBlanks | None = None,
    reference: nn.Module | None = None,
    judge: Judge | None = None,
    certain: bool = False,
    class_names: Sequence[str] | None = None,
    logits_fn: LogitsFn | None = None,
    progress: Progress | None = None,
) -> ModelCheck:
    """Probe a model, and a reference on the same images and masks, and judge it by rules.

    A rule is kept if the score itself keeps it. Its interval says how sure that is: of a rate Wilson's, of another
    score and of the difference of two models a bootstrap over the images, in pairs (`fitb_callbacks.gate.bootstrap`).

    Args:
        model: The candidate.
        images: Shape ``(N, C, H, W)``.
        labels: Integers, shape ``(N,)``.
        rules: At least one.
        probe: All settings; None takes the defaults.
        reference: The model to compare with, such as the one in production. The two also classify each other's
            prototypes.
        judge: For the scores that need one; see `fitb_callbacks.scoring.judges`.
        certain: Whether a rule is kept only if the whole 95% interval keeps it.
        class_names: One name a class.
        logits_fn: As for the probe; for both models.
        progress: As for the probe, once for each model.

    Raises:
        ValueError: If nothing can be said: a model's answers are not steady (dropout was left on), it covers no
            image, a score with a rule is undefined, or a rule needs a judge or a reference that is not there.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
        >>> images, labels = torch.rand(30, 1, 4, 4), torch.arange(30) % 3
        >>> check = check_model(model, images, labels, [Rule("max", "nonfinite", 0)], probe=FillInBlanks(num_masks=8))
        >>> check.passed, check.outcomes[0].value
        (True, 0.0)
    """
    if not rules:
        raise ValueError("rules must hold at least one; got none")
    check_choice("certain", certain, (True, False))
    for rule in rules:
        if rule.needs_reference and reference is None:
            raise ValueError(f"the rule '{rule}' needs a reference model")
        if rule.needs_judge and judge is None:
            raise ValueError(f"the rule '{rule}' needs a judge")
    probe = probe or FillInBlanks()

    def probed(name: str, module: nn.Module) -> FillInBlanksResult:
        try:
            check_steady(module, images[:16], logits_fn=logits_fn)
            result = probe.probe(
                module,
                images,
                labels,
                judge=judge,
                class_names=class_names,
                logits_fn=logits_fn,
                progress=progress,
            )
        except (AssertionError, RuntimeError, TypeError) as error:  # what exported models raise on other shapes
            shape = tuple(images.shape[1:])
            raise ValueError(f"the {name} cannot be probed on images of {shape}: {one_line(error)}") from error
        except ValueError as error:
            raise ValueError(f"the {name} cannot be probed: {error}") from error
        if not result.covered.any():
            raise ValueError(f"the {name} covers no image: it predicts no label right under any mask")
        return result

    candidate = probed("model", model)
    if reference is None:
        return ModelCheck(_outcomes(rules, candidate, None, None, certain), candidate)
    other = probed("reference", reference)
    peer = _right_for(reference, candidate, logits_fn), _right_for(model, other, logits_fn)
    return ModelCheck(_outcomes(rules, candidate, other, peer[0], certain), candidate, other, peer)


def _right_for(other: nn.Module, result: FillInBlanksResult, logits_fn: LogitsFn | None) -> float:
    """Share of all images whose prototype another model classifies as their label."""
    answers = ModuleJudge(other, logits_fn).classify(result.prototypes)
    return ((answers == result.labels) & result.covered).double().mean().item()


def _outcomes(
    rules: Sequence[Rule],
    candidate: FillInBlanksResult,
    reference: FillInBlanksResult | None,
    peer: float | None,
    certain: bool,
) -> tuple[Outcome, ...]:
    drops = {} if reference is None else differences(reference, candidate)
    resampled = resampled_scores(candidate, resamples(candidate.labels, seed=0))
    outcomes = []
    for rule in rules:
        if rule.kind == "max_drop":
            value, *ends = drops[rule.key]
        elif rule.key == PEER_ACCURACY:
            assert peer is not None
            value, ends = peer, list(wilson_interval(peer, len(candidate.labels)))
        else:
            value = candidate.metrics[rule.key]
            if rule.key in candidate.intervals:
                ends = list(candidate.intervals[rule.key])
            else:
                ends = list(interval(resampled[rule.key])) if rule.key in RESAMPLED else [math.nan, math.nan]
        if math.isnan(value):
            raise ValueError(f"the score of the rule '{rule}' is undefined for this model and these images")
        low, high = ends
        sides = [_keeps(rule, value), _keeps(rule, low), _keeps(rule, high)]  # NaN keeps nothing
        unsure = not (math.isnan(low) or math.isnan(high)) and len(set(sides)) > 1
        kept = sides[0] and not (certain and unsure)
        outcomes.append(Outcome(rule, value, (low, high), kept, certain=not unsure))
    return tuple(outcomes)


def _keeps(rule: Rule, value: float) -> bool:
    return value >= rule.bound - _ROUNDING if rule.kind == "min" else value <= rule.bound + _ROUNDING


def _defined(result: FillInBlanksResult, peer: float | None) -> dict[str, float]:
    scores = dict(result.metrics) | ({} if peer is None else {PEER_ACCURACY: peer})
    return {name: value for name, value in scores.items() if not math.isnan(value)}
