"""What a candidate's own training says against it.

A model that goes by a mark may do well on images that have none, such as those of an unmarked champion. What its own
training recorded can show the mark. As the candidate's people chose these images, they count against it only: nothing
in them lets a model through.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from fitb_callbacks.data.sources import ImageSet
from fitb_callbacks.gate.agreement import LEAST_RIGHT, agreement_with_interval, as_judge, leanings
from fitb_callbacks.gate.bootstrap import resamples
from fitb_callbacks.gate.model import check_model
from fitb_callbacks.gate.rules import PEER_AGREEMENT, RED_IN_TRAINING, Rule
from fitb_callbacks.gate.verdict import Measured, Outcome, decide
from fitb_callbacks.integrations.probe_manifest import images_digest
from fitb_callbacks.models.logits import LogitsFn
from fitb_callbacks.probing.averaging import Progress
from fitb_callbacks.probing.probe import FillInBlanks
from fitb_callbacks.probing.result import FillInBlanksResult
from fitb_callbacks.scoring.judges.base import Judge
from fitb_callbacks.utils.messages import on_one_line

__all__ = ["ON_OWN_IMAGES", "OwnTraining", "evidence_against", "outcomes_on_own_images"]

ON_OWN_IMAGES = "on the images of its own training"
"""How outcomes of these images are told from the others."""

_PROBED, _OF_THE_CHECK, _NONE = "probed", "those of the check", "none recorded"


@dataclass(frozen=True)
class OwnTraining:
    """What a candidate's training run has to say.

    Attributes:
        says: The last verdict of its probe where that is red; empty where it is not.
        images: What became of the images that it recorded, in words: "probed", "those of the check", "none recorded",
            or why they could not be probed.
        digest: Of these images and their labels, see `fitb_callbacks.integrations.probe_manifest.images_digest`; None
            without any.
    """

    says: str
    images: str
    digest: str | None = None

    @property
    def asked(self) -> bool:
        """Whether the candidate was probed on these images."""
        return self.images in (_PROBED, _OF_THE_CHECK)

    @property
    def lines(self) -> list[str]:
        """What is worth saying of it, a line each."""
        lines = [f"Its own training run ended with: {self.says}"] if self.says else []
        if not self.asked and (self.says or self.images != _NONE):
            lines.append(f"The images of its own training were not probed: {self.images}")
        return lines


def evidence_against(  # noqa: PLR0913 - what the run has, what the check saw, and by which rules
    own: ImageSet | None,
    seen: FillInBlanksResult,
    says: str,
    rules: Sequence[Rule],
    *,
    by_default: bool,
    ask: Callable[[ImageSet], tuple[Outcome, ...]],
) -> tuple[OwnTraining, tuple[Outcome, ...]]:
    """Weigh what a candidate's own training says against it.

    Its images are probed, unless the check has done so. A red verdict is of the end of the training, and the candidate
    may be older: so it refuses by default only a candidate whose own images could not be asked.

    Args:
        own: The images that the training recorded; None if it recorded none.
        seen: What the check has probed.
        says: The last verdict of the training's probe where it is red; empty where it is not.
        rules: All rules of the check.
        by_default: Whether these are the default rules.
        ask: Applies the rules to the own images: `outcomes_on_own_images`.
    """
    outcomes: tuple[Outcome, ...] = ()
    images, digest = _NONE, None if own is None else images_digest(own.images, own.labels)
    if digest == images_digest(seen.images, seen.labels):
        images = _OF_THE_CHECK
    elif own is not None:
        try:
            images, outcomes = _PROBED, ask(own)
        except ValueError as error:
            images, outcomes = on_one_line(str(error)), ()
    found = OwnTraining(says, images, digest)
    red = [rule for rule in rules if rule.key == RED_IN_TRAINING]
    if by_default and says and not found.asked:
        red = [Rule("max", RED_IN_TRAINING, 0.0)]
    return found, (*outcomes, *(_on_red(rule, says) for rule in red))


def outcomes_on_own_images(  # noqa: PLR0913 - the arguments of a probe, and what is compared
    model: nn.Module,
    own: ImageSet,
    rules: Sequence[Rule],
    *,
    probe: FillInBlanks,
    champion: nn.Module | None = None,
    judge: Judge | None = None,
    logits_fn: LogitsFn | None = None,
    share: tuple[int, int] = (0, 1),
    progress: Progress | None = None,
) -> tuple[Outcome, ...]:
    """Apply the rules on what a model goes by to the images that its own training recorded.

    These outcomes are a refusal or none: one that these images leave open passes, and a champion that does not know
    them is not asked.

    Args:
        model: The candidate.
        own: The images.
        rules: All rules of the check.
        probe: Its settings; the fill, which no such rule needs, is left out.
        champion: As for `fitb_callbacks.gate.model.check_model`.
        judge: As there. Its trusted images tell a class that is a small thing from a mark.
        logits_fn: As there.
        share: As there.
        progress: As there.

    Raises:
        ValueError: If the model cannot be probed on these images.
    """
    wanted = [rule for rule in rules if rule.says_what_it_goes_by]
    alone = [rule for rule in wanted if not rule.needs_champion]
    if not wanted:
        return ()
    found = check_model(
        model,
        own.images,
        own.labels,
        alone or [Rule("max", "shortcut", 1.0)],  # which nothing fails
        probe=dataclasses.replace(probe, fill=None),
        judge=judge,
        class_names=own.class_names,
        logits_fn=logits_fn,
        share=share,
        progress=progress,
    )
    outcomes = found.outcomes if alone else ()
    beside = [rule for rule in wanted if rule.needs_champion]
    if champion is not None and beside:
        outcomes += _beside(model, champion, found.candidate, beside, logits_fn)
    return tuple(
        dataclasses.replace(outcome, passed=outcome.passed is not False, images=ON_OWN_IMAGES) for outcome in outcomes
    )


def _on_red(rule: Rule, says: str) -> Outcome:
    value = float(bool(says))
    return Outcome(rule, value, (math.nan, math.nan), passed=value <= rule.bound, certain=True)


def _beside(
    model: nn.Module,
    champion: nn.Module,
    result: FillInBlanksResult,
    rules: Sequence[Rule],
    logits_fn: LogitsFn | None,
) -> tuple[Outcome, ...]:
    """Whether both go by the same things in these images; nothing where the champion cannot say."""
    images, labels = result.images, result.labels
    mine = leanings(as_judge(model, result, logits_fn), images, labels)
    try:
        others = leanings(as_judge(champion, result, logits_fn), images, labels)
    except (IndexError, RuntimeError, TypeError, ValueError):  # images or classes that it does not take
        return ()
    if others.right < LEAST_RIGHT:
        return ()
    value, ends = agreement_with_interval(mine, others, labels, resamples(labels, seed=0))
    if math.isnan(value):  # one of the two leans nowhere
        return ()
    return decide(rules, Measured({PEER_AGREEMENT: value}, {PEER_AGREEMENT: ends}))
