"""Write a verdict as JUnit XML, which CI pages show: one test case per rule."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fitb_callbacks.gate.verdict import Outcome
from fitb_callbacks.utils.messages import on_one_line

__all__ = ["junit_xml"]


def junit_xml(model: str, outcomes: Sequence[Outcome] = (), *, error: str | None = None) -> str:
    """The rules as test cases of a suite named after the model.

    Args:
        model: Its address.
        outcomes: What came of each rule; a rule that does not pass is a failure.
        error: Why there is no verdict, which is an error and no failure; None if there is one.

    Example:
        >>> from fitb_callbacks.gate.rules import Rule
        >>> outcome = Outcome(Rule("min", "coverage", 0.8), 0.5, (0.4, 0.6), passed=False, certain=True)
        >>> "coverage at least 0.8: is 0.5, 95% interval 0.4 to 0.6" in junit_xml("models:/digits/7", [outcome])
        True
    """
    from junitparser import Error, Failure, JUnitXml, TestCase, TestSuite

    model = on_one_line(model)
    suite = TestSuite(f"fitb check {model}")
    for outcome in outcomes:
        case = TestCase(outcome.text, classname=f"fitb.{model}")
        if not outcome.passed:
            case.result = [Failure(outcome_text(outcome))]
        else:
            case.system_out = outcome_text(outcome)
        suite.add_testcase(case)
    if error is not None:
        case = TestCase("the model can be checked", classname=f"fitb.{model}")
        case.result = [Error(on_one_line(error))]
        suite.add_testcase(case)
    xml = JUnitXml("fitb check")
    xml.add_testsuite(suite)
    text: bytes = xml.tostring()  # type: ignore[no-untyped-call]
    return text.decode()


def outcome_text(outcome: Outcome) -> str:
    """An outcome in words.

    Example:
        >>> from fitb_callbacks.gate.rules import Rule
        >>> outcome_text(Outcome(Rule("max_drop", "area", 0.02), 0.01, (0.0, 0.05), passed=True, certain=False))
        "area lower than the champion's by at most 0.02: is 0.01, 95% interval 0 to 0.05, which the bound is within"
    """
    low, high = outcome.interval
    text = f"{outcome.text}: is {outcome.value:.4g}"
    if not math.isnan(low + high):
        text += f", 95% interval {low:.4g} to {high:.4g}"
    return text if outcome.certain else f"{text}, which the bound is within"
