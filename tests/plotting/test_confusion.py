"""The confusion matrix as a picture."""

import numpy as np
import pytest
import torch

from fitb_callbacks.plotting.confusion import confusion_picture
from fitb_callbacks.plotting.layout import RIGHT, WRONG
from fitb_callbacks.scoring.classification import answer_counts

LABELS = torch.arange(30) % 3


def area(picture, colour):
    return (picture == colour).all(axis=2).sum()


def test_right_is_blue_and_wrong_is_orange():
    right = confusion_picture({"model": answer_counts(LABELS, LABELS, range(3))}, ["a", "b", "c"])
    wrong = confusion_picture({"model": answer_counts(LABELS, (LABELS + 1) % 3, range(3))}, ["a", "b", "c"])
    assert area(right, WRONG) == 0
    assert area(wrong, WRONG) > 10_000
    assert area(right, RIGHT) > area(wrong, RIGHT) + 10_000  # a wrong one has the frames of the diagonal only


def test_a_panel_stands_below_the_other():
    counts = answer_counts(LABELS, LABELS, range(3))
    one, two = (confusion_picture(panels, ["a", "b", "c"]) for panels in ({"x": counts}, {"x": counts, "y": counts}))
    assert one.shape[1] == two.shape[1] == 900
    assert two.shape[0] > 1.5 * one.shape[0]


@pytest.mark.parametrize("classes", [1, 2, 14, 40, 200])
def test_of_many_classes_the_worst_are_drawn(classes):
    labels = torch.arange(classes).repeat(2)
    answers = labels.clone()
    answers[-1] = -1  # the last class is the only one that is ever wrong
    picture = confusion_picture({"model": answer_counts(labels, answers, range(classes))}, ["x" * 300] * classes)
    assert picture.shape[1] == 900
    assert picture.shape[0] < 1500
    faint = np.array(WRONG) + (255 - np.array(WRONG)) // 2
    assert (np.abs(picture.astype(int) - faint).max(axis=2) <= 1).sum() > 200
