"""What scores must not survive, and what must not matter to them (Adebayo et al., 2018)."""

import copy

import pytest
import torch
from torch import nn

from fitb_callbacks import FillInBlanks, RidgeJudge

PROBE = FillInBlanks(num_masks=64, tolerance=None, chunk_size=256)


class Louder(nn.Module):
    """The same classifier with its logits multiplied."""

    def __init__(self, model, factor):
        super().__init__()
        self.model, self.factor = model, factor

    def forward(self, images):
        return self.factor * self.model(images)


@pytest.fixture(scope="module")
def judge(digits):
    judge = RidgeJudge()
    judge.update(*(tensor[:800] for tensor in digits.tensors))
    return judge


@pytest.fixture(scope="module")
def found(trained, digits, judge):
    images, labels = (tensor[1400:1440] for tensor in digits.tensors)
    return PROBE.probe(trained, images, labels, judge=judge)


def randomised(model, layers):
    """A copy whose last so many layers have new random weights."""
    copied = copy.deepcopy(model)
    torch.manual_seed(1)
    for layer in [each for each in copied if hasattr(each, "reset_parameters")][-layers:]:
        layer.reset_parameters()
    return copied


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_scores_fall_to_chance_when_layers_are_randomised_from_the_top(trained, found, judge, layers):
    random = PROBE.probe(randomised(trained, layers), found.images, found.labels, judge=judge)
    assert found.metrics["knows"] > 0.7
    assert found.metrics["image_accuracy"] > 0.9
    assert random.intervals["knows"][0] <= 0.1, "the judge sees more than chance"
    assert random.metrics["knows"] < 0.3
    assert random.metrics["image_accuracy"] < 0.35
    assert random.metrics["structure"] < 0.3
    assert random.interpretation()["tone"] != "good"
    cosine = torch.cosine_similarity(random.reliance.flatten(1), found.reliance.flatten(1)).mean()
    assert cosine < 0.5


@pytest.mark.parametrize("factor", [10.0, 0.1])
def test_scores_do_not_depend_on_the_scale_of_the_logits(trained, found, judge, factor):
    louder = PROBE.probe(Louder(trained, factor), found.images, found.labels, judge=judge)
    for name in found.metrics:
        if name.startswith("cue_") or name in ("image_accuracy", "spot_share", "same_place", "coverage"):
            assert louder.metrics[name] == pytest.approx(found.metrics[name], abs=0.06), name
    torch.testing.assert_close(louder.reliance, found.reliance, atol=0.01, rtol=0)
    for name in ("knows", "structure"):
        assert louder.metrics[name] == pytest.approx(found.metrics[name], abs=0.1), name
