"""Probe a candidate, and a champion on the same images and masks, and decide by rules. No registry, no files."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from fitb_callbacks.gate.agreement import LEAST_RIGHT, Leanings, agreement_with_interval, as_judge, leanings
from fitb_callbacks.gate.bootstrap import differences, interval, rate_rises, resampled_scores, resamples
from fitb_callbacks.gate.rules import LOST_CLASSES, PEER_ACCURACY, PEER_AGREEMENT, Rule
from fitb_callbacks.gate.verdict import Interval, Measured, ModelCheck, Outcome, decide
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

__all__ = ["check_model"]

_STEADY_IMAGES = 16
_LEAST_CEILING = 0.5
_LEAST_OF_A_CLASS = 4  # images: of fewer, a healthy model may know none by chance


def check_model(  # noqa: PLR0913 - the arguments of a probe, and what is compared
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    rules: Sequence[Rule],
    *,
    probe: FillInBlanks | None = None,
    champion: nn.Module | None = None,
    judge: Judge | None = None,
    certain: bool = False,
    class_names: Sequence[str] | None = None,
    logits_fn: LogitsFn | None = None,
    share: tuple[int, int] = (0, 1),
    progress: Progress | None = None,
) -> ModelCheck:
    """Probe a model, and a champion on the same images and masks, and decide by rules.

    A bound on a score is decided by the score itself, a bound on a drop by its 95% interval
    (`fitb_callbacks.gate.verdict.decide`). Intervals are Wilson's for a rate, and a bootstrap over the images for other
    scores and, in pairs, for the difference of two models (`fitb_callbacks.gate.bootstrap`).

    Args:
        model: The candidate.
        images: Shape ``(N, C, H, W)``.
        labels: Integers, shape ``(N,)``.
        rules: At least one.
        probe: Carries all settings; None takes the defaults.
        champion: The model to compare with, such as the one in production. The two also classify each other's
            prototypes, and pictures made of two images.
        judge: For the scores that need one; see `fitb_callbacks.scoring.judges`.
        certain: Whether every rule is decided by the whole 95% interval.
        class_names: One name a class.
        logits_fn: As for the probe; used for both models.
        share: As for the probe.
        progress: As for the probe, once for each model.

    Raises:
        ValueError: If there can be no verdict: a model's answers are not steady (dropout was left on), it covers no
            image, the score of a rule is undefined, or a rule needs a judge or a champion that is not there.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
        >>> images, labels = torch.rand(30, 1, 4, 4), torch.arange(30) % 3
        >>> check = check_model(model, images, labels, [Rule("max", "nonfinite", 0)], probe=FillInBlanks(num_masks=8))
        >>> check.passed, check.outcomes[0].value
        (True, 0.0)
    """
    check_choice("certain", certain, (True, False))
    _check_needs(rules, champion=champion is not None, judge=judge is not None)
    settings = probe or FillInBlanks()

    def probed(name: str, module: nn.Module) -> FillInBlanksResult:
        def run() -> FillInBlanksResult:
            check_steady(module, images[:_STEADY_IMAGES], logits_fn=logits_fn)
            return settings.probe(
                module,
                images,
                labels,
                judge=judge,
                class_names=class_names,
                logits_fn=logits_fn,
                share=share,
                progress=progress,
            )

        return _explained(run, name, images)

    candidate = probed("model", model)
    _check_judge(rules, candidate)
    if champion is None:
        return ModelCheck(decide(rules, _measured(candidate), certain=certain), candidate)
    other = probed("champion", champion)
    peers = _Peers.of(candidate, other, model, champion, logits_fn)
    outcomes = decide(rules, _measured(candidate, other, peers), certain=certain)
    _check_peer(outcomes, other, peers)
    return ModelCheck(outcomes, candidate, other, peers.accuracy, peers.agreement, peers.lost)


@dataclass(frozen=True, eq=False)
class _Peers:
    """What candidate and champion make of each other's pictures, and of pictures made of two images."""

    accuracy: tuple[float, float]
    leanings: tuple[Leanings, Leanings]
    lost: tuple[int, ...]
    agreement: float
    interval: Interval

    @classmethod
    def of(
        cls,
        candidate: FillInBlanksResult,
        other: FillInBlanksResult,
        model: nn.Module,
        champion: nn.Module,
        logits_fn: LogitsFn | None,
    ) -> _Peers:
        judge, judge_of_it = (as_judge(each, candidate, logits_fn) for each in (model, champion))
        accuracy = _share_right(judge_of_it, candidate), _share_right(judge, other)
        images, labels = candidate.images, candidate.labels
        lean = leanings(judge, images, labels), leanings(judge_of_it, images, labels)
        lost = _lost_classes(candidate, other)
        return cls(accuracy, lean, lost, *agreement_with_interval(*lean, labels, resamples(labels, seed=0)))


def _check_needs(rules: Sequence[Rule], *, champion: bool, judge: bool) -> None:
    """Raise ValueError unless there is what the rules need."""
    if not rules:
        raise ValueError("rules must hold at least one rule; got none")
    for rule in rules:
        if rule.needs_champion and not champion:
            raise ValueError(f"the rule '{rule}' needs a champion")
        if rule.needs_judge and not judge:
            raise ValueError(f"the rule '{rule}' needs a judge")


def _check_judge(rules: Sequence[Rule], candidate: FillInBlanksResult) -> None:
    """Raise ValueError if a judged score has a rule, and the judge does not even recognise the images themselves."""
    ceiling = candidate.metrics.get("judge_ceiling", 1.0)
    judged = [rule for rule in rules if rule.needs_judge and rule.key != "judge_ceiling"]
    if judged and ceiling < _LEAST_CEILING:
        raise ValueError(
            f"the judge recognises only {ceiling:.0%} of the images themselves, so it cannot decide '{judged[0]}': "
            "give trusted images that look more like these (--trusted), or let the champion judge "
            f"(--champion, --min {PEER_AGREEMENT}=0.35)"
        )


def _check_peer(outcomes: Sequence[Outcome], champion: FillInBlanksResult, peers: _Peers) -> None:
    """Raise ValueError if nothing but a champion that cannot judge refuses the model."""
    share, right = champion.metrics["accuracy_all"], peers.leanings[1].right
    cannot = {
        PEER_ACCURACY: share < _LEAST_CEILING and f"recognises only {share:.0%} of its own prototypes",
        PEER_AGREEMENT: right < LEAST_RIGHT and f"tells only {right:.0%} of the images from those of another class",
    }
    refused = [outcome.rule.key for outcome in outcomes if outcome.passed is False]
    reasons = [cannot.get(key) for key in refused]
    if reasons and all(reasons):
        raise ValueError(
            f"the champion {reasons[0]}, so it cannot judge another model: give images that it knows (--data), or "
            "trusted ones (--trusted) and rules of your own"
        )


def _explained(run: Callable[[], FillInBlanksResult], name: str, images: Tensor) -> FillInBlanksResult:
    """The result of a probe, or a ValueError that says which model could not be probed, and why."""
    try:
        result = run()
    except (AssertionError, RuntimeError, TypeError) as error:  # raised by exported models for other shapes
        shape = tuple(images.shape[1:])
        raise ValueError(f"the {name} cannot be probed on images of {shape}: {one_line(error)}") from error
    except ValueError as error:
        raise ValueError(f"the {name} cannot be probed: {error}") from error
    if not result.covered.any():
        raise ValueError(f"the {name} covers no image: it predicts no label right under any mask")
    return result


def _lost_classes(candidate: FillInBlanksResult, champion: FillInBlanksResult) -> tuple[int, ...]:
    """Classes of which the champion covers more than half of the images, and the candidate none."""
    labels, lost = candidate.labels, []
    for label in labels.unique().tolist():
        of_class = labels == label
        known, here = (result.covered[of_class] for result in (champion, candidate))
        if len(here) >= _LEAST_OF_A_CLASS and known.double().mean() > 0.5 and not here.any():
            lost.append(int(label))
    return tuple(lost)


def _share_right(judge: ModuleJudge, result: FillInBlanksResult) -> float:
    """Share of all images whose prototype another model classifies as their label."""
    answers = judge.classify(result.prototypes)
    return ((answers == result.labels) & result.covered).double().mean().item()


def _measured(
    candidate: FillInBlanksResult, champion: FillInBlanksResult | None = None, peers: _Peers | None = None
) -> Measured:
    """Scores, intervals and drops of a candidate."""
    scores, labels = dict(candidate.metrics), candidate.labels
    rows = resamples(labels, seed=0)
    resampled = resampled_scores(candidate, rows)
    intervals: dict[str, Interval] = {}
    for key, values in resampled.items():
        intervals[key] = _share(interval(key, scores[key], values, labels))
    intervals |= candidate.intervals
    if champion is None or peers is None:
        return Measured(scores, intervals)
    scores |= {PEER_ACCURACY: peers.accuracy[0], PEER_AGREEMENT: peers.agreement, LOST_CLASSES: float(len(peers.lost))}
    intervals[PEER_ACCURACY] = wilson_interval(peers.accuracy[0], len(labels))
    intervals[PEER_AGREEMENT] = peers.interval
    return Measured(scores, intervals, differences(champion, candidate), rate_rises(champion, candidate))


def _share(ends: Interval) -> Interval:
    return ends if math.isnan(sum(ends)) else (max(0.0, ends[0]), min(1.0, ends[1]))
