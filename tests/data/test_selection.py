"""How many images of each class are chosen where no number is given."""

from __future__ import annotations

import pytest
import torch

from fitb_callbacks.data.selection import ImageSelection


@pytest.mark.parametrize(("num_classes", "each"), [(2, 20), (6, 7), (10, 4), (20, 4)])
def test_few_classes_get_as_many_images_as_make_forty(num_classes, each):
    chosen = ImageSelection(per_class=None, max_images=100)
    for _ in range(30):  # a class at a time, so that the first ones do not know of the others
        for label in range(num_classes):
            chosen.offer(torch.full((1, 1, 2, 2), label), torch.tensor([label]))
    assert chosen.labels.bincount().tolist() == [each] * num_classes


def test_a_class_that_comes_late_takes_room_from_the_others():
    chosen = ImageSelection(per_class=None, max_images=64)
    chosen.offer(torch.zeros(50, 1, 2, 2), torch.zeros(50, dtype=torch.long))
    assert len(chosen) == 40
    chosen.offer(torch.ones(50, 1, 2, 2), torch.ones(50, dtype=torch.long))
    assert chosen.labels.bincount().tolist() == [20, 20]
