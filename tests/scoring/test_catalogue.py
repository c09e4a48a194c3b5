"""The table of scores: what follows from it agrees with what the code computes."""

import pytest
import torch

from fitb_callbacks import CentroidJudge, FillInBlanks
from fitb_callbacks.gate.bootstrap import resampled_scores
from fitb_callbacks.gate.rules import Rule
from fitb_callbacks.scoring.catalogue import GROUPS, KEY_METRICS, METRICS, RESAMPLED, group_of


@pytest.fixture
def result(trained, probe_images):
    judge = CentroidJudge()
    judge.update(*probe_images)
    return FillInBlanks(num_masks=4).probe(trained, *probe_images, judge=judge)


def test_groups_hold_every_score_once():
    grouped = [name for group in GROUPS for name in group_of(group)]
    assert sorted(grouped) == sorted(METRICS)


def test_scores_marked_as_resampled_are_those_that_can_be(result):
    assert set(resampled_scores(result, torch.arange(len(result.labels))[None])) == set(RESAMPLED)


def test_scores_by_class_are_those_marked(result):
    assert set(result.per_class) == {name for name, metric in METRICS.items() if metric.per_class}


def test_scores_that_need_a_judge_are_those_that_a_judge_adds(result, trained, probe_images):
    alone = FillInBlanks(num_masks=4).probe(trained, *probe_images)
    assert set(result.metrics) - set(alone.metrics) == {name for name, metric in METRICS.items() if metric.needs_judge}


def test_loggers_get_at_most_twelve_keys_unasked():
    assert {"accuracy", "f1_macro", "f1_weighted", "coverage", "structure"} <= set(KEY_METRICS)
    assert len(KEY_METRICS) <= 12


def test_the_key_scores_read_well_in_the_order_of_their_names():
    """Dashboards sort by name: the two facts stand next to each other, and what follows from them last."""
    assert sorted(KEY_METRICS)[-4:] == ["knows", "reference_accuracy", "shortcut", "structure"]


@pytest.mark.parametrize("name", METRICS)
def test_rules_bound_what_describes_a_model(name):
    if METRICS[name].scope == "model":
        assert Rule("min", name, 0.5).key == name
    else:
        with pytest.raises(ValueError, match=f"{name} describes a training run, not a model"):
            Rule("min", name, 0.5)
