"""What is said of the scores: green is hard to get, amber says what is missing, red where to look."""

import pytest

from fitb_callbacks.scoring.interpretation import Spot, interpret
from fitb_callbacks.scoring.structure import shortcut

GOOD = {
    "coverage": 1.0,
    "accuracy_all": 1.0,
    "knows": 0.8,
    "judge_ceiling": 0.95,
    "structure": 0.8,
    "image_accuracy": 0.97,
    "cue_rim": -0.2,
    "cue_shading": 0.1,
    "spot_share": 0.5,
    "same_place": 0.2,
}
INTERVALS = {"knows": (0.7, 0.9)}
SPOT = Spot("at the lower right", 0.04)


def said(scores=None, intervals=None, **facts):
    facts = {"num_classes": 10, "num_images": 40, "spot": SPOT, **facts}
    return interpret(GOOD | (scores or {}), INTERVALS | (intervals or {}), **facts)


def test_green_when_nothing_is_missing():
    assert said()["tone"] == "good"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"classes_without": ["seal", "fly"]}, "2 of 10 classes have no prototype"),
        ({"num_images": 12}, "12 probe images are too few"),
        ({"intervals": {"knows": (0.05, 0.9)}}, "hardly better than chance"),
        ({"scores": {"coverage": 0.4}}, "does not know these images yet"),
        ({"scores": {"structure": float("nan")}}, "cannot tell these classes apart"),
        ({"scores": {"image_accuracy": 0.15}, "intervals": {"image_accuracy": (0.07, 0.3)}}, "hardly right more often"),
        (
            {"scores": {"reference_accuracy": 0.4}, "intervals": {"reference_accuracy": (0.1, 0.9)}},
            "trusted images lack",
        ),
        ({"scores": {"cue_spot": 0.9, "same_place": 0.4}}, "by one small spot, wherever it is"),
        ({"scores": {"cue_rim": 0.6}, "intervals": {"cue_rim": (-0.05, 0.8)}}, "may go by the rim"),
    ],
)
def test_amber_names_what_is_missing(change, words):
    found = said(**change)
    assert found["tone"] == "unclear"
    assert words in found["headline"]


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        (
            {"spot_share": 0.9, "same_place": 0.93},
            "a spot of 4% of the image, at the lower right, in 93% of the images",
        ),
        ({"spot_share": 0.9, "class_place": 0.9}, "a spot of 4% of the image, for each class at a place of its own"),
        (
            {"cue_spot": 0.9, "reference_accuracy": 0.95, "reference_spot": -0.7},
            "a spot of 4% of the image, which need not lie at the same place",
        ),
        ({"reference_accuracy": 0.3}, "right on 97% of the probe images and on only 30% of the trusted ones"),
        ({"cue_place": 0.9}, "more answers follow it than follow the rest, by 90 of 100"),
        ({"cue_rim": 0.9}, "more answers follow it than follow the rest, by 90 of 100"),
        ({"cue_shuffled": 0.8}, "80% of the answers stay right"),
    ],
)
def test_red_says_where_to_look(scores, words):
    found = said(scores)
    assert found["tone"] == "bad"
    assert words in found["reason"]


def test_classes_without_a_prototype_are_named():
    names = [f"class {number}" for number in range(7)]
    assert said(classes_without=["seal"])["reason"].endswith(" Without a prototype: seal.")
    assert said(classes_without=names)["reason"].endswith("class 3, class 4 and 2 more.")


def test_a_spot_that_leads_on_trusted_images_too_is_the_thing_itself():
    assert said({"cue_spot": 0.9, "reference_accuracy": 0.95, "reference_spot": 0.8})["tone"] == "good"
    assert said({"cue_spot": 0.9, "reference_accuracy": 0.95, "reference_spot": 0.3})["tone"] == "bad"
    assert said({"cue_spot": 0.9, "cue_rim": 0.9})["tone"] == "bad"  # a spot is not all that it goes by


def test_a_little_less_right_on_trusted_images_is_no_shortcut():
    assert said({"reference_accuracy": 0.85})["tone"] == "good"
    assert shortcut({}, 0.9, reference_accuracy=0.8) == (0.0, None)
    assert shortcut({}, 0.9, reference_accuracy=0.95) == (0.0, None)
    assert shortcut({}, 0.2, reference_accuracy=0.0) == (0.0, None)  # a model that is not right yet
    assert shortcut({"rim": 0.5}, 0.9, reference_accuracy=0.1) == (1.0, "rim")


def test_a_fill_that_looks_like_nothing_is_red_unless_the_model_is_right_on_trusted_images():
    intervals = {"knows": (-0.1, 0.2)}
    assert said(intervals=intervals, scores={"knows": 0.05})["tone"] == "bad"
    for accuracy, interval, tone in ((0.9, (0.8, 0.95), "unclear"), (0.85, (0.15, 0.95), "bad")):
        found = said({"knows": 0.05, "reference_accuracy": accuracy}, intervals | {"reference_accuracy": interval})
        assert found["tone"] == tone


def test_a_spot_must_win_over_the_rest_or_hold_the_reliance_at_one_place():
    assert shortcut({"spot": 0.1}, 1.0, share=0.3, place=0.9) == (0.0, None)
    assert shortcut({"spot": 0.1}, 1.0, share=0.9, place=0.4) == (0.0, None)
    assert shortcut({"spot": 0.1}, 1.0, share=0.9, place=0.9) == (1.0, "spot")
    assert shortcut({"spot": 0.9}, 1.0, share=0.3, place=0.1) == (1.0, "spot")


def test_a_model_that_knows_little_looks_nowhere_in_particular():
    assert shortcut({}, 0.3, share=1.0, place=1.0) == (0.0, None)
    assert shortcut({"colour": 0.2, "sharpness": 0.2}, 0.3) == (0.0, None)
    assert shortcut({"sharpness": -0.05}, 0.5)[1] == "sharpness"


def test_a_tint_is_called_a_colour_though_it_is_a_shading_too():
    assert shortcut({"colour": 0.6, "shading": 0.9, "rim": 0.5}, 1.0)[1] == "colour"
    assert shortcut({"colour": 0.0, "shading": 0.9, "rim": 0.5}, 1.0)[1] == "shading"


def test_a_mark_on_the_rim_is_called_a_spot():
    assert shortcut({"spot": 0.6, "rim": 0.9, "detail": 0.5}, 1.0)[1] == "spot"
    assert shortcut({"spot": 0.1, "rim": 0.9}, 1.0, share=0.9, place=0.9)[1] == "spot"
    assert shortcut({"spot": 0.1, "rim": 0.9}, 1.0, share=0.9, place=0.2)[1] == "rim"
