"""What a verdict says to people: the head of its report, the tag and the description of the model's version."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fitb_callbacks.gate.own_training import OwnTraining
from fitb_callbacks.utils.messages import on_one_line

__all__ = ["notes", "report_head", "verdict_line", "version_description", "version_tag"]

_SIGNS = {"passed": "✓", "waived": "!", "refused": "✗"}
_TONES = {"passed": "good", "waived": "unclear", "refused": "bad"}
_MOST_REASONS = 3
_MOST_SCORES = 4
_MOST_CHARACTERS = 500  # of a tag


def verdict_line(verdict: Mapping[str, Any]) -> str:
    """A verdict and its reason, in a line.

    Args:
        verdict: Of `fitb_callbacks.gate.registry_check.RegistryCheck.as_dict`.

    Example:
        >>> rule = {"rule": "structure at least 0.5", "key": "structure", "value": 0.23, "passed": False}
        >>> verdict_line({"verdict": "refused", "rules": [rule]})
        '✗ REFUSED: 1 of 1 rule failed: structure at least 0.5 (is 0.23)'
        >>> unsure = {"rule": "peer_agreement at least 0.35", "key": "peer_agreement", "value": 0.39, "passed": None}
        >>> verdict_line({"verdict": "refused", "rules": [rule, unsure]})
        '✗ REFUSED: 1 of 2 rules failed: structure at least 0.5 (is 0.23)'
    """
    word = verdict["verdict"]
    return on_one_line(f"{_SIGNS.get(word, '?')} {word.upper()}: {_reason(verdict)}")


def version_tag(verdict: Mapping[str, Any]) -> str:
    """The same for a tag, whose first word can be searched for.

    Args:
        verdict: Of `fitb_callbacks.gate.registry_check.RegistryCheck.as_dict`.

    Example:
        >>> rule = {"rule": "structure at least 0.5", "key": "structure", "value": 0.73, "passed": True}
        >>> version_tag({"verdict": "passed", "rules": [rule]})
        'passed: 1 rule passed'
    """
    text = on_one_line(f"{verdict['verdict']}: {_reason(verdict)}")
    return text if len(text) <= _MOST_CHARACTERS else f"{text[: _MOST_CHARACTERS - 1]}…"


def _reason(verdict: Mapping[str, Any]) -> str:
    """Why a verdict is what it is."""
    rules, word = verdict["rules"], verdict["verdict"]
    total = f"{len(rules)} rule{'s' if len(rules) > 1 else ''}"
    failed = [rule for rule in rules if rule["passed"] is False]
    bad = failed or [rule for rule in rules if rule["passed"] is None]
    reasons = "; ".join(f"{rule['rule']} (is {rule['value']:.2f})" for rule in bad[:_MOST_REASONS])
    reasons += f"; and {len(bad) - _MOST_REASONS} more" if len(bad) > _MOST_REASONS else ""
    said = f"{len(bad)} of {total} failed: {reasons}" if failed else f"{total} passed"
    if bad and not failed:
        said = f"these images cannot tell: {reasons}"
    if word == "waived":
        said = f"by {verdict['waiver']['name']}: {verdict['waiver']['reason']}; {said}"
    return said


def report_head(verdict: Mapping[str, Any]) -> dict[str, Any]:
    """What opens a check's report; see `fitb_callbacks.integrations.report.page.render_report`."""
    passes = {True: ("yes", "right"), False: ("no", "wrong"), None: ("cannot tell", "")}
    return {
        "headline": verdict_line(verdict),
        "tone": _TONES.get(verdict["verdict"], "unclear"),
        "notes": [*notes(verdict), *_what_follows(verdict)],
        "rules": [
            {
                "rule": rule["rule"],
                "value": f"{rule['value']:.3f}",
                "interval": "" if rule["interval"] is None else "{:.3f} to {:.3f}".format(*rule["interval"]),
                "passes": passes[rule["passed"]][0],
                "tone": passes[rule["passed"]][1],
            }
            for rule in verdict["rules"]
        ],
    }


def notes(verdict: Mapping[str, Any]) -> list[str]:
    """Which classes it has lost, and what its own training says against it."""
    lost, own = verdict.get("lost_classes"), verdict.get("own_training")
    lines = [f"The champion knows {', '.join(lost)}; this model does not."] if lost else []
    lines += [] if own is None else OwnTraining(**own).lines
    return [on_one_line(line) for line in lines]


def _refused_elsewhere(verdict: Mapping[str, Any]) -> bool:
    """Whether a rule fails on other images than those of the check, in which the model need not look bad."""
    return any(rule.get("images") and not rule["passed"] for rule in verdict["rules"])


def _what_follows(verdict: Mapping[str, Any]) -> list[str]:
    return ["All below is of the images of the check, where it need not show."] if _refused_elsewhere(verdict) else []


def version_description(verdict: Mapping[str, Any], said: Mapping[str, str], *, evidence: str) -> str:
    """What a version's page says of its check, as Markdown.

    Args:
        verdict: Of `fitb_callbacks.gate.registry_check.RegistryCheck.as_dict`.
        said: What the scores say in words, of `fitb_callbacks.scoring.interpretation.interpret`.
        evidence: Address of the evidence.

    Example:
        >>> rule = {"rule": "structure at least 0.5", "key": "structure", "value": 0.23, "passed": False}
        >>> verdict = {"verdict": "refused", "rules": [rule], "scores": {"structure": 0.23},
        ...            "champion": "models:/digits/1", "champion_scores": {"structure": 0.91}}
        >>> said = {"headline": "The model goes by the rim.", "reason": "93% of answers follow it."}
        >>> print(version_description(verdict, said, evidence="#/evidence"))
        ✗ REFUSED: 1 of 1 rule failed: structure at least 0.5 (is 0.23)
        <BLANKLINE>
        The model goes by the rim. 93% of answers follow it.
        <BLANKLINE>
        structure 0.23, champion 0.91. [Evidence](#/evidence)
    """
    scores, champion = verdict["scores"], verdict["champion_scores"] or {}
    rules = sorted(verdict["rules"], key=lambda rule: bool(rule["passed"]))  # what failed first
    keys = list(dict.fromkeys(("structure", *(rule["key"] for rule in rules))))
    compared = "; ".join(
        f"{key} {scores[key]:.2f}" + (f", champion {champion[key]:.2f}" if key in champion else "")
        for key in [key for key in keys if key in scores][:_MOST_SCORES]
    )
    words = on_one_line(f"{said['headline']} {said['reason']}")
    if _refused_elsewhere(verdict):
        words = f"In the images of the check: {words}"
    parts = [verdict_line(verdict), words, *notes(verdict), f"{compared}. [Evidence]({evidence})"]
    return "\n\n".join(parts)
