"""Long class names in pictures."""

import pytest

from fitb_callbacks.plotting.layout import font
from fitb_callbacks.plotting.names import told_apart

MIDDLE = [f"photographs of cats, variant {letter}, as uploaded in the year 2021" for letter in "ABC"]


@pytest.mark.parametrize("width", [90, 140, 190, 400])
@pytest.mark.parametrize(
    "names",
    [
        MIDDLE,
        [f"{'x' * 300}{number}" for number in range(40)],
        ["x" * 200, "x" * 201, "x" * 202],
        [f"{first} {'long ' * 20}{last}" for first in "ab" for last in "ab"],
        ["a  " + "b" * 90, "a " + "b" * 90],
    ],
)
def test_different_names_look_different_and_fit(names, width):
    texts = told_apart(names, font(), width)
    assert len(set(texts.values())) == len(names)
    assert max(font().getlength(text) for text in texts.values()) <= width


def test_names_show_where_they_differ():
    assert next(iter(told_apart(MIDDLE, font(), 190).values())).startswith("phot…A, as up")


def test_names_that_fit_stay_as_they_are():
    assert told_apart(["cat", "dog", "cat"], font(), 190) == {"cat": "cat", "dog": "dog"}
