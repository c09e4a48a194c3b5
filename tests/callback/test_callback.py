"""The callback in real Lightning runs: when it probes, on what, and what it makes monitorable."""

import inspect
import re

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader, TensorDataset

from fitb_callbacks import FillInBlanksCallback
from fitb_callbacks.callback.errors import ProbeOffError
from quick import probed_epochs, quick_callback
from small_module import SmallModule


class Seen(Callback):
    """Notes which epoch's scores are visible when checkpoints are written."""

    def __init__(self, probe):
        self.probe, self.after_validation, self.after_epoch = probe, [], []

    def on_validation_end(self, trainer, pl_module):
        if not trainer.sanity_checking:
            self.after_validation.append((trainer.current_epoch, len(self.probe.history)))
            assert trainer.callback_metrics["fitb/coverage"] == self.probe.history[-1]["coverage"]

    def on_train_epoch_end(self, trainer, pl_module):
        self.after_epoch.append((trainer.current_epoch, len(self.probe.history)))


@pytest.mark.parametrize(
    ("options", "probed", "validations"),
    [
        ({}, [0, 1, 2], [(0, 1), (1, 2), (2, 3)]),
        ({"check_val_every_n_epoch": 2}, [0, 1, 2], [(1, 2)]),
        ({"val_check_interval": 0.5}, [0, 0, 1, 1, 2, 2], [(0, 1), (0, 2), (1, 3), (1, 4), (2, 5), (2, 6)]),
        ({"val_check_interval": 3}, [0, 0, 1, 1, 2, 2], [(0, 1), (0, 2), (1, 3), (1, 4), (2, 5), (2, 6)]),
        ({"limit_val_batches": 0}, [0, 1, 2], []),
        ({"num_sanity_val_steps": 0}, [0, 1, 2], [(0, 1), (1, 2), (2, 3)]),
        ({"num_sanity_val_steps": -1}, [0, 1, 2], [(0, 1), (1, 2), (2, 3)]),
    ],
)
def test_probes_with_each_validation_or_else_each_epoch_before_checkpoints_look(
    trainer, loaders, options, probed, validations
):
    probe = quick_callback()
    seen = Seen(probe)
    trainer(callbacks=[seen, probe], max_epochs=3, **options).fit(SmallModule(), *loaders)
    assert probed_epochs(probe) == probed
    assert seen.after_validation == validations


def test_without_validation_it_takes_training_images(trainer, loaders, digits):
    probe = quick_callback()
    trainer(callbacks=[probe]).fit(SmallModule(), loaders[0])
    assert probed_epochs(probe) == [0, 1]
    training_images = {image.numpy().tobytes() for image in digits.tensors[0][:400]}
    assert all(image.numpy().tobytes() in training_images for image in probe.result.images)


def test_probe_images_are_the_first_of_each_class_and_stay_the_same(trainer, loaders, digits):
    images, labels = (tensor[1500:1700] for tensor in digits.tensors)
    first = torch.cat([images[labels == digit][:2] for digit in range(10)])
    seen = []

    class Watch(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            seen.append(probe.result.images)

    probe = quick_callback()
    trainer(callbacks=[probe, Watch()], max_epochs=3).fit(SmallModule(), *loaders)
    assert len(seen) == 3
    assert all(torch.equal(images, first) for images in seen)
    assert probe.result.labels.tolist() == [digit for digit in range(10) for _ in range(2)]


@pytest.mark.parametrize(
    "options", [{}, {"val_check_interval": 0.5}, {"check_val_every_n_epoch": 2}, {"limit_val_batches": 0}]
)
def test_checkpoints_and_early_stopping_can_monitor(trainer, loaders, tmp_path, options):
    """Whatever the order of the callbacks, and with EarlyStopping as strict as it is by default."""
    probe = quick_callback()
    saved = ModelCheckpoint(
        dirpath=tmp_path,
        monitor="fitb/accuracy",
        mode="max",
        filename="{epoch}-{fitb/accuracy:.3f}",
        auto_insert_metric_name=False,
    )
    stopped = EarlyStopping(monitor="fitb/coverage", mode="max", patience=50)
    trainer(callbacks=[stopped, saved, probe], max_epochs=4, enable_checkpointing=True, **options).fit(
        SmallModule(), *loaders
    )
    best = max(
        entry["accuracy"]
        for entry in probe.history
        if options.get("check_val_every_n_epoch", 1) == 1 or entry["epoch"] % 2
    )
    assert saved.best_model_score.item() == pytest.approx(best)


def test_early_stopping_stops_on_a_score(trainer, loaders):
    probe = quick_callback()
    never_better = EarlyStopping(monitor="fitb/coverage", mode="max", min_delta=5, patience=1)
    trainer(callbacks=[probe, never_better], max_epochs=10).fit(SmallModule(), *loaders)
    assert probed_epochs(probe) == [0, 1]


def test_an_undefined_score_does_not_end_training(trainer, loaders):
    class Diverged(SmallModule):
        def forward(self, images):
            return super().forward(images) * (1 if self.training or self.trainer.sanity_checking else torch.nan)

    probe = quick_callback()
    stopping = EarlyStopping(monitor="fitb/accuracy", mode="max", patience=50)
    trainer(callbacks=[probe, stopping], max_epochs=3, logger=CSVLogger(".")).fit(Diverged(), *loaders)
    assert probed_epochs(probe) == [0, 1, 2]
    assert probe.result.coverage == 0


def test_metrics_are_equal_to_those_of_the_probe_alone(trainer, loaders):
    probe = quick_callback()
    run = trainer(callbacks=[probe])
    model = SmallModule()
    run.fit(model, *loaders)
    alone = probe.probe.probe(model, probe.result.images, probe.result.labels)
    assert alone.metrics == {key: value for key, value in probe.result.metrics.items() if key in alone.metrics}
    for key, value in alone.metrics.items():
        assert run.callback_metrics[f"fitb/{key}"].item() == pytest.approx(value)


def test_two_probes_under_two_prefixes(trainer, loaders):
    probes = [quick_callback(), quick_callback(prefix="coarse", patch_size=4)]
    run = trainer(callbacks=probes)
    run.fit(SmallModule(), *loaders)
    assert {"fitb/accuracy", "coarse/accuracy"} <= set(run.callback_metrics)
    with pytest.raises(RuntimeError, match="more than one stateful callback"):  # Lightning's own check
        trainer(callbacks=[quick_callback(), quick_callback()])


def test_class_names_come_from_the_data_set(trainer, loaders):
    loaders[1].dataset.classes = [f"digit {i}" for i in range(10)]
    probe = quick_callback()
    trainer(callbacks=[probe]).fit(SmallModule(), *loaders)
    assert probe.result.class_names == tuple(loaders[1].dataset.classes)


def test_state_is_loadable_without_pickle_and_resumes(trainer, loaders, tmp_path):
    whole = quick_callback()
    torch.manual_seed(0)
    trainer(callbacks=[whole], max_epochs=4).fit(SmallModule(), *loaders)

    torch.manual_seed(0)
    first = quick_callback()
    run = trainer(callbacks=[first], max_epochs=2)
    run.fit(SmallModule(), *loaders)
    run.save_checkpoint(tmp_path / "half.ckpt")
    state = torch.load(tmp_path / "half.ckpt", weights_only=True)["callbacks"]
    assert any("FillInBlanksCallback" in key for key in state)

    second = quick_callback()
    trainer(callbacks=[second], max_epochs=4).fit(SmallModule(), *loaders, ckpt_path=tmp_path / "half.ckpt")
    assert probed_epochs(second) == [0, 1, 2, 3]
    assert [entry["step"] for entry in second.history] == [entry["step"] for entry in whole.history]
    assert torch.equal(second.result.images, whole.result.images)


class NoForward(SmallModule):
    forward = torch.nn.Module.forward

    def training_step(self, batch, batch_idx):
        return torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        pass


class OtherBatches(SmallModule):
    def training_step(self, batch, batch_idx):
        return super().training_step(batch["inner"][0], batch_idx)

    def validation_step(self, batch, batch_idx):
        return None


def as_loader(dataset, wrap):
    return DataLoader(dataset, batch_size=50, collate_fn=lambda items: wrap(torch.utils.data.default_collate(items)))


def test_logits_fn_and_batch_adapter(trainer, digits):
    dataset = TensorDataset(*(tensor[:200] for tensor in digits.tensors))

    class Unusual(OtherBatches):
        forward = torch.nn.Module.forward

        def training_step(self, batch, batch_idx):
            images, labels = batch["inner"][0]
            return torch.nn.functional.cross_entropy(self.net(images), labels)

    loader = as_loader(dataset, lambda batch: {"inner": [batch]})
    probe = quick_callback(
        batch_adapter=lambda batch: batch["inner"][0], logits_fn=lambda module, images: module.net(images)
    )
    trainer(callbacks=[probe]).fit(Unusual(), loader, loader)
    assert probed_epochs(probe) == [0, 1]


class NoLogits(SmallModule):
    """Its steps do not show what its logits are."""

    forward = torch.nn.Module.forward

    def training_step(self, batch, batch_idx):
        return self.net(batch[0]).square().mean()

    def validation_step(self, batch, batch_idx):
        pass


class NoImages(SmallModule):
    def training_step(self, batch, batch_idx):
        return (self.net[-1].weight * batch["inner"][0][0].mean()).sum()

    def validation_step(self, batch, batch_idx):
        return None


@pytest.mark.parametrize("sanity", [0, 2])
@pytest.mark.parametrize(
    ("says", "model", "options", "wrap"),
    [
        ("NoLogits gives no logits.*logits_fn=", NoLogits, {}, None),
        ("images.*'inner'.*batch_adapter=", NoImages, {}, lambda batch: {"inner": [batch]}),
        ("patch_size must be at most 8", SmallModule, {"patch_size": 9}, None),
    ],
)
def test_what_cannot_work_is_off_with_one_line(trainer, digits, sanity, says, model, options, wrap):
    dataset = TensorDataset(*(tensor[:200] for tensor in digits.tensors))
    loader = as_loader(dataset, wrap or (lambda batch: batch))
    probe = FillInBlanksCallback(**options)
    run = trainer(callbacks=[probe], num_sanity_val_steps=sanity)
    with pytest.warns(UserWarning, match="FillInBlanks") as said:
        run.fit(model(), loader, loader)
    (line,) = [str(each.message) for each in said if "FillInBlanks" in str(each.message)]
    assert re.search(f"(?s)off for this run: .*{says}", line)
    assert run.current_epoch == 2
    assert probe.history == []
    with pytest.raises((ProbeOffError, ValueError, TypeError), match=f"(?s){says}"):
        trainer(callbacks=[quick_callback(**options)]).fit(model(), loader, loader)


def test_class_names_of_the_wrong_number_are_left_out(trainer, loaders):
    probe = quick_callback(class_names=["a", "b"], on_error="warn")
    with pytest.warns(UserWarning, match=r"2 class names for 10 classes.*class_names=\[...\]\) takes 10"):
        trainer(callbacks=[probe]).fit(SmallModule(), *loaders)
    assert probed_epochs(probe) == [0, 1]
    assert probe.result.class_names is None


@pytest.mark.parametrize(
    ("error", "says", "options"),
    [
        (ValueError, "mask_ratio", {"mask_ratio": 2}),
        (TypeError, "unknown setting 'patchsize'; did you mean 'patch_size'", {"patchsize": 2}),
        (TypeError, "did you mean 'every_n_epochs'", {"every_n_epoch": 2}),
        (ValueError, "every_n_epochs must be an integer >= 1; got 0", {"every_n_epochs": 0}),
        (ValueError, "cannot both be given", {"every_n_epochs": 2, "every_n_train_steps": 2}),
        (ValueError, "probe_on must be one of 'fit', 'validate', 'test'; got 'train'", {"probe_on": "train"}),
        (TypeError, "probe_images must be a pair of tensors", {"probe_images": 3}),
        (ValueError, "images_per_class .* >= 1; got 0", {"images_per_class": 0}),
        (ValueError, "max_images .* >= 1; got -3", {"max_images": -3}),
        (TypeError, "batch_adapter must be callable", {"batch_adapter": 3}),
        (TypeError, "logits_fn must be callable", {"logits_fn": "logits"}),
        (ValueError, "prefix", {"prefix": ""}),
        (ValueError, "on_error must be one of 'warn', 'raise'; got 'ignore'", {"on_error": "ignore"}),
        (TypeError, "class_names", {"class_names": "cat"}),
    ],
)
def test_wrong_arguments_fail_at_once(error, says, options):
    with pytest.raises(error, match=says):
        FillInBlanksCallback(**options)


class FailsLater(SmallModule):
    """Fails in the second epoch, but only when it is probed."""

    def forward(self, images):
        if self.trainer.current_epoch == 1 and images.shape[0] not in (50,):
            raise RuntimeError("cosmic ray")
        return super().forward(images)


def test_an_error_in_a_probe_is_logged_once_and_training_goes_on(trainer, loaders, caplog):
    probe = quick_callback(on_error="warn")
    run = trainer(callbacks=[probe], max_epochs=3)
    with pytest.warns(UserWarning, match="probe of epoch 1 failed"):
        run.fit(FailsLater(), *loaders)
    assert run.current_epoch == 3
    assert probed_epochs(probe) == [0, 2]
    assert caplog.text.count("RuntimeError: cosmic ray") == 1


def test_an_error_in_a_probe_can_end_training(trainer, loaders):
    with pytest.raises(RuntimeError, match="cosmic ray"):
        trainer(callbacks=[quick_callback()], max_epochs=3).fit(FailsLater(), *loaders)


def test_what_is_carried_over_has_an_interval(trainer, loaders):
    probe = quick_callback()
    trainer(callbacks=[probe], max_epochs=2).fit(SmallModule(), *loaders)
    low, high = probe.result.intervals["carryover_accuracy"]
    assert 0 <= low <= probe.result.metrics["carryover_accuracy"] <= high <= 1
    assert low < high


def test_every_setting_can_be_seen():
    parameters = inspect.signature(FillInBlanksCallback).parameters
    assert {"every_n_epochs", "probe_images", "patch_size", "num_masks", "baseline", "seed"} <= set(parameters)
    assert parameters["num_masks"].default == 256
    assert all(each.kind == inspect.Parameter.KEYWORD_ONLY for each in parameters.values())
