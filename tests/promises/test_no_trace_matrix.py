"""Training with the callback is bit for bit training without it, in every kind of run; `audit=True` proves it."""

import copy
import random
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, seed_everything
from lightning.pytorch.callbacks import StochasticWeightAveraging
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fitb_callbacks import FillInBlanksCallback
from identical import assert_identical, training_state
from quick import quick_callback
from small_module import SmallModule

try:
    from lightning.pytorch.callbacks import EMAWeightAveraging
except ImportError:  # before Lightning 2.6
    EMAWeightAveraging = None


class Record(Callback):
    """Everything that training depends on, after every batch and every hook that a probe could follow."""

    def __init__(self):
        self.states = []

    def take(self, trainer, model, *_):
        self.states.append(training_state(trainer, model))

    on_train_batch_end = on_train_epoch_end = on_validation_end = on_validation_epoch_start = take
    on_fit_end = on_train_epoch_start = on_test_end = take


class Frozen(SmallModule):
    """With a BatchNorm that its owner froze by hand, a frozen parameter, a hook and a noisy parametrization."""

    def __init__(self):
        super().__init__()
        self.net[1].weight.requires_grad_(False)
        self.frozen_norm = nn.BatchNorm2d(1)
        self.seen = []
        self.net[0].register_forward_hook(lambda module, inputs, output: None)

    def on_train_epoch_start(self):
        self.frozen_norm.eval()

    def forward(self, images):
        return super().forward(self.frozen_norm(images))


class TwoOptimizers(SmallModule):
    """Manual optimization."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        images, labels = batch
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            self.manual_backward(F.cross_entropy(self(images), labels))
            optimizer.step()

    def configure_optimizers(self):
        return [
            torch.optim.Adam(self.net[0].parameters(), lr=1e-2),
            torch.optim.SGD(self.net[-1].parameters(), lr=1e-2, momentum=0.9),
        ]


class CompiledPart(SmallModule):
    def __init__(self, backend="aot_eager"):
        super().__init__()
        self.net = torch.compile(self.net, backend=backend)


class CachesABuffer(SmallModule):
    """Replaces a buffer, and makes a new one, in its forward."""

    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.ones(()))

    def forward(self, images):
        self.scale = self.scale * 1.01
        if not self.training:
            self.register_buffer(f"cached_{len(images)}", torch.zeros(1))
        return super().forward(images) * self.scale


callback = partial(quick_callback, images_per_class=1, audit=True)


def fails_in_the_second_probe(model, images):
    """Logits, until the second epoch's probe, which fails when some masks are done."""
    if model.trainer.current_epoch == 1 and images.requires_grad:
        model.net[0].training = True
        model.net[0].bias.requires_grad_(True)
        torch.rand(1)
        raise RuntimeError("in the middle")
    return model(images)


CASES = {
    "dropout, BatchNorm, shuffling": {},
    "accumulation": {"accumulate_grad_batches": 3},
    "validation in mid-accumulation": {"accumulate_grad_batches": 3, "val_check_interval": 4},
    "no validation": {"limit_val_batches": 0},
    "validation without inference mode": {"inference_mode": False},
    "bf16-mixed": {"precision": "bf16-mixed"},
    "double precision": {"precision": "64-true"},
    "gradient clipping": {"gradient_clip_val": 0.1},
    "frozen parts and hooks": {"module": Frozen},
    "two optimizers by hand": {"module": TwoOptimizers},
    "buffers replaced and made in forward": {"module": CachesABuffer},
    "SWA": {"extra": lambda: [StochasticWeightAveraging(swa_lrs=1e-2, swa_epoch_start=1)], "max_epochs": 4},
    "a probe that fails": {"probe": {"logits_fn": fails_in_the_second_probe, "on_error": "warn"}},
    "workers": {"loader": {"num_workers": 2, "persistent_workers": True}},
    "compiled part": {"module": CompiledPart},
}
if EMAWeightAveraging is not None:
    CASES["EMA, callback first"] = {"extra": lambda: [EMAWeightAveraging(decay=0.5)], "place": 0}
    CASES["EMA, callback last"] = {"extra": lambda: [EMAWeightAveraging(decay=0.5)], "place": 1}


def fit(trainer, digits, probe, *, module=SmallModule, extra=list, place=0, loader=None, **options):
    seed_everything(1)
    model = module()
    train = TensorDataset(*(tensor[:200] for tensor in digits.tensors))
    validation = TensorDataset(*(tensor[1500:1600] for tensor in digits.tensors))
    record = Record()
    callbacks = [*extra(), record]
    if probe is not None:
        callbacks.insert(place, probe)
    run = trainer(callbacks=callbacks, **{"max_epochs": 3} | options)
    loaders = [DataLoader(data, batch_size=25, shuffle=data is train, **loader or {}) for data in (train, validation)]
    run.fit(model, *loaders)
    run.validate(model, loaders[1], verbose=False)
    return record, run


HEAVY = ("compiled part", "workers")  # they start a compiler, or processes


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.slow) if case in HEAVY else case for case in CASES]
)
def test_every_state_is_bit_for_bit_the_same(case, trainer, digits, caplog):
    options = dict(CASES[case])
    probe = callback(**options.pop("probe", {}))
    without, _ = fit(trainer, digits, None, **options)
    with_probe, _ = fit(trainer, digits, probe, **options)
    assert len(without.states) > 20
    assert_identical(without.states, with_probe.states, "state")
    expected = {0, 1, 2} - ({1} if "fails" in case else set())
    assert expected <= {entry["epoch"] for entry in probe.history}
    assert "AuditError" not in caplog.text


def test_compiling_is_not_repeated(trainer, digits):
    def compiled(probe):
        """The sizes for which a run's network was compiled."""
        torch.compiler.reset()
        sizes = []

        def backend(graph, inputs):
            sizes.append([tuple(value.shape) for value in inputs if isinstance(value, torch.Tensor)])
            return graph.forward

        fit(trainer, digits, probe, module=partial(CompiledPart, backend))
        return sizes

    assert compiled(None) == compiled(callback())
    assert compiled(None)


def test_a_compiled_module_as_a_whole(trainer, digits):
    """`torch.compile(LightningModule)` given to fit."""

    class LogsNothing(SmallModule):
        """Lightning's `self.log` cannot be compiled with torch 2.13."""

        def training_step(self, batch, batch_idx):
            return F.cross_entropy(self(batch[0]), batch[1])

        def validation_step(self, batch, batch_idx):
            self(batch[0])

    probe = callback()
    model = torch.compile(LogsNothing(), backend="aot_eager")
    train = DataLoader(TensorDataset(*(tensor[:100] for tensor in digits.tensors)), batch_size=25)
    trainer(callbacks=[probe]).fit(model, train, train)
    assert [entry["epoch"] for entry in probe.history] == [0, 1]


@pytest.mark.parametrize("function", ["validate", "test"])
@pytest.mark.parametrize("inference_mode", [True, False])
def test_evaluation_alone_is_untouched(function, inference_mode, trainer, digits):
    class Module(SmallModule):
        test_step = SmallModule.validation_step

    def evaluate(callbacks):
        seed_everything(1)
        model, record = Module(), Record()
        run = trainer(callbacks=[record, *callbacks], inference_mode=inference_mode)
        results = getattr(run, function)(model, DataLoader(digits, batch_size=300), verbose=False)
        record.take(run, model)
        return [record.states, results]

    probe = callback()
    assert_identical(evaluate([]), evaluate([probe]))
    assert probe.history == []


@pytest.mark.skipif(EMAWeightAveraging is None, reason="needs Lightning 2.6")
def test_the_log_says_which_weights_are_probed_and_they_are(trainer, digits, caplog):
    """By the callback's order: averaged ones in front of WeightAveraging, current ones behind it."""

    class Weights(Callback):
        def on_validation_epoch_start(self, trainer, model):
            self.averaged = copy.deepcopy(model)

        def on_validation_end(self, trainer, model):
            self.current = copy.deepcopy(model)

    for place, word in ((0, "the averaged weights"), (1, "the current, not averaged, weights")):
        caplog.clear()
        probe, seen = callback(), Weights()
        average = EMAWeightAveraging(decay=0.5)
        run = trainer(callbacks=[*([probe, average] if place == 0 else [average, probe]), seen])
        train = DataLoader(TensorDataset(*(tensor[:100] for tensor in digits.tensors)), batch_size=25)
        run.fit(SmallModule(), train, train)
        assert word in caplog.text
        alone = {
            name: probe.probe.probe(model, probe.result.images, probe.result.labels).updates
            for name, model in (("averaged", seen.averaged), ("current", seen.current))
        }
        assert not torch.equal(alone["averaged"], alone["current"])
        assert torch.equal(probe.result.updates, alone["averaged" if place == 0 else "current"])


HARMS = {
    "parameter net.0.weight": lambda model: model.net[0].weight.data.add_(1e-3),
    "gradient of net.0.weight": lambda model: setattr(model.net[0].weight, "grad", torch.ones(8, 1, 3, 3)),
    "requires_grad of net.0.bias": lambda model: model.net[0].bias.requires_grad_(False),
    "buffer net.1.running_mean": lambda model: model.net[1].running_mean.add_(1e-3),
    "mode of net.3": lambda model: model.net[3].train(not model.net[3].training),
    "hooks of net.5": lambda model: model.net[5].register_forward_hook(lambda *_: None),
    "optimizer 0": lambda model: model.trainer.optimizers[0].param_groups[0].update(lr=3.0),
    "scheduler 0": lambda model: setattr(model.trainer.lr_scheduler_configs[0].scheduler, "last_epoch", 7),
    "torch's random numbers": lambda model: torch.rand(1),
    "NumPy's random numbers": lambda model: np.random.rand(),
    "Python's random numbers": lambda model: random.random(),
}


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("also_fails", [False, True])
def test_the_audit_notices(harm, also_fails, trainer, loaders):
    """Damage done where the guard does not reach: after the probe, by a logger that the callback calls."""

    module = SmallModule()

    class Damaging(CSVLogger):
        def log_metrics(self, metrics, step=None):
            if "fitb/coverage" in metrics:
                HARMS[harm](module)
                if also_fails:
                    raise RuntimeError("and then it failed")

    probe = FillInBlanksCallback(max_overhead=None, num_masks=2, images_per_class=1, audit=True, on_error="raise")
    run = trainer(
        callbacks=[probe], logger=Damaging("."), limit_train_batches=2, limit_val_batches=1, max_epochs=1,
        log_every_n_steps=1,
    )  # fmt: skip
    with pytest.raises(RuntimeError, match=f"the probe of epoch 0 changed {harm}$"):
        run.fit(module, *loaders)
