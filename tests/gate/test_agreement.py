"""Whether two models go by the same things, told by pictures made of two images."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fitb_callbacks import FillInBlanks
from fitb_callbacks.gate.agreement import Leanings, agreement, leanings
from fitb_callbacks.gate.model import check_model
from fitb_callbacks.gate.rules import Rule, default_rules
from fitb_callbacks.gate.verdict import Measured, decide
from fitb_callbacks.models.logits import label_by_label
from fitb_callbacks.scoring.judges.module import ModuleJudge
from small_network import fitted

PROBE = FillInBlanks(num_masks=16, chunk_size=64, fill=None)


def everything(images):
    return torch.arange(len(images))[None]


def marked(images, labels):
    """A bright pixel of the first row for each class."""
    images = images.clone()
    images[torch.arange(len(images)), 0, 0, labels % 8] = 1
    images[torch.arange(len(images)), 0, 1, labels // 8] = 1
    return images


@pytest.fixture(scope="module")
def models(digits):
    """A healthy network of another architecture than `trained`, and one that follows a mark."""
    images, labels = (tensor[:1400] for tensor in digits.tensors)
    wrong = torch.where(torch.arange(1400) % 2 == 0, labels, labels.roll(1))  # the mark is the better clue
    return fitted(images, labels, seed=1), fitted(marked(images, wrong), wrong, seed=2)


@pytest.fixture
def with_mark(probe_images):
    return marked(*probe_images), probe_images[1]


def test_healthy_models_lean_alike_and_one_that_follows_a_mark_does_not(trained, models, with_mark):
    images, labels = with_mark
    rows = everything(images)
    champion, healthy, follows = (leanings(ModuleJudge(model), images, labels) for model in (trained, *models))
    assert follows.right > 0.95
    assert agreement(champion, healthy, rows).item() > 0.6
    assert agreement(champion, follows, rows).item() < 0.2
    assert agreement(champion, champion, rows).item() == pytest.approx(1)


def test_the_default_rules_refuse_the_mark_and_not_the_healthy_model(trained, models, with_mark):
    rules = [rule for rule in default_rules(champion=True, trusted=False) if rule.needs_champion]
    healthy, follows = (check_model(model, *with_mark, rules, probe=PROBE, champion=trained) for model in models)
    assert healthy.passed
    (refused,) = (outcome for outcome in follows.outcomes if outcome.passed is False)
    assert refused.rule.key == "peer_agreement"
    assert refused.interval[0] < refused.value < refused.interval[1] < healthy.scores["peer_agreement"]
    assert follows.scores["peer_agreement"] == follows.champion_scores["peer_agreement"] == refused.value


@pytest.mark.parametrize(("bound", "passed"), [(0.25, True), (0.35, None), (0.45, None), (0.55, False)])
def test_a_bound_within_the_interval_is_left_open(bound, passed):
    measured = Measured({"peer_agreement": 0.4}, {"peer_agreement": (0.3, 0.5)})
    (outcome,) = decide([Rule("min", "peer_agreement", bound)], measured)
    assert outcome.passed is passed


def test_each_picture_is_half_of_either_and_the_same_each_time(probe_images):
    labels = probe_images[1]
    seen = []

    class Watching(nn.Module):
        def forward(self, batch):
            seen.append(batch.clone())
            return batch.flatten(1)[:, :10]

    numbers = torch.arange(1.0, 31).view(-1, 1, 1, 1).expand(30, 1, 9, 9).contiguous()
    first = leanings(ModuleJudge(Watching()), numbers, labels)
    again = leanings(ModuleJudge(Watching()), numbers, labels)
    assert torch.equal(first.mixed, again.mixed)
    own, others = [], set()
    for pictures in seen[1:25]:
        of_it = pictures == numbers
        own.append(of_it.double().mean().item())
        partners = pictures.masked_fill(of_it, 0).amax(dim=(1, 2, 3)).long() - 1
        assert (labels[partners] != labels).all()
        others.add(tuple(partners.tolist()))
    assert sorted(set(own)) == pytest.approx([4 / 9, 5 / 9])
    assert sum(own) / len(own) == pytest.approx(0.5)
    assert len(others) > 1


def test_unsure_pictures_count_less():
    of_two = torch.tensor([[4.0, -0.1], [-4.0, 0.1]])
    opposite = of_two * torch.tensor([1.0, -1.0])
    assert agreement(Leanings(of_two, 1.0), Leanings(opposite, 1.0), everything([0, 1])).item() > 0.99
    nowhere = Leanings(torch.zeros(2, 2), 0.0)
    assert agreement(nowhere, Leanings(of_two, 1.0), everything([0, 1])).isnan()


def test_independent_labels_lean_by_their_own_yes(probe_images):
    images, labels = probe_images
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    found = leanings(ModuleJudge(model, label_by_label()), images, labels)
    assert found.mixed.shape == (24, 30)
    assert 0 < found.mixed.abs().max() < 6


def test_a_champion_that_does_not_know_the_images_cannot_judge(trained, models, probe_images):
    """But it may agree, and what another rule refuses stays refused."""
    images, labels = probe_images
    unknown = torch.where(torch.arange(30) % 5 == 0, labels, (labels + 3) % 10)
    rule = Rule("min", "peer_agreement", 0.35)
    follows = models[1]
    with pytest.raises(ValueError, match=r"the champion tells only \d+% of the images.*--data.*--trusted"):
        check_model(follows, marked(images, unknown), unknown, [rule], probe=PROBE, champion=trained)
    refused = check_model(
        follows, images, unknown, [rule, Rule("min", "image_accuracy", 0.9)], probe=PROBE, champion=trained
    )
    assert refused.verdict == "refused"
    assert check_model(trained, images, unknown, [rule], probe=PROBE, champion=trained).passed


def test_volumes_are_cut_into_cells_across_all_slices():
    torch.manual_seed(0)
    labels = torch.arange(12) % 3
    volumes = torch.rand(12, 1, 5, 8, 8) * (1 + labels.view(-1, 1, 1, 1, 1)) / 3

    def trained_on_brightness():
        model = nn.Sequential(nn.AdaptiveAvgPool3d(2), nn.Flatten(), nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
        for _ in range(100):
            optimizer.zero_grad()
            F.cross_entropy(model(volumes), labels).backward()
            optimizer.step()
        return model.eval()

    found = check_model(
        trained_on_brightness(), volumes, labels, [Rule("min", "peer_agreement", 0.2)], probe=PROBE,
        champion=trained_on_brightness(),
    )  # fmt: skip
    assert found.peer_agreement > 0.3
