"""The confusion matrix as a picture."""

import torch

from fitb_callbacks.plotting.confusion import confusion_picture
from fitb_callbacks.scoring.classification import answer_counts


def test_the_confusion_picture_is_green_on_the_diagonal_and_red_beside_it():
    labels = torch.arange(30) % 3
    counts = answer_counts(labels, labels, [0, 1, 2])
    shifted = answer_counts(labels, (labels + 1) % 3, [0, 1, 2])
    right = confusion_picture({"model": counts, "judge": counts}, ["a", "b", "c"])
    wrong = confusion_picture({"model": shifted}, ["a", "b", "c"])

    def green_and_red(picture):
        red, green, blue = (picture[..., channel].astype(int) for channel in range(3))
        return ((green > red + 50) & (green > blue)).sum(), ((red > green + 100) & (red > blue)).sum()

    assert green_and_red(right)[0] > 1000
    assert green_and_red(right)[1] == 0
    assert green_and_red(wrong)[0] == 0
    assert green_and_red(wrong)[1] > 1000
    assert right.shape[1] > 1.5 * wrong.shape[1]  # two panels with a judge, one without
