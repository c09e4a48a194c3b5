"""Rules, intervals and the verdict on a model, without any registry."""

import dataclasses
import math

import pytest
import torch
from scipy import stats
from torch import nn

import warm_process
from fitb_callbacks import FillInBlanks
from fitb_callbacks.gate.bootstrap import differences, resampled_scores, resamples, student_quantile
from fitb_callbacks.gate.description import notes
from fitb_callbacks.gate.junit import junit_xml
from fitb_callbacks.gate.model import check_model
from fitb_callbacks.gate.registry import check_registered
from fitb_callbacks.gate.rules import Rule, Rules, parse_values
from fitb_callbacks.integrations.mlflow.client import connected
from fitb_callbacks.integrations.mlflow.loading import load_model
from fitb_callbacks.integrations.mlflow.lookup import find_model
from fitb_callbacks.models.steadiness import check_steady
from fitb_callbacks.scoring.catalogue import RESAMPLED
from fitb_callbacks.scoring.judges.centroid import CentroidJudge
from mlflow_store import new_store

PROBE = FillInBlanks(num_masks=16, chunk_size=64)  # no chunk sizes are tried, so that two probes of one model agree


@pytest.fixture(scope="module")
def untrained():
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


@pytest.fixture(scope="module")
def judge(digits):
    judge = CentroidJudge()
    judge.update(*(tensor[:1400] for tensor in digits.tensors))
    return judge


@pytest.fixture(scope="module")
def images(digits):
    return tuple(tensor[1400:1600] for tensor in digits.tensors)


@pytest.fixture(scope="module")
def results(trained, untrained, judge, images):
    return [PROBE.probe(model, *images, judge=judge) for model in (trained, untrained)]


def test_the_scores_of_the_images_themselves_are_those_of_the_probe(results):
    for result in results:
        again = resampled_scores(result, torch.arange(len(result.labels)).unsqueeze(0))
        assert set(again) == set(RESAMPLED)
        for key, value in again.items():
            assert value.item() == pytest.approx(result.metrics[key], abs=1e-6, nan_ok=True), key


def test_without_a_covered_image_scores_are_undefined_or_zero(results):
    result = dataclasses.replace(results[0], kept=torch.zeros_like(results[0].kept))
    scores = resampled_scores(result, torch.arange(len(result.labels)).unsqueeze(0))
    assert math.isnan(scores["accuracy"])
    assert math.isnan(scores["f1_macro"])
    assert scores["coverage"] == scores["accuracy_all"] == scores["f1_macro_all"] == 0


def test_resamples_leave_one_image_of_each_class_out_and_draw_evenly():
    labels = torch.tensor([0, 1, 1, 1, 0, 2, 3])
    rows = resamples(labels, seed=0, number=4000)
    drawn = labels[rows].sort(dim=1).values
    assert torch.equal(drawn[:, :3], torch.tensor([0, 1, 1]).expand(4000, 3))
    assert drawn[:, 3].unique().tolist() == [2, 3]  # classes with one image are drawn from together
    shares = torch.bincount(rows.flatten(), minlength=7) / 4000
    assert shares.tolist() == pytest.approx([1 / 2, 2 / 3, 2 / 3, 2 / 3, 1 / 2, 1 / 2, 1 / 2], abs=0.04)
    assert torch.equal(rows, resamples(labels, seed=0, number=4000))


def test_the_quantile_is_that_of_student():
    for freedom in (1, 2, 3, 5, 10, 30, 1000):
        assert student_quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=3e-3)


def test_the_interval_of_a_difference_is_that_of_the_pairs(results):
    """Rates: the variance of a mean of paired differences within classes, which normal theory gives as well."""
    good, bad = results
    drop, low, high = differences(good, bad)["accuracy_all"]
    right = [(result.predictions == result.labels) & result.covered for result in results]
    pairs = right[0].double() - right[1].double()
    assert drop == pytest.approx(pairs.mean().item(), abs=1e-6)
    variance = sum(pairs[good.labels == label].var() * (good.labels == label).sum() for label in range(10))
    expected = 2 * 1.97 * variance.sqrt().item() / len(pairs)
    assert high - low == pytest.approx(expected, rel=0.1)
    assert low < drop < high


def test_what_both_find_hard_cancels_out(results):
    for key, (drop, low, high) in differences(results[0], results[0]).items():
        assert drop == low + high == 0, key
        assert high < 0.01, key  # two hundred images that agree do not prove that none would differ


def test_different_settings_or_images_are_not_compared(results, trained, images):
    other = FillInBlanks(num_masks=12, seed=3).probe(trained, *images)
    with pytest.raises(
        ValueError, match="different settings cannot be compared: num_masks is 16 and 12, seed is 0 and 3"
    ):
        differences(results[0], other)
    changed = dataclasses.replace(results[0], images=results[0].images.flip(0))
    with pytest.raises(ValueError, match="different images"):
        differences(results[0], changed)


def test_a_good_model_passes_against_a_bad_one_and_not_the_other_way_round(trained, untrained, judge, images):
    rules = [Rule("min", "peer_accuracy", 0.0), Rule("max_drop", "structure", 0.02), Rule("max", "nonfinite", 0)]
    good = check_model(trained, *images, rules[1:], probe=PROBE, champion=untrained, judge=judge)
    bad = check_model(untrained, *images, rules, probe=PROBE, champion=trained, judge=judge)
    assert good.passed
    assert [outcome.passed for outcome in bad.outcomes] == [True, False, True]
    assert bad.outcomes[1].certain
    assert bad.outcomes[1].value == -good.outcomes[0].value > 0.02
    assert good.peer_accuracy == bad.peer_accuracy[::-1]
    expected = {**bad.champion_scores, "lost_classes": 0.0}
    assert good.scores == pytest.approx(expected, nan_ok=True)  # to rounding: chunk sizes are tried
    assert 'failures="1"' in junit_xml("it", bad.outcomes)


def test_who_cannot_judge_is_told_apart_from_a_refusal(trained, untrained, judge, images):
    """With what to do about it: such a check ends with exit code 2."""
    with pytest.raises(ValueError, match=r"champion recognises only \d+% of its own prototypes.*--trusted"):
        check_model(trained, *images, [Rule("min", "peer_accuracy", 0.5)], probe=PROBE, champion=untrained)
    moved = images[0].roll((4, 4), (2, 3)), images[1]
    with pytest.raises(ValueError, match=r"judge recognises only \d+% of the images.*--trusted.*--champion"):
        check_model(trained, *moved, [Rule("min", "structure", 0.1)], probe=PROBE, judge=judge)


def test_a_class_that_the_champion_knows_must_not_be_lost(trained, images):
    class Without(nn.Module):
        """The same model, which has never seen a 3."""

        def forward(self, pictures):
            return trained(pictures).index_fill(1, torch.tensor([3]), -100.0)

    rows = torch.cat([(images[1] == label).nonzero()[:4, 0] for label in range(10)])
    few = tuple(tensor[rows] for tensor in images)
    rules = [Rule("max_drop", "coverage", 0.1), Rule("max", "lost_classes", 0)]
    names = [*"012", "three", *"456789"]
    found = check_model(Without(), *few, rules, probe=PROBE, champion=trained, class_names=names)
    assert [outcome.passed for outcome in found.outcomes] == [True, False]  # a tenth of the images may be lost
    assert notes(found.as_dict()) == ["The champion knows three; this model does not."]
    assert check_model(trained, *few, rules, probe=PROBE, champion=Without()).passed
    three_each = tuple(tensor[torch.arange(40) % 4 < 3] for tensor in few)
    assert check_model(Without(), *three_each, rules, probe=PROBE, champion=trained).scores["lost_classes"] == 0


@pytest.mark.slow
def test_a_drop_that_few_images_cannot_show_is_left_open(trained, untrained, images):
    rule = [Rule("max_drop", "coverage", 0.1)]

    def verdict(rows, **options):
        few = tuple(tensor[rows] for tensor in images)
        return check_model(untrained, *few, rule, probe=PROBE, champion=trained, **options).verdict

    one_each = torch.stack([(images[1] == label).nonzero()[0, 0] for label in range(3)])
    assert verdict(one_each) == "open"
    assert verdict(slice(None)) == "refused"
    outcome = check_model(trained, *images, rule, probe=PROBE, champion=trained).outcomes[0]
    assert outcome.passed
    assert outcome.certain


def test_both_models_report_how_far_their_probe_is(trained, untrained, images):
    reports = []
    rules = [Rule("min", "coverage", 0)]
    check_model(
        trained, *images, rules, probe=PROBE, champion=untrained, progress=lambda *report: reports.append(report)
    )
    ends = [number for number, (done, total) in enumerate(reports) if done == total]
    assert len(ends) == 2
    assert ends[-1] == len(reports) - 1


def test_an_exact_bound_is_kept_and_certainty_is_asked_for(trained, images):
    images = tuple(tensor[:30] for tensor in images)
    coverage = PROBE.probe(trained, *images).coverage
    assert 0.9 < coverage <= 1
    rule = [Rule("min", "coverage", round(coverage, 6))]
    kept = check_model(trained, *images, rule, probe=PROBE).outcomes[0]
    assert kept.passed
    assert not kept.certain
    assert check_model(trained, *images, rule, probe=PROBE, certain=True).verdict == "open"
    assert check_model(trained, *images, [Rule("min", "coverage", 0.5)], probe=PROBE, certain=True).passed


class BatchNormed(nn.Module):
    def forward(self, images):
        return nn.functional.batch_norm(images.flatten(1), None, None, training=True)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(9, 10)), "the model cannot be probed on images of .*RuntimeError"),
        (nn.Flatten(0), "no logits found"),
        (BatchNormed(), "depend on the others in the batch"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 5)), "labels must be from 0 to 4"),
    ],
)
def test_a_model_that_cannot_be_judged(model, says, images):
    with pytest.raises(ValueError, match=says) as caught:
        check_model(model, *images, [Rule("min", "coverage", 0.5)], probe=PROBE)
    assert "\n" not in str(caught.value)


def test_an_exported_model_with_dropout_on_is_refused():
    model = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(64, 10))
    example = (torch.rand(4, 1, 8, 8),)
    batch = ({0: torch.export.Dim("batch")},)
    for mode in (True, False):
        exported = torch.export.export(model.train(mode), example, dynamic_shapes=batch).module()
        if mode:
            with pytest.raises(ValueError, match="as if dropout were on"):
                check_steady(exported, torch.rand(8, 1, 8, 8))
        else:
            check_steady(exported, torch.rand(8, 1, 8, 8))


def test_an_undefined_score_is_no_verdict(trained, images):
    images = tuple(tensor[:4] for tensor in images)
    with pytest.raises(ValueError, match="the score of the rule 'reliability at least 0' is undefined"):
        check_model(trained, *images, [Rule("min", "reliability", 0)], probe=FillInBlanks(num_masks=1))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[", "rules.yaml: "),
        ("3", "rules must be a mapping of min, max"),
        ("least: {coverage: 1}", "there is no least; there are min, max"),
        ("min: coverage", "min must be of type dict; got 'coverage'"),
        ("min: {cover: 1}", "there is no score 'cover'; did you mean coverage"),
        ("min: {drift: 1}", "min: drift describes a training run, not a model"),
        ("max: {overhead: 1}", "max: overhead describes a training run, not a model"),
        ("min: {coverage: true}", "min of coverage must be a finite number; got True"),
        ("max: {area: .nan}", "max of area must be a finite number; got nan"),
        ("max_drop: {area: -1}", "max_drop of area must be at least 0; got -1"),
        ("max_drop: {nonfinite: 1}", "max_drop goes with structure, "),
        ("max_drop: {peer_accuracy: 1}", "as it is of the two models together; use min"),
        ("min: {lost_classes: 1}", "min: lost_classes is better the lower it is"),
        ("images_per_class: many", "images_per_class must be of type int; got 'many'"),
        ("settings: [1]", "settings must be of type dict"),
        ("mean: grey", "mean must be of type list; got 'grey'"),
    ],
)
def test_rules_that_are_none_are_named(tmp_path, text, says):
    (tmp_path / "rules.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"rules\.yaml: ") as caught:
        Rules.load("rules.yaml")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_values_are_yaml():
    assert parse_values(["a=1e-3", "b=null", "c=[0.5, 0.5]", "d=bfgs"], argument="--set") == {
        "a": 1e-3, "b": None, "c": [0.5, 0.5], "d": "bfgs",
    }  # fmt: skip


@pytest.mark.parametrize("missing", ["mlflow", "junitparser", "yaml"])
@pytest.mark.slow
def test_the_command_says_which_extra_it_needs(missing, tmp_path):
    """And does not end with 1, which says: refused."""
    (tmp_path / "script.py").write_text(f"""
import sys
for name in [name for name in sys.modules if name.split(".")[0] in ("fitb_callbacks", {missing!r})]:
    del sys.modules[name]  # of what the warm process has imported already
sys.modules[{missing!r}] = None
from fitb_callbacks.__main__ import main
main()
""")
    arguments = ["check", "models:/digits/1", "--data", "mnist", "--min", "coverage=0.5", "--junit", "a.xml"]
    done = warm_process.run(tmp_path / "script.py", *arguments)
    assert done.returncode == 2, done.stderr
    assert f"it needs {missing}: pip install 'fitb-callbacks[check]'" in done.stdout


def test_a_model_of_nan_is_said_to_be_that(untrained, images):
    broken = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    nn.init.constant_(broken[1].weight, math.nan)
    with pytest.raises(ValueError, match="the model cannot be probed: its logits for these images are NaN"):
        check_model(broken, *images, [Rule("min", "coverage", 0.5)], probe=PROBE)


def test_a_model_whose_files_are_gone_is_said_to_have_none(tmp_path):
    """MLflow downloads nothing then, adds what it knows of the registration, and does not complain."""
    (tmp_path / "gone").mkdir()
    with connected(new_store(tmp_path / "mlflow.db")) as client:
        client.create_registered_model("classifier")
        client.create_model_version("classifier", str(tmp_path / "gone"), None)
        with pytest.raises(ValueError, match="models:/classifier/1 has no files: they are gone from the store of its"):
            load_model(find_model(client, "models:/classifier/1"))


def test_artifacts_that_are_gone_are_named_as_the_cause(tmp_path):
    """The training logged scores, but the judge and the images that it stored are no longer there."""
    uri = new_store(tmp_path / "mlflow.db")
    with connected(uri) as client:
        run_id = client.create_run("0").info.run_id
        client.log_metric(run_id, "fitb/structure", 0.5)
        address = f"models:/{client.create_logged_model('0', name='classifier', source_run_id=run_id).model_id}"
    rules = Rules(rules=(Rule("min", "structure", 0.5),), champion=address, data="mnist")
    with pytest.raises(ValueError, match="needs a judge: that of the champion's training is gone from the artifacts"):
        check_registered(address, rules, tracking_uri=uri)
    with pytest.raises(ValueError, match=r"the training of .* recorded some that are gone from its run.s artifacts"):
        check_registered(address, Rules(), tracking_uri=uri)
