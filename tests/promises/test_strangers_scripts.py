"""Training scripts the way strangers write them: each is probed, or says why not; none is changed or ended."""

import dataclasses
import random
import types
from collections import OrderedDict, namedtuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchmetrics
from lightning.pytorch import Callback, LightningDataModule, LightningModule
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    EarlyStopping,
    GradientAccumulationScheduler,
    ModelCheckpoint,
    StochasticWeightAveraging,
)
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, default_collate
from with_and_without import CLASSES, Base, bars, state_after, with_and_without

from fitb_callbacks import FillInBlanksCallback
from fitb_callbacks.models.answers import independent

IMAGES, LABELS = bars()
PLAIN = TensorDataset(IMAGES, LABELS)


def loaders(dataset=PLAIN, **options):
    return {
        "train_dataloaders": DataLoader(dataset, batch_size=6, shuffle=True, **options),
        "val_dataloaders": DataLoader(dataset, batch_size=6, **options),
    }


# --- scripts -------------------------------------------------------------------------------------------------------


class LitClassifier(LightningModule):
    """The one of the tutorials: a model handed in, hyperparameters saved, metrics in a collection, a data module."""

    def __init__(self, model, lr=1e-2):
        super().__init__()
        self.save_hyperparameters(ignore=["model"])
        self.model, self.criterion = model, nn.CrossEntropyLoss(label_smoothing=0.1)
        metrics = torchmetrics.MetricCollection(
            {
                "acc": torchmetrics.classification.MulticlassAccuracy(CLASSES),
                "f1": torchmetrics.classification.MulticlassF1Score(CLASSES),
            }
        )
        self.train_metrics, self.val_metrics = metrics.clone("train/"), metrics.clone("val/")

    def forward(self, x):
        return self.model(x)

    def _shared_step(self, batch):
        x, y = batch
        logits = self(x)
        return self.criterion(logits, y), logits.softmax(dim=-1), y

    def training_step(self, batch, _):
        loss, preds, y = self._shared_step(batch)
        self.log_dict(self.train_metrics(preds, y), prog_bar=True)
        return {"loss": loss, "preds": preds}

    def validation_step(self, batch, _):
        loss, preds, y = self._shared_step(batch)
        self.val_metrics.update(preds, y)
        self.log("val/loss", loss, prog_bar=True)

    def on_validation_epoch_end(self):
        self.log_dict(self.val_metrics.compute())
        self.val_metrics.reset()

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.hparams.lr)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, self.trainer.estimated_stepping_batches)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class BarsData(LightningDataModule):
    def __init__(self, batch_size=6):
        super().__init__()
        self.save_hyperparameters()

    def setup(self, stage=None):
        images, labels = bars(30)
        images = (images - images.mean()) / images.std()
        self.train, self.val = TensorDataset(images[:24], labels[:24]), TensorDataset(images[12:], labels[12:])

    def train_dataloader(self):
        return DataLoader(self.train, self.hparams.batch_size, shuffle=True, drop_last=True)

    def val_dataloader(self):
        return DataLoader(self.val, 2 * self.hparams.batch_size)


def cnn(outputs=CLASSES):
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(1, 4, 3, padding=1),
            norm=nn.BatchNorm2d(4),
            act=nn.ReLU(inplace=True),
            pool=nn.AdaptiveMaxPool2d((8, 1)),
            flat=nn.Flatten(),
            fc=nn.Linear(32, outputs),
        )
    )


def tutorial():
    return LitClassifier(cnn()), {"datamodule": BarsData()}, {"gradient_clip_val": 1.0}


class TimmNet(nn.Module):
    """As timm's models: features, then a head that can be left out; drop path draws random numbers in training."""

    def __init__(self, num_classes=CLASSES, drop_path=0.2):
        super().__init__()
        self.stem, self.blocks = nn.Conv2d(1, 6, 4, stride=4), nn.ModuleList([nn.Linear(6, 6) for _ in range(2)])
        self.pos_embed = nn.Parameter(torch.zeros(1, 4, 6))
        self.fc_norm, self.head, self.drop_path = nn.LayerNorm(6), nn.Linear(6, num_classes), drop_path

    def forward_features(self, x):
        tokens = self.stem(x).flatten(2).transpose(1, 2) + self.pos_embed
        for block in self.blocks:
            keep = 1.0
            if self.training:
                keep = torch.empty(len(x), 1, 1).bernoulli_(1 - self.drop_path) / (1 - self.drop_path)
            tokens = tokens + keep * F.gelu(block(tokens))
        return tokens

    def forward_head(self, x, pre_logits=False):
        x = self.fc_norm(x.flatten(1, 1).amax(dim=1))
        return x if pre_logits else self.head(x)

    def forward(self, x):
        return self.forward_head(self.forward_features(x))


class TimmWrapper(LightningModule):
    """MixUp on the device in training, a BCE loss on its soft labels, plain cross-entropy in validation."""

    def __init__(self):
        super().__init__()
        self.net = TimmNet()

    def forward(self, x):
        return self.net(x)

    def on_after_batch_transfer(self, batch, dataloader_idx):
        x, y = batch
        if not self.trainer.training:
            return batch
        share, order = torch.distributions.Beta(0.8, 0.8).sample(), torch.randperm(len(x))
        y = F.one_hot(y, CLASSES).float()
        return share * x + (1 - share) * x[order], share * y + (1 - share) * y[order]

    def training_step(self, batch, batch_idx):
        return F.binary_cross_entropy_with_logits(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self):
        decay = [p for p in self.parameters() if p.ndim > 1]
        rest = [p for p in self.parameters() if p.ndim <= 1]
        return torch.optim.AdamW([{"params": decay, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}])


def timm_like():
    return TimmWrapper(), loaders(), {}


def mixed(kind):
    """MixUp or CutMix in the collate, with soft labels, for training and validation alike."""

    def collate(rows):
        images, labels = default_collate(rows)
        soft = F.one_hot(labels, CLASSES).float()
        order = torch.randperm(len(images))
        if kind == "mixup":
            share = 0.8
            images = share * images + (1 - share) * images[order]
        else:
            images[:, :, :, 6:], share = images[order][:, :, :, 6:], 0.75
        return images, share * soft + (1 - share) * soft[order]

    class Module(Base):
        def forward(self, x):
            return self.net(x)

    return lambda: (Module(), loaders(collate_fn=collate), {})


Sample = namedtuple("Sample", "image target meta")


@dataclasses.dataclass
class Batch:
    pixels: torch.Tensor
    classes: torch.Tensor
    files: list

    def pin_memory(self):
        return self


class Structured(Base):
    """Batches of one's own class."""

    def forward(self, x):
        return self.net(x)

    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        return dataclasses.replace(batch, pixels=batch.pixels.to(device), classes=batch.classes.to(device))

    def loss(self, batch):
        return F.cross_entropy(self(batch.pixels), batch.classes)


def structured():
    def collate(rows):
        return Batch(
            torch.stack([row[0] for row in rows]), torch.stack([row[1] for row in rows]), ["a.png"] * len(rows)
        )

    return Structured(), loaders(collate_fn=collate), {}


class Named(Base):
    def forward(self, x):
        return self.net(x)

    def loss(self, batch):
        return F.nll_loss(F.log_softmax(self(batch.image), dim=-1), batch.target)


class NamedRows(Dataset):
    def __len__(self):
        return len(IMAGES)

    def __getitem__(self, index):
        return Sample(IMAGES[index], LABELS[index], {"index": index, "weight": 0.5})


def named_tuples():
    return Named(), loaders(NamedRows()), {}


class Nested(Base):
    """As DALI's loaders: a list of dicts; the labels a column of one."""

    def forward(self, x):
        return self.net(x)

    def loss(self, batch):
        return F.cross_entropy(self(batch[0]["data"]), batch[0]["label"].squeeze(-1).long())


def nested():
    def collate(rows):
        images, labels = default_collate(rows)
        return [{"data": images, "label": labels[:, None].int()}]

    return Nested(), loaders(collate_fn=collate), {}


class TwoOptimizers(Base):
    """Manual optimization: two optimizers, accumulated gradients, a scheduler of one's own."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        body, head = self.optimizers()
        loss = self.loss(batch) / 2
        self.manual_backward(loss)
        self.clip_gradients(body, gradient_clip_val=0.5, gradient_clip_algorithm="norm")
        if (batch_idx + 1) % 2 == 0:
            for optimizer in (body, head):
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            self.lr_schedulers().step()
        self.log("train_loss", loss, prog_bar=True, on_step=True, on_epoch=True)

    def configure_optimizers(self):
        body = torch.optim.SGD(self.net[:2].parameters(), lr=0.1, momentum=0.9)
        head = torch.optim.Adam(self.net[2:].parameters())
        return [body, head], [torch.optim.lr_scheduler.StepLR(body, 1)]


def manual():
    return TwoOptimizers(), loaders(), {}


class SeveralLoaders(Base):
    def forward(self, x):
        return self.net(x)

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        name = ("clean", "noisy")[dataloader_idx]
        self.log(f"{name}/loss", self.loss(batch), add_dataloader_idx=False)


def several_loaders():
    noisy = TensorDataset((IMAGES + 0.1 * torch.rand(IMAGES.shape)).clamp(0, 1), LABELS)
    data = loaders()
    return SeveralLoaders(), data | {"val_dataloaders": [data["val_dataloaders"], DataLoader(noisy, 4)]}, {}


class Plain(Base):
    def forward(self, x):
        return self.net(x)


def accumulation():
    callbacks = [GradientAccumulationScheduler({0: 2, 1: 1})]
    return Plain(), loaders(), {"callbacks": callbacks, "gradient_clip_val": 0.5, "gradient_clip_algorithm": "value"}


def averaging():
    return Plain(), loaders(), {"callbacks": [StochasticWeightAveraging(1e-2, swa_epoch_start=1)], "max_epochs": 3}


class EMA(Callback):
    """As many write it: swapped in for validation, swapped out after it."""

    def __init__(self, decay=0.9):
        self.decay, self.shadow, self.backup = decay, {}, {}

    def on_fit_start(self, trainer, pl_module):
        self.shadow = {name: p.detach().clone() for name, p in pl_module.named_parameters()}

    def on_train_batch_end(self, trainer, pl_module, *_):
        for name, p in pl_module.named_parameters():
            self.shadow[name].lerp_(p.detach(), 1 - self.decay)

    def on_validation_start(self, trainer, pl_module):
        self.backup = {name: p.detach().clone() for name, p in pl_module.named_parameters()}
        for name, p in pl_module.named_parameters():
            p.data.copy_(self.shadow[name])

    def on_validation_end(self, trainer, pl_module):
        for name, p in pl_module.named_parameters():
            p.data.copy_(self.backup[name])


def ema():
    return Plain(), loaders(), {"callbacks": [EMA()]}


class Tied(Base):
    """The classes' vectors are the filters of the first layer, too."""

    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Linear(64, CLASSES, bias=False), nn.Linear(64, CLASSES, bias=False)
        self.head.weight = self.first.weight
        self.net = nn.Flatten()

    def forward(self, x):
        x = self.net(x)
        return self.head(x + self.first(x) @ self.first.weight)


class Wrapper(nn.Module):
    """As ``DataParallel`` and its like: everything is handed on."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, *inputs, **kwargs):
        return self.module(*inputs, **kwargs)

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.module, name)


class Wrapped(Base):
    def __init__(self):
        super().__init__()
        self.net = nn.DataParallel(Wrapper(cnn()))

    def forward(self, *args, **kwargs):
        return self.net(*args, **kwargs)


class NoValidation(LightningModule):
    """The shortest script: no forward, no validation, the loss at the end of the step."""

    def __init__(self):
        super().__init__()
        self.layers = cnn()

    def training_step(self, batch, batch_idx):
        images, labels = batch
        return nn.CrossEntropyLoss()(self.layers(images), labels)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class Stream(IterableDataset):
    def __iter__(self):
        while True:
            order = torch.randperm(len(IMAGES))
            yield from ((IMAGES[index], int(LABELS[index])) for index in order.tolist())


def streamed():
    data = {"train_dataloaders": DataLoader(Stream(), 6), "val_dataloaders": DataLoader(Stream(), 6)}
    options = {"max_steps": 8, "max_epochs": -1, "val_check_interval": 4, "limit_val_batches": 2}
    return Plain(), data, options | {"check_val_every_n_epoch": None}


class Student(Base):
    """Distillation: the frozen teacher sees the images first, and its logits reach a loss, too."""

    def __init__(self):
        super().__init__()
        self.teacher = cnn().eval().requires_grad_(False)

    def forward(self, x):
        return self.net(x)

    def loss(self, batch):
        x, y = batch
        with torch.no_grad():
            soft = self.teacher(x).div(2).softmax(dim=1)
        logits = self.net(x)
        return 0.5 * F.kl_div((logits / 2).log_softmax(dim=1), soft, reduction="batchmean") + F.cross_entropy(logits, y)


class Auxiliary(Base):
    """As Inception and GoogLeNet: a second head in training only."""

    def __init__(self):
        super().__init__()
        self.aux = nn.Linear(8, CLASSES)

    def forward(self, x):
        features = self.net[:-1](x)
        logits = self.net[-1](features)
        return (logits, self.aux(features)) if self.training else logits

    def training_step(self, batch, batch_idx):
        logits, aux = self(batch[0])
        return F.cross_entropy(logits, batch[1]) + 0.4 * F.cross_entropy(aux, batch[1])


class Finetuned(Base):
    """The backbone is frozen first, and its learning rate rises later."""

    def __init__(self):
        super().__init__()
        self.backbone, self.head = (
            nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8)),
            nn.Linear(8, CLASSES),
        )
        self.net = nn.Identity()

    def forward(self, x):
        return self.head(self.backbone(x).relu())

    def configure_optimizers(self):
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.1)


def finetuned():
    return Finetuned(), loaders(), {"callbacks": [BackboneFinetuning(1, verbose=False)], "max_epochs": 3}


class Hooked(Base):
    """Activations and gradients are collected for plots, in lists that are emptied after each epoch."""

    def __init__(self):
        super().__init__()
        self.seen, self.bank = [], []
        self.net[3].register_forward_hook(self.keep)
        self.net[4].register_full_backward_hook(lambda module, given, got: self.bank.append(got[0].norm().item()))

    def keep(self, module, args, output):
        self.seen.append(output.detach().mean())

    def forward(self, x):
        return self.net(x)

    def on_train_epoch_end(self):
        self.log("activation", torch.stack(self.seen).mean())
        self.log("gradient", sum(self.bank) / len(self.bank))
        self.seen.clear()
        self.bank.clear()


class Parametrized(Base):
    """Spectral norm changes its vectors in training; weight norm makes weights anew."""

    def __init__(self):
        super().__init__()
        self.net[1] = nn.utils.parametrizations.spectral_norm(self.net[1])
        self.net[4] = nn.utils.parametrizations.weight_norm(self.net[4])

    def forward(self, x):
        return self.net(x)


class MonteCarlo(Base):
    """Dropout stays on in evaluation, too."""

    def forward(self, x):
        return self.net[-1](F.dropout(self.net[:-1](x), 0.2, training=True))


class Scheduled(Base):
    """The temperature depends on where the Trainer is."""

    def forward(self, x):
        return self.net(x) / (1 + 0.5**self.trainer.current_epoch + 0.01 * self.global_step)


class SemiSupervised(Base):
    """As FixMatch: two training loaders, pseudo labels of the second."""

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        x, y = batch["labelled"]
        other, _ = batch["unlabelled"]
        with torch.no_grad():
            sure, pseudo = self(other).softmax(dim=1).max(dim=1)
        extra = F.cross_entropy(self(other + 0.1 * torch.randn_like(other)), pseudo, reduction="none")
        return F.cross_entropy(self(x), y) + (extra * (sure > 0.5)).mean()


def semi_supervised():
    data = loaders()
    both = dict.fromkeys(("labelled", "unlabelled"), data["train_dataloaders"])
    return SemiSupervised(), data | {"train_dataloaders": both}, {}


class ModelOutput(OrderedDict):
    """As Hugging Face's: a dict with attributes, which indexes like a tuple."""

    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __getitem__(self, key):
        return dict(self.items())[key] if isinstance(key, str) else tuple(self.values())[key]


class Pretrained(nn.Module):
    """As ``AutoModelForImageClassification``: keywords only, the loss inside, a config beside."""

    def __init__(self):
        super().__init__()
        self.config = types.SimpleNamespace(num_labels=CLASSES, return_dict=True)
        self.vit, self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.GELU()), nn.Linear(8, CLASSES)

    def forward(self, pixel_values=None, labels=None, output_attentions=None, return_dict=None):
        states = self.vit(pixel_values)
        logits = self.classifier(states)
        loss = None if labels is None else nn.CrossEntropyLoss()(logits.view(-1, CLASSES), labels.view(-1))
        return ModelOutput(loss=loss, logits=logits, hidden_states=states)


class HuggingFace(Base):
    def __init__(self):
        super().__init__()
        self.model = Pretrained()

    def forward(self, **inputs):
        return self.model(**inputs)

    def loss(self, batch):
        return self(**batch).loss


class Keyed(Dataset):
    def __len__(self):
        return len(IMAGES)

    def __getitem__(self, index):
        return {"pixel_values": IMAGES[index], "labels": int(LABELS[index])}


class QuantizationAware(Base):
    """Fake quantization whose observers move in training."""

    def __init__(self):
        super().__init__()
        from torch.ao.quantization import get_default_qat_qconfig, prepare_qat

        self.net = cnn().train()
        self.net.qconfig = get_default_qat_qconfig("fbgemm")
        prepare_qat(self.net, inplace=True)

    def forward(self, x):
        return self.net(x)


class QuantizedPart(Base):
    """A part in integers, through which no gradient passes."""

    def __init__(self):
        super().__init__()
        from torch.ao.quantization import quantize_dynamic

        self.body = quantize_dynamic(nn.Sequential(nn.Flatten(), nn.Linear(64, 8)), {nn.Linear}, torch.qint8)
        self.net = nn.Sequential(nn.ReLU(), nn.Linear(8, CLASSES))

    def forward(self, x):
        return self.net(self.body(x))


class Attention(Base):
    """Torch's own transformer, normalisation and a column of weights in the step."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 1), nn.Linear(64, CLASSES)
        self.net = nn.Identity()

    def forward(self, x):
        return self.head(self.encoder(x.squeeze(1)).flatten(1))

    def loss(self, batch):
        x, _, y = batch
        return F.cross_entropy(self((x - 0.5) / 0.25), y)


class LazyConv(Base):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(CLASSES))

    def forward(self, x):
        return self.net(x)


def lazy_without_sanity_check():
    return LazyConv(), loaders(), {"num_sanity_val_steps": 0}


class Compiled(Base):
    def __init__(self):
        super().__init__()
        self.net = torch.compile(cnn(), backend="eager")

    def forward(self, x):
        return self.net(x)


class CompiledInPlace(Base):
    def __init__(self):
        super().__init__()
        self.net = Wrapper(cnn())
        self.net.compile(backend="eager")

    def forward(self, x):
        return self.net(x)

    def loss(self, batch):
        return F.cross_entropy(self((batch[0] - 0.5) / 0.25), batch[1])


class Scripted(Base):
    def __init__(self):
        super().__init__()
        self.net = torch.jit.script(cnn())

    def forward(self, x):
        return self.net(x)


class Focal(Base):
    """A loss of one's own, a module that keeps a moving average."""

    class Loss(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mean", torch.zeros(()))

        def forward(self, logits, labels):
            log_p = F.log_softmax(logits, dim=-1).gather(1, labels[:, None]).squeeze(1)
            loss = -((1 - log_p.exp()) ** 2 * log_p)
            self.mean.mul_(0.9).add_(0.1 * loss.detach().mean())
            return loss.mean()

    def __init__(self):
        super().__init__()
        self.criterion = self.Loss()

    def forward(self, x):
        return self.net(x)

    def loss(self, batch):
        return self.criterion(self(batch[0]), batch[1])


STEPS, TEMPERATURE = 0, [1.0]


class Globals(Base):
    """A counter in the script, another one in the class: both change the logits."""

    calls = 0

    def forward(self, x):
        global STEPS
        STEPS += 1
        Globals.calls += 1
        TEMPERATURE[0] *= 1.01
        self.steps = (STEPS, Globals.calls, TEMPERATURE[0])
        return self.net(x) * (1 + 0.01 * STEPS + 0.01 * Globals.calls) / TEMPERATURE[0]


def with_globals():
    global STEPS
    STEPS, Globals.calls, TEMPERATURE[0] = 0, 0, 1.0
    return Globals(), loaders(), {}


class Bank(nn.Module):
    """As MoCo's queue, in a helper that is no module's attribute but a closure's and a registry's."""

    def __init__(self):
        super().__init__()
        self.register_buffer("queue", torch.zeros(4, 8))
        self.pointer = 0

    def forward(self, x):
        self.queue[self.pointer] = x.detach().mean(dim=0)
        self.pointer = (self.pointer + 1) % 4
        return x + 0.1 * self.queue.mean(dim=0)


class OwnGenerators(Base):
    """Noise in forward from generators of its own: of torch, NumPy (both kinds) and Python."""

    def __init__(self):
        super().__init__()
        self.of_torch, self.of_python = torch.Generator().manual_seed(0), random.Random(0)
        self.of_numpy, self.of_old_numpy = np.random.default_rng(0), np.random.RandomState(0)

    def forward(self, x):
        noise = torch.randn(x.shape, generator=self.of_torch) + float(self.of_numpy.normal())
        return self.net(x + 0.01 * (noise + self.of_python.random() + float(self.of_old_numpy.rand())))


def remember(item, into=[]):  # noqa: B006 - as people write it
    into.append(item)
    return len(into)


class Cached(Base):
    """A default argument that remembers, an object of the script's, a method that counts."""

    def tick(self):
        COUNTER.calls += 1
        return COUNTER.calls

    def forward(self, x):
        return self.net(x) * (1 + 0.01 * remember(1) + 0.01 * self.tick())


COUNTER = types.SimpleNamespace(calls=0)


def with_defaults():
    remember.__defaults__[0].clear()
    COUNTER.calls = 0
    return Cached(), loaders(), {}


class WithBank(Base):
    def __init__(self):
        super().__init__()
        self.net.insert(2, Bank())

    def forward(self, x):
        return self.net(x)


class MetricInForward(Base):
    def __init__(self):
        super().__init__()
        self.range, self.quantiles = torchmetrics.MeanMetric(), torchmetrics.CatMetric()

    def forward(self, x):
        logits = self.net(x)
        self.range.update(logits.detach().abs().max())
        self.quantiles.update(logits.detach().flatten()[:3])
        return logits

    def on_validation_epoch_end(self):
        self.log("range", self.range.compute())
        self.log("largest", self.quantiles.compute().max())
        self.log("number", float(self.quantiles.compute().numel()))


def of(module_class, dataset=PLAIN, **options):
    return lambda: (module_class(), loaders(dataset), options)


PROBED = {
    "the tutorials' module, a data module": tutorial,
    "a wrapper for timm, MixUp on the device": timm_like,
    "MixUp in the collate": mixed("mixup"),
    "CutMix in the collate": mixed("cutmix"),
    "a batch class of its own": structured,
    "named tuples": named_tuples,
    "a list of dicts": nested,
    "two optimizers by hand": manual,
    "several validation loaders": several_loaders,
    "accumulated and clipped gradients": accumulation,
    "StochasticWeightAveraging": averaging,
    "an EMA callback": ema,
    "tied weights": of(Tied),
    "DataParallel around a wrapper": of(Wrapped),
    "bf16-mixed": of(Plain, precision="bf16-mixed"),
    "64-true": of(Plain, TensorDataset(IMAGES.double(), LABELS), precision="64-true"),
    "overfit_batches": of(Plain, overfit_batches=2),
    "fast_dev_run": of(Plain, fast_dev_run=True),
    "limit_val_batches=0": of(Plain, limit_val_batches=0),
    "no validation": lambda: (NoValidation(), {"train_dataloaders": loaders()["train_dataloaders"]}, {}),
    "an endless IterableDataset": streamed,
    "distillation": of(Student),
    "an auxiliary head in training": of(Auxiliary),
    "BackboneFinetuning": finetuned,
    "hooks that collect": of(Hooked),
    "spectral and weight norm": of(Parametrized),
    "dropout in evaluation": of(MonteCarlo),
    "a schedule in forward": of(Scheduled),
    "two training loaders, pseudo labels": semi_supervised,
    "Hugging Face's keywords": of(HuggingFace, Keyed()),
    "quantization-aware training": of(QuantizationAware),
    "torch's transformer, extra column": of(Attention, TensorDataset(IMAGES, 1 - (LABELS > 0).long(), LABELS)),
    "lazy layers, no sanity check": lazy_without_sanity_check,
    "torch.compile(module)": of(Compiled),
    "module.compile(), normalised in the step": of(CompiledInPlace),
    "torch.jit.script": of(Scripted),
    "a focal loss with a moving average": of(Focal),
    "globals and class attributes": with_globals,
    "generators of its own": of(OwnGenerators),
    "a default argument, an object of the script": with_defaults,
    "a queue in a buffer": of(WithBank),
    "metrics in forward": of(MetricInForward),
}


@pytest.mark.parametrize("case", PROBED)
@pytest.mark.slow
def test_it_is_probed_and_training_is_untouched(case):
    probe, said, trainer = with_and_without(PROBED[case], fill=None)  # which would take half of the time
    assert said == []
    assert probe.result.labels.unique().tolist() == [0, 1, 2]
    # Labels are those of the bars: brightest in row 0, 3 or 6
    brightest = probe.result.images.mean(dim=(1, 3)).argmax(dim=1)
    assert torch.equal(brightest, 3 * probe.result.labels)
    assert len(probe.history) >= min(2, trainer.max_epochs if trainer.max_epochs > 0 else 2)


def test_the_network_is_probed_with_what_the_step_gives_it():
    """Also where parts are compiled, or torch's transformer is in evaluation: normalised in the step, extra columns."""
    for case, prepare in {
        "torch's transformer, extra column": lambda x: (x - 0.5) / 0.25,
        "module.compile(), normalised in the step": lambda x: (x - 0.5) / 0.25,
    }.items():
        probe, _, _ = with_and_without(PROBED[case])
        known = {image.numpy().tobytes() for image in prepare(IMAGES)}
        assert all(image.numpy().tobytes() in known for image in probe.result.images), case


def test_compiled_parts_are_compiled_no_more_often():
    compilations = []

    def counting(graph, example_inputs):
        compilations.append(graph)
        return graph.forward

    class Module(Base):
        def __init__(self, how):
            super().__init__()
            self.net = Wrapper(self.net)  # torch's own Sequential would not be compiled in place
            if how == "in place":
                self.net.compile(backend=counting)
            else:
                self.net = torch.compile(self.net, backend=counting)

        def forward(self, x):
            return self.net(x)

    for how in ("in place", "wrapped"):
        numbers = []
        for callbacks in ([], [FillInBlanksCallback(num_masks=4, images_per_class=1, max_overhead=None)]):
            torch.compiler.reset()
            compilations.clear()
            state_after(lambda how=how: (Module(how), loaders(), {}), callbacks)
            numbers.append(len(compilations))
        assert numbers[0] == numbers[1] > 0


def test_checkpoints_and_early_stopping_on_scores(tmp_path):
    """The best checkpoint is that of the best probe, and the run ends where its own patience ends."""
    probe = FillInBlanksCallback(num_masks=8, images_per_class=2, max_overhead=None)
    best = ModelCheckpoint(tmp_path, monitor="fitb/structure", mode="max", save_top_k=1)
    stop = EarlyStopping("fitb/judge_accuracy", patience=1, mode="max", min_delta=1.0)
    options = {"callbacks": [best, stop], "enable_checkpointing": True, "max_epochs": 6}
    trainer, _ = state_after(lambda: (Plain(), loaders(), options), [probe])
    assert trainer.current_epoch == len(probe.history) < 6
    scores = [entry["structure"] for entry in probe.history]
    assert best.best_model_score.item() == pytest.approx(max(scores))


def test_a_whole_compiled_module_is_probed():
    """Its step is not watched, so the batch must show where images and labels are."""

    def make():
        module = Plain()
        module.compile(backend="eager")
        return module, loaders(), {}

    probe, said, _ = with_and_without(make)
    assert said == []
    assert probe.result.labels.unique().tolist() == [0, 1, 2]


def test_the_audit_names_what_is_too_large_to_be_put_back():
    class Counts(Base):
        def __init__(self):
            super().__init__()
            self.visits = [[0] for _ in range(1001)]  # items of longer lists are not copied

        def forward(self, x):
            self.visits[0][0] += 1
            return self.net(x)

    probe = FillInBlanksCallback(num_masks=4, images_per_class=1, max_overhead=None, audit=True)
    with pytest.warns(UserWarning, match="the probe of epoch 0 changed attribute visits of the model"):
        state_after(lambda: (Counts(), loaders(), {}), [probe])


def test_a_model_without_gradients_is_asked_by_forward_passes():
    """A part in integers: no prototypes, but where it looks, and no score is made up."""
    probe, said, trainer = with_and_without(of(QuantizedPart, max_epochs=24), every_n_epochs=24, num_masks=256)
    assert len(said) == 1
    assert said[0].startswith("no gradient passes from the logits back to the images, so nothing is filled in")
    assert [entry["epoch"] for entry in probe.history] == [0, 23]
    result, last = probe.result, probe.history[-1]
    assert last["coverage"] == 1
    assert last["image_accuracy"] == 1
    assert "fitb/structure" not in trainer.callback_metrics
    for name in ("accuracy", "accuracy_all", "f1_macro", "area", "reliability"):
        assert np.isnan(last[name]), name
    rows = result.reliance.sum(dim=2)  # it looks at the rows of the bars
    assert float(rows[:, [0, 3, 6]].sum(dim=1).mean()) > 0.6
    assert result.interpretation()["tone"] != "good"
    assert result.figure().size[0] == 900


def test_independent_labels_that_only_the_user_can_find():
    """Labels from a batch adapter, logits (B, labels, 2) from logits_fn: as for labels that are found."""
    targets = torch.stack((LABELS == 0, LABELS != 1, LABELS != 2), dim=1)

    class Odd(Base):
        def loss(self, batch):
            wanted = torch.tensor([[int(mark) for mark in text] for text in batch[1]]).float()
            return (torch.special.expit(self.net(batch[0])) - wanted).square().mean()

    rows = [(image, "".join(str(int(mark)) for mark in row)) for image, row in zip(IMAGES, targets, strict=True)]
    probe, said, _ = with_and_without(
        lambda: (Odd(), loaders(rows), {}),
        batch_adapter=lambda batch: (batch[0], torch.tensor([[int(mark) for mark in text] for text in batch[1]])),
        logits_fn=lambda module, images: independent(module.net(images)),
    )
    assert said == []
    assert [entry["epoch"] for entry in probe.history] == [0, 1]
    assert probe.result.labels.tolist() == [0, 0, 1, 1, 2, 2]
