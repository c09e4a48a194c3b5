"""The callback's judges, comparisons over epochs, and what it logs of single classes."""

import math
from functools import partial
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fitb_callbacks import FillInBlanksCallback
from fitb_callbacks.scoring.catalogue import KEY_METRICS
from fitb_callbacks.scoring.judges.centroid import CentroidJudge
from quick import quick_callback, quiet_trainer

NUM_CLASSES = 3


def bars(number=48, *, size=8, seed=0):
    """Images with a bar at a height of their class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(number) % NUM_CLASSES
    images = 0.3 * torch.rand(number, 1, size, size, generator=generator)
    for image, label in zip(images, labels, strict=True):
        image[:, 3 * int(label)] += 0.7
    return images, labels


class Net(LightningModule):
    def __init__(self, classes=NUM_CLASSES):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, classes))

    def forward(self, images):
        return self.layers(images)

    def training_step(self, batch, _):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, _):
        self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.3)


def loaders(images_and_labels=None, *, shuffle=True):
    data = TensorDataset(*(images_and_labels or bars()))
    return DataLoader(data, batch_size=12, shuffle=shuffle), DataLoader(data, batch_size=12)


def fit(callback, tmp_path, *, epochs=2, data=None, shuffle=True, logger=False, ckpt_path=None, net=None):
    torch.manual_seed(0)
    trainer = quiet_trainer(
        tmp_path, max_epochs=epochs, callbacks=[callback], logger=logger, enable_checkpointing=True, log_every_n_steps=1
    )
    trainer.fit(net or Net(), *loaders(data, shuffle=shuffle), ckpt_path=ckpt_path)
    return trainer


callback = partial(quick_callback, num_masks=16, images_per_class=4)


def test_class_means_are_those_of_the_training_images_whatever_the_order(tmp_path):
    probing = callback(judge="centroid")
    fit(probing, tmp_path, epochs=3)
    images, labels = bars()
    streamed = probing.state_dict()["streamed"]
    for label in range(NUM_CLASSES):
        torch.testing.assert_close(streamed["means"][label], images[labels == label].mean(0))
    assert streamed["counts"].tolist() == [16, 16, 16]  # one epoch's, not three


def test_a_trained_model_shows_structure_to_every_kind_of_judge(tmp_path):
    champion = Net()
    fit(callback(judge=None), tmp_path, epochs=8, net=champion)
    for judging in ({}, {"reference": bars(seed=9)}, {"judge": champion.layers}):
        probing = callback(**judging)
        fit(probing, tmp_path, epochs=8)
        assert probing.result.metrics["judge_accuracy"] > 0.9, judging
        assert probing.result.metrics["knows"] > 0.8, judging
        assert 0 <= probing.result.metrics["structure"] <= 1, judging


def test_without_a_judge_there_are_no_judged_scores(tmp_path):
    probing = callback(judge=None)
    trainer = fit(probing, tmp_path)
    assert not any("judge" in name or name == "structure" for name in probing.result.metrics)
    assert "fitb/structure" not in trainer.callback_metrics


def test_judging_does_not_change_the_training(tmp_path):
    plain, probed = Net(), Net()
    probed.load_state_dict(plain.state_dict())
    torch.manual_seed(0)
    quiet_trainer(tmp_path).fit(plain, *loaders())
    fit(callback(reference=DataLoader(TensorDataset(*bars()), shuffle=True, batch_size=7)), tmp_path, net=probed)
    for one, other in zip(plain.parameters(), probed.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"judge": Net(classes=7).layers}, "judge must have 3 classes, as the model; got 7"),
        ({"judge": nn.Sequential(nn.Flatten(), nn.Linear(100, 3))}, r"judge must take images of the shape \(1, 8, 8\)"),
        ({"reference": bars(size=7)}, r"reference must hold images of the shape \(1, 8, 8\).*got \(1, 7, 7\)"),
        ({"reference": (bars()[0], bars()[1] + 1)}, r"reference must hold labels from 0 to 2.*got 3"),
        ({"reference": (bars(4)[0], torch.tensor([0, 2, 2, 0]))}, "reference must hold.*it has none of class 1"),
        ({"reference": TensorDataset(bars()[0])}, "found no labels"),
    ],
)
def test_a_judge_that_does_not_fit_costs_the_judge_alone(tmp_path, arguments, message):
    probing = FillInBlanksCallback(max_overhead=None, num_masks=4, **arguments)
    with pytest.warns(UserWarning, match=f"the judge does not fit, so there is none: .*{message}"):
        fit(probing, tmp_path)
    assert len(probing.history) == 2
    assert "structure" not in probing.history[0]
    with pytest.raises((ValueError, TypeError), match=message):
        fit(callback(**arguments), tmp_path)


def test_wrong_judges_are_refused_at_once():
    with pytest.raises(ValueError, match=r"judge must be .ridge., .centroid., .*, a Judge or None; got .mean."):
        FillInBlanksCallback(judge="mean")
    with pytest.raises(ValueError, match="reference needs judge='ridge'"):
        FillInBlanksCallback(judge=None, reference=bars())
    with pytest.raises(TypeError, match="reference must be a pair of tensors"):
        FillInBlanksCallback(reference=3)


def test_a_class_absent_from_the_training_data_is_named_once(tmp_path):
    images, labels = bars()
    keep = labels != 1
    with pytest.warns(UserWarning, match="no image of class 1: the judge never sees it") as caught:
        fit(callback(), tmp_path, epochs=3, data=(images[keep], labels[keep]))
    assert sum("no image of class 1" in str(warning.message) for warning in caught) == 1


def test_carryover_and_drift_are_undefined_in_the_first_probe_only(tmp_path):
    probing = callback()
    trainer = fit(probing, tmp_path, epochs=3)
    first, *others = probing.history
    assert math.isnan(first["drift"])
    assert math.isnan(first["carryover_accuracy"])
    assert all(0 < each["drift"] < 1 and 0 <= each["carryover_accuracy"] <= 1 for each in others)
    assert trainer.callback_metrics["fitb/drift"].item() == pytest.approx(others[-1]["drift"])


def test_a_resumed_run_gives_the_same_scores_as_an_uninterrupted_one(tmp_path):
    whole, half, resumed = callback(), callback(), callback()
    fit(whole, tmp_path, epochs=4, shuffle=False)
    fit(half, tmp_path, epochs=2, shuffle=False).save_checkpoint(tmp_path / "half.ckpt")
    torch.load(tmp_path / "half.ckpt", weights_only=True)
    fit(resumed, tmp_path, epochs=4, shuffle=False, ckpt_path=tmp_path / "half.ckpt")
    assert len(resumed.history) == 4
    for entry, expected in zip(resumed.history, whole.history, strict=True):
        assert entry.pop("seconds") > 0
        assert entry.pop("overhead") > 0
        expected.pop("seconds")
        expected.pop("overhead")
        assert entry == pytest.approx(expected, nan_ok=True)
    assert not math.isnan(resumed.history[2]["drift"])


def test_a_resumed_run_keeps_the_class_means_of_its_first_epoch(tmp_path):
    half, resumed = callback(), callback()
    fit(half, tmp_path, epochs=1).save_checkpoint(tmp_path / "half.ckpt")
    fit(resumed, tmp_path, epochs=3, data=bars(seed=9), ckpt_path=tmp_path / "half.ckpt")
    before, after = (probing.state_dict()["streamed"] for probing in (half, resumed))
    for name in ("class_sums", "products", "counts"):
        assert torch.equal(after[name], before[name])


def test_loggers_get_classes_and_the_confusion_matrix(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path)
    probing = callback(class_names=["a", "b/c", "d"], scores="all")
    fit(probing, tmp_path, logger=logger)
    events = EventAccumulator(logger.log_dir, size_guidance={"images": 0})
    events.Reload()
    assert {"fitb/prototypes", "fitb/confusion"} <= set(events.Tags()["images"])
    scalars = events.Tags()["scalars"]
    assert {f"fitb_by_class/{score} b_c" for score in ("accuracy", "coverage", "judge_accuracy")} <= set(scalars)
    logged = events.Scalars("fitb_by_class/coverage b_c")[-1].value
    assert logged == pytest.approx(probing.result.per_class["coverage"][1])


def test_loggers_get_few_keys_unasked_and_monitors_any(tmp_path):
    headers = {}
    for scores in ("key", "all"):
        logger = CSVLogger(tmp_path, name=scores)
        probing = callback(scores=scores)
        trainer = fit(probing, tmp_path, logger=logger)
        logger.save()
        header = (Path(logger.log_dir) / "metrics.csv").read_text().splitlines()[0].split(",")
        headers[scores] = [key for key in header if key.startswith("fitb")]
        assert {"fitb/cue_rim", "fitb/judge_ceiling", "fitb/drift"} <= set(trainer.callback_metrics), scores
        assert "cue_rim" in probing.history[-1]
    expected = set(KEY_METRICS) - {"reference_accuracy"}  # there are no trusted images
    assert sorted(headers["key"]) == [f"fitb/{name}" for name in sorted(expected)]
    assert {"fitb/cue_rim", "fitb/seconds", "fitb_by_class/coverage 0"} <= set(headers["all"])


def test_scores_must_be_key_or_all():
    with pytest.raises(ValueError, match=r"scores must be .*; got 'few'"):
        callback(scores="few")


def test_scores_of_classes_are_capped(tmp_path):
    images = torch.rand(60, 1, 8, 8)
    labels = torch.arange(60) % 30
    logger = CSVLogger(tmp_path)
    fit(callback(scores="all"), tmp_path, epochs=1, data=(images, labels), net=Net(classes=30), logger=logger)
    logger.save()
    header = (Path(logger.log_dir) / "metrics.csv").read_text().splitlines()[0]
    assert header.count("fitb_by_class/coverage") == 20


def test_the_judge_module_is_left_as_it_was(tmp_path):
    judge = Net().layers.train()
    before = [parameter.clone() for parameter in judge.parameters()]
    fit(callback(judge=judge), tmp_path)
    assert judge.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in judge.parameters())
    assert all(map(torch.equal, before, judge.parameters()))


def test_streams_on_two_ranks_are_those_of_one(tmp_path):
    whole, parts = CentroidJudge(), [CentroidJudge(), CentroidJudge()]
    images, labels = bars()
    whole.update(images, labels)
    for rank, part in enumerate(parts):
        part.update(images[rank::2], labels[rank::2])
    parts[0].merge(parts[1])
    torch.testing.assert_close(parts[0].means, whole.means)
    assert torch.equal(parts[0].counts, whole.counts)
