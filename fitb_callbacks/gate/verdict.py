"""The verdict: what each rule asked for, what was measured, and whether it passes. No model, no file, no server."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fitb_callbacks.gate.rules import LOST_CLASSES, PEER_ACCURACY, PEER_AGREEMENT, Rule
from fitb_callbacks.probing.result import FillInBlanksResult

__all__ = ["Interval", "Measured", "ModelCheck", "Outcome", "decide"]

Interval = tuple[float, float]
"""Both ends of a 95% interval; NaN where there is none."""

_NOTICED = 0.3  # a drop that is larger than allowed by this much must not go unnoticed
_ROUNDING = 1e-6  # scores are in single precision: 0.7 must count as at least 0.7


@dataclass(frozen=True)
class Outcome:
    """The outcome of one rule.

    Attributes:
        rule: The rule.
        value: The candidate's score; for "max_drop" and "max_rise", how much lower or higher it is
            than the champion's.
        interval: Ends of the value's 95% interval; NaN where there is none.
        passed: Whether the rule passes; None if these images cannot tell.
        certain: Whether every value in the interval leads to the same answer.
        images: Which images it is about, in words; empty where they are those of the check.
    """

    rule: Rule
    value: float
    interval: Interval
    passed: bool | None
    certain: bool
    images: str = ""

    @property
    def text(self) -> str:
        """The rule in words, and on which images if they are not those of the check."""
        return f"{self.rule}, {self.images}" if self.images else str(self.rule)


@dataclass(frozen=True)
class Measured:
    """Everything that rules can bound.

    Attributes:
        scores: Score of the candidate to its value; NaN where it is undefined.
        intervals: Score to its 95% interval, where it has one.
        drops: Score to how much lower it is than the champion's, with both ends of the 95% interval; empty without a
            champion.
        rises: The same of how much higher it is, for scores that are rates.
    """

    scores: Mapping[str, float]
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    drops: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    rises: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)

    def value(self, rule: Rule) -> tuple[float, Interval]:
        """The value that a rule bounds, and its interval."""
        if rule.kind in ("max_drop", "max_rise"):
            changes = self.drops if rule.kind == "max_drop" else self.rises
            value, low, high = changes.get(rule.key, (math.nan,) * 3)
            return value, (low, high)
        return self.scores.get(rule.key, math.nan), self.intervals.get(rule.key, (math.nan, math.nan))


@dataclass(frozen=True, eq=False)
class ModelCheck:
    """The verdict on a model, and everything it rests on.

    Attributes:
        outcomes: One for each rule, in the rules' order.
        candidate: The candidate's probe.
        champion: The champion's probe, with the same images and masks; None without a champion.
        peer_accuracy: Share of the candidate's prototypes that the champion classifies as their label, and the other
            way round, over all probe images; None without a champion.
        peer_agreement: Whether both go by the same things, from -1 to 1; see `fitb_callbacks.gate.agreement`. None
            without a champion.
        lost: The classes that the champion covers and the candidate does not, see `LOST_CLASSES`; None without a
            champion.
    """

    outcomes: tuple[Outcome, ...]
    candidate: FillInBlanksResult
    champion: FillInBlanksResult | None = None
    peer_accuracy: tuple[float, float] | None = None
    peer_agreement: float | None = None
    lost: tuple[int, ...] | None = None

    @property
    def passed(self) -> bool:
        """Whether every rule passes."""
        return all(outcome.passed for outcome in self.outcomes)

    @property
    def refused(self) -> bool:
        """Whether a rule fails. Without one, rules may still be left open."""
        return any(outcome.passed is False for outcome in self.outcomes)

    @property
    def verdict(self) -> str:
        """In a word: "passed", "refused", or "open" if these images cannot tell."""
        return "passed" if self.passed else "refused" if self.refused else "open"

    @property
    def scores(self) -> dict[str, float]:
        """The candidate's scores, without those that are undefined."""
        return self._defined(self.candidate, 0)

    @property
    def champion_scores(self) -> dict[str, float] | None:
        """The champion's scores, without those that are undefined; None without a champion."""
        if self.champion is None:
            return None
        return self._defined(self.champion, 1)

    def _defined(self, result: FillInBlanksResult, which: int) -> dict[str, float]:
        scores = dict(result.metrics)
        if self.peer_accuracy is not None:
            scores[PEER_ACCURACY] = self.peer_accuracy[which]
        if self.peer_agreement is not None:
            scores[PEER_AGREEMENT] = self.peer_agreement
        if self.lost is not None and which == 0:
            scores[LOST_CLASSES] = float(len(self.lost))
        return {name: value for name, value in scores.items() if not math.isnan(value)}

    def as_dict(self) -> dict[str, Any]:
        """The verdict as JSON types, without pictures."""
        return {
            "verdict": self.verdict,
            "rules": [
                {
                    "rule": outcome.text,
                    "images": outcome.images,
                    "kind": outcome.rule.kind,
                    "key": outcome.rule.key,
                    "bound": outcome.rule.bound,
                    "value": outcome.value,
                    "interval": None if math.isnan(sum(outcome.interval)) else list(outcome.interval),
                    "passed": outcome.passed,
                    "certain": outcome.certain,
                }
                for outcome in self.outcomes
            ],
            "scores": self.scores,
            "champion_scores": self.champion_scores,
            "lost_classes": None if self.lost is None else [self.candidate.class_name(label) for label in self.lost],
            "images": len(self.candidate.images),
            "settings": dict(self.candidate.settings),
        }


def decide(rules: Sequence[Rule], measured: Measured, *, certain: bool = False) -> tuple[Outcome, ...]:
    """Compare each rule with what was measured.

    A bound on a score is decided by the score itself. A bound on a drop or a rise fails only if the whole interval is
    beyond it: two models trained alike differ by chance, and a drop that chance explains is no reason to refuse one. It
    is left open if the interval is so wide that a change of 0.3 beyond the bound would not be noticed. A bound on
    `PEER_AGREEMENT` is decided by the whole interval, and left open if it is inside: weak models of different
    architectures agree little, and that is no proof that one follows a mark.

    Args:
        rules: The rules.
        measured: The scores.
        certain: Whether every rule is decided by its whole interval, and left open if the bound is inside.

    Raises:
        ValueError: If the score of a rule is undefined.

    Example:
        >>> measured = Measured({"coverage": 0.9}, {"coverage": (0.7, 1.0)}, {"coverage": (0.12, 0.04, 0.2)})
        >>> [outcome.passed for outcome in decide([Rule("min", "coverage", 0.8)], measured)]
        [True]
        >>> [outcome.passed for outcome in decide([Rule("max_drop", "coverage", 0.1)], measured)]
        [True]
        >>> [outcome.passed for outcome in decide([Rule("max_drop", "coverage", 0.1)], measured, certain=True)]
        [None]
    """
    return tuple(_decide(rule, *measured.value(rule), certain=certain) for rule in rules)


def _decide(rule: Rule, value: float, ends: Interval, *, certain: bool) -> Outcome:
    if math.isnan(value):
        raise ValueError(f"the score of the rule '{rule}' is undefined for this model and these images")
    low, high = ends
    known = not (math.isnan(low) or math.isnan(high))
    answers = {_within(rule, low), _within(rule, high)} if known else set()
    sure = len(answers) == 1
    passed: bool | None = _within(rule, value)
    compares = rule.kind in ("max_drop", "max_rise")
    if compares and not sure:
        passed = True if known and high <= rule.bound + _NOTICED else None
    if (certain or rule.key == PEER_AGREEMENT) and not sure and (known or compares):
        passed = None
    return Outcome(rule, value, ends, passed, certain=sure or not known)


def _within(rule: Rule, value: float) -> bool:
    """Whether a value respects the rule's bound; NaN never does."""
    return value >= rule.bound - _ROUNDING if rule.kind == "min" else value <= rule.bound + _ROUNDING
