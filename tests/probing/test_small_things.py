"""A class may be a small thing, as a lesion is: trusted images tell it from a mark."""

import pytest

from fitb_callbacks import FillInBlanks
from small_things import Reader, pictures, trusting

PROBE = FillInBlanks(num_masks=64, chunk_size=256, fill=None)


@pytest.fixture(scope="module")
def probed():
    return pictures(40, 0, things=True, sides=True)


def test_without_trusted_images_nobody_can_tell(probed):
    found = PROBE.probe(Reader(), *probed)
    assert found.metrics["cue_spot"] > 0.9
    said = found.interpretation()
    assert said["tone"] == "unclear"
    assert said["headline"] == "The model goes by one small spot, wherever it is."
    assert "reference=" in said["reason"]


def test_what_trusted_images_show_is_no_shortcut(probed):
    found = PROBE.probe(Reader(), *probed, judge=trusting(things=True, sides=False))
    assert found.metrics["reference_accuracy"] == 1
    assert found.metrics["reference_spot"] > 0.9
    assert found.metrics["shortcut"] == 0
    assert found.interpretation()["tone"] != "bad"


def test_a_mark_that_trusted_images_lack_is_one_though_the_model_is_right_on_them(probed):
    found = PROBE.probe(Reader(), *probed, judge=trusting(things=False, sides=True))
    assert found.metrics["reference_accuracy"] == 1
    assert found.metrics["reference_spot"] < 0.2
    assert found.metrics["shortcut"] == 1
    assert found.interpretation()["headline"] == "The model looks at one small spot."


def test_what_is_told_by_its_shading_may_be():
    shapes = pictures(40, 0, things=False, sides=True)
    assert PROBE.probe(Reader(), *shapes).metrics["shortcut"] == 1
    found = PROBE.probe(Reader(), *shapes, judge=trusting(things=False, sides=True))
    assert found.metrics["shortcut"] < 0.3
    assert found.metrics["structure"] > 0.5
