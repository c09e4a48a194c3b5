"""Training scripts as people write them: probed where that can be, off with one line where not, never touched."""

import pytest
import torch
import torch.nn.functional as F
from no_classifiers import OFF
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset
from with_and_without import CLASSES, Base, bars, compared_with_and_without, with_and_without


class Forward(Base):
    def forward(self, images):
        return self.net(images)


# --- what works ---------------------------------------------------------------------------------------------------


class Keywords(Base):
    """As Hugging Face's models: ``self(**batch)`` returns an object with loss and logits."""

    def forward(self, pixel_values, labels=None, **rest):
        logits = self.net(pixel_values)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}

    def loss(self, batch):
        return self(**batch)["loss"]


class ExtraArgument(Base):
    def forward(self, images, alpha):
        return alpha * self.net(images)

    def loss(self, batch):
        return F.cross_entropy(self(batch[0], 0.5), batch[1])


class Margin(Base):
    """As ArcFace: the label's own logit is lowered while training."""

    def forward(self, images, labels=None):
        logits = self.net(images)
        return logits if labels is None else logits - F.one_hot(labels, CLASSES)

    def loss(self, batch):
        return F.cross_entropy(self(*batch), batch[1])


class NoForward(Base):
    def loss(self, batch):
        return F.cross_entropy(self.net(batch[0]), batch[1])


class EmbeddingsAndHead(Base):
    def __init__(self):
        super().__init__(outputs=5)
        self.head = nn.Linear(5, CLASSES)

    def forward(self, images):
        return self.net(images)

    def loss(self, batch):
        return F.cross_entropy(self.head(F.normalize(self(batch[0]))), batch[1])


class FeaturesFirst(Base):
    def forward(self, images):
        features = self.net[:-1](images)
        return features, self.net[-1](features)

    def loss(self, batch):
        return F.cross_entropy(self(batch[0])[1], batch[1])


class FeaturesByName(FeaturesFirst):
    def forward(self, images):
        return dict(zip(("features", "preds"), super().forward(images), strict=True))

    def loss(self, batch):
        return F.cross_entropy(self(batch[0])["preds"], batch[1])


class TwoHeads(Base):
    """Batches are (image, coarse, fine)."""

    def __init__(self):
        super().__init__()
        self.coarse = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))

    def forward(self, images):
        return {"coarse": self.coarse(images), "fine": self.net(images)}

    def loss(self, batch):
        found = self(batch[0])
        return F.cross_entropy(found["coarse"], batch[1]) + F.cross_entropy(found["fine"], batch[2])


class ThirdColumn(Base):
    """Batches are (image, domain, label)."""

    def forward(self, images):
        return self.net(images)

    def loss(self, batch):
        return F.cross_entropy(self(batch[0]), batch[2])


class NormalisedInStep(Forward):
    def loss(self, batch):
        return F.cross_entropy(self((batch[0] - 0.5) / 0.5), batch[1])


class BytesInStep(Forward):
    def loss(self, batch):
        return F.cross_entropy(self(batch[0].float() / 255), batch[1])


class ChannelsLast(Forward):
    def forward(self, images):
        return self.net(images.permute(0, 3, 1, 2))


class ChannelsLastInStep(Forward):
    def loss(self, batch):
        return F.cross_entropy(self(batch[0].permute(0, 3, 1, 2)), batch[1])


class FixedBatch(Forward):
    def forward(self, images):
        return super().forward(images.reshape(6, 1, 8, 8))


class Squeezed(Base):
    def __init__(self):
        super().__init__(outputs=1)

    def forward(self, images):
        return self.net(images).squeeze()

    def loss(self, batch):
        return F.binary_cross_entropy_with_logits(self(batch[0]), (batch[1] > 0).float())


class SigmoidInside(Base):
    def __init__(self):
        super().__init__(outputs=1)

    def forward(self, images):
        return self.net(images).sigmoid()

    def loss(self, batch):
        return F.binary_cross_entropy(self(batch[0]), (batch[1] > 0).float().unsqueeze(1))


class OneHot(Forward):
    def loss(self, batch):
        return F.binary_cross_entropy_with_logits(self(batch[0]), F.one_hot(batch[1], CLASSES).float())


class Soft(Forward):
    def loss(self, batch):
        soft = 0.8 * F.one_hot(batch[1], CLASSES) + 0.2 / CLASSES
        return F.cross_entropy(self(batch[0]), soft)


class ByHand(Forward):
    """A loss of one's own."""

    def loss(self, batch):
        return -(self(batch[0]).log_softmax(dim=1) * F.one_hot(batch[1], CLASSES)).sum(dim=1).mean()


class FrozenBackbone(Base):
    def __init__(self):
        super().__init__(outputs=5)
        self.net.requires_grad_(False)
        self.head = nn.Linear(5, CLASSES)

    def forward(self, images):
        with torch.no_grad():
            features = self.net(images)
        return self.head(features)


class Detached(FrozenBackbone):
    def forward(self, images):
        return self.head(self.net(images).detach())


class SetGradEnabled(FrozenBackbone):
    def forward(self, images):
        with torch.set_grad_enabled(self.training):
            return self.head(self.net(images))


class InPlace(Forward):
    def forward(self, images):
        images.sub_(0.5)
        return super().forward(images)

    def loss(self, batch):
        return F.cross_entropy(self(batch[0].clone()), batch[1])


class InPlaceReLU(Forward):
    def __init__(self):
        super().__init__()
        self.net.insert(0, nn.ReLU(inplace=True))

    def loss(self, batch):
        return F.cross_entropy(self(batch[0].clone()), batch[1])


class Lazy(Forward):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.LazyLinear(CLASSES))


class Recurrent(Forward):
    def __init__(self):
        super().__init__()
        self.rows, self.head = nn.LSTM(8, 6, batch_first=True), nn.Linear(6, CLASSES)

    def forward(self, images):
        return self.head(self.rows(images.squeeze(1))[0][:, -1])


class LogsInForward(Forward):
    def forward(self, images):
        logits = super().forward(images)
        self.log("largest", logits.max(), on_step=True, on_epoch=False)
        return logits


class Metrics(Forward):
    """Metrics before the loss, in the step."""

    def __init__(self):
        super().__init__()
        import torchmetrics

        self.accuracy = torchmetrics.Accuracy(task="multiclass", num_classes=CLASSES)

    def loss(self, batch):
        logits = self.net(batch[0]) * 1
        self.accuracy.update(logits, batch[1])
        self.log("accuracy", self.accuracy)
        return F.cross_entropy(logits, batch[1])


class IgnoredLabel(Forward):
    def loss(self, batch):
        return F.cross_entropy(self(batch[0]), batch[1], ignore_index=-100)


class IgnoredVoid(Forward):
    def loss(self, batch):
        return F.cross_entropy(self(batch[0]), batch[1].long(), ignore_index=255)


class Counts(Forward):
    """State of the user's own: a counter that changes the logits, a memory bank, a metric, a collecting hook."""

    def __init__(self):
        super().__init__()
        import torchmetrics

        self.steps, self.bank, self.seen = 0, [], []
        self.mean = torchmetrics.MeanMetric()
        self.net[1].register_forward_hook(lambda module, args, output: self.seen.append(float(output.mean())))

    def forward(self, images):
        self.steps += 1
        self.bank.append(images.detach().mean())
        self.mean.update(images.mean())
        return super().forward(images) * (1 + 0.01 * self.steps) + 0.01 * len(self.bank)

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        self.log("mean", self.mean)
        self.log("seen", float(len(self.seen)))

    def on_save_checkpoint(self, checkpoint):
        checkpoint["own"] = [self.steps, len(self.bank), len(self.seen)]


class Manual(Forward):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.loss(batch))
        optimizer.step()


IMAGES, LABELS = bars()


class Rows(Dataset):
    """A data set of whatever rows."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


def as_keywords():
    return Rows([{"pixel_values": x, "labels": y, "path": "a.png"} for x, y in zip(IMAGES, LABELS, strict=True)])


def with_bad_labels(value, dtype=torch.long):
    labels = LABELS.clone()
    labels[[0, 7]] = value
    return TensorDataset(IMAGES, labels.to(dtype))


PLAIN = TensorDataset(IMAGES, LABELS)
BYTES = (IMAGES * 255).byte()
WORKS = {
    "forward": (Forward, PLAIN),
    "forward(**batch)": (Keywords, as_keywords()),
    "forward(x, alpha)": (ExtraArgument, PLAIN),
    "forward(x, y), a margin": (Margin, PLAIN),
    "no forward": (NoForward, PLAIN),
    "embeddings and a head": (EmbeddingsAndHead, PLAIN),
    "(features, logits)": (FeaturesFirst, PLAIN),
    "{features, preds}": (FeaturesByName, PLAIN),
    "two heads": (TwoHeads, TensorDataset(IMAGES, (LABELS > 0).long(), LABELS)),
    "(x, domain, y)": (ThirdColumn, TensorDataset(IMAGES, 1 - (LABELS > 0).long(), LABELS)),
    "normalised in the step": (NormalisedInStep, PLAIN),
    "bytes": (BytesInStep, TensorDataset(BYTES, LABELS)),
    "channels last": (ChannelsLast, TensorDataset(IMAGES.permute(0, 2, 3, 1), LABELS)),
    "channels last in the step": (ChannelsLastInStep, TensorDataset(IMAGES.permute(0, 2, 3, 1), LABELS)),
    "a fixed batch size": (FixedBatch, PLAIN),
    "squeeze()": (Squeezed, PLAIN),
    "sigmoid inside": (SigmoidInside, PLAIN),
    "one-hot": (OneHot, PLAIN),
    "soft labels": (Soft, PLAIN),
    "a loss by hand": (ByHand, PLAIN),
    "no_grad around the backbone": (FrozenBackbone, PLAIN),
    "detach": (Detached, PLAIN),
    "set_grad_enabled": (SetGradEnabled, PLAIN),
    "in-place first operation": (InPlace, PLAIN),
    "in-place ReLU first": (InPlaceReLU, PLAIN),
    "LazyLinear": (Lazy, PLAIN),
    "an LSTM": (Recurrent, PLAIN),
    "self.log in forward": (LogsInForward, PLAIN),
    "metrics in the step": (Metrics, PLAIN),
    "labels of -100": (IgnoredLabel, with_bad_labels(-100)),
    "labels of 255, bytes": (IgnoredVoid, with_bad_labels(255, torch.uint8)),
    "state of its own in forward": (Counts, PLAIN),
    "manual optimization": (Manual, PLAIN),
}


@pytest.mark.parametrize("case", WORKS)
def test_it_is_probed_and_training_is_untouched(case):
    module_class, dataset = WORKS[case]
    probe, said, trainer = compared_with_and_without(module_class, dataset)
    assert [entry["epoch"] for entry in probe.history] == [0, 1]
    left_out = {"labels of -100": -100, "labels of 255, bytes": 255}.get(case)
    assert said == ([] if left_out is None else [f"items are left out: labels [{left_out}] are none of the 3 classes"])
    labels = set(probe.result.labels.tolist())
    assert labels == ({0, 1} if case in ("squeeze()", "sigmoid inside") else {0, 1, 2})
    assert probe.result.images.shape[1:] == (1, 8, 8)
    check = CHECKS.get(case)
    if check is not None:
        check(probe, trainer)


def same_as(images):
    def check(probe, trainer):
        known = {image.numpy().tobytes() for image in images}
        assert all(image.numpy().tobytes() in known for image in probe.result.images)

    return check


def logits_are(compute):
    """The logits that the probe sees are those that the loss gets."""

    def check(probe, trainer):
        module = trainer.lightning_module.eval()
        from fitb_callbacks.models.logits import classifier

        with torch.no_grad():
            seen = classifier(module, probe.used_logits_fn)(probe.result.images)
            torch.testing.assert_close(seen, compute(module, probe.result.images), rtol=1e-4, atol=1e-4)

    return check


CHECKS = {
    "normalised in the step": same_as((IMAGES - 0.5) / 0.5),
    "bytes": same_as(BYTES.float() / 255),
    "channels last": same_as(IMAGES),
    "channels last in the step": same_as(IMAGES),
    "embeddings and a head": logits_are(lambda module, x: module.head(F.normalize(module(x)))),
    "(features, logits)": logits_are(lambda module, x: module(x)[1]),
    "{features, preds}": logits_are(lambda module, x: module(x)["preds"]),
    "two heads": logits_are(lambda module, x: module(x)["fine"]),
    "forward(x, alpha)": logits_are(lambda module, x: module(x, 0.5)),
    "forward(x, y), a margin": logits_are(lambda module, x: module(x)),
    "sigmoid inside": logits_are(lambda module, x: F.pad(module.net(x), (1, 0))),
}


class Unlogged(Forward):
    def validation_step(self, batch, batch_idx):
        return self.loss(batch)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_image_that_is_not_finite_costs_itself_only(value):
    images = IMAGES.clone()
    images[[0, 8], :, 2, 2] = value

    def make():
        data = {
            "train_dataloaders": DataLoader(PLAIN, 6),
            "val_dataloaders": DataLoader(TensorDataset(images, LABELS), 6),
        }
        return Unlogged(), data, {}

    probe, said, _ = with_and_without(make)
    assert said == ["items are left out: images hold NaN or infinite values"]
    assert [entry["epoch"] for entry in probe.history] == [0, 1]
    assert probe.result.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert probe.result.images.isfinite().all()


def test_class_names_of_the_wrong_number_cost_the_names_only():
    probe, said, _ = compared_with_and_without(Forward, PLAIN, class_names=["top", "middle"])
    assert len(said) == 1
    assert "there are 2 class names for 3 classes, so none are shown" in said[0]
    assert [entry["epoch"] for entry in probe.history] == [0, 1]
    assert probe.result.class_names is None


class ManyLabels(Forward):
    """Several of three labels may be true of an image."""

    def loss(self, batch):
        return F.binary_cross_entropy_with_logits(self(batch[0]), batch[1].float())


MANY = torch.stack((LABELS == 0, LABELS != 1, LABELS != 2), dim=1).long()


class ManyProbabilities(ManyLabels):
    """The sigmoid inside the model."""

    def forward(self, images):
        return self.net(images).sigmoid()

    def loss(self, batch):
        return F.binary_cross_entropy(self(batch[0]), batch[1])


class ManyByHand(ManyLabels):
    """As an asymmetric or focal loss of one's own."""

    def loss(self, batch):
        p = torch.sigmoid(self(batch[0]))
        return -(batch[1] * p.log() + (1 - batch[1]) * p**2 * (1 - p).log()).mean()


@pytest.mark.parametrize(
    ("module_class", "targets"),
    [(ManyLabels, MANY), (ManyLabels, MANY.float()), (ManyProbabilities, MANY.float()), (ManyByHand, MANY.float())],
    ids=["integers", "floats", "BCELoss", "by hand"],
)
def test_each_of_several_independent_labels_is_probed(module_class, targets):
    """Bars are at the top, middle or bottom; the labels are: at the top, not in the middle, not at the bottom."""
    probe, said, trainer = compared_with_and_without(
        module_class, TensorDataset(IMAGES, targets), options={"max_epochs": 12}, every_n_epochs=12
    )
    assert said == []
    assert [entry["epoch"] for entry in probe.history] == [0, 11]
    result = probe.result
    assert result.labels.tolist() == [0, 0, 1, 1, 2, 2]
    truth = {image.numpy().tobytes(): labels for image, labels in zip(IMAGES, targets, strict=True)}
    for image, label in zip(result.images, result.labels, strict=True):
        assert truth[image.numpy().tobytes()][label] == 1
    with torch.no_grad():
        logits = trainer.lightning_module.eval().net(result.images)
    assert bool(((logits > 0).sum(dim=1) > 1).any())  # several at once, of which the strongest alone would count
    own = logits[torch.arange(6), result.labels] > 0
    assert result.metrics["image_accuracy"] == pytest.approx(own.float().mean().item())
    assert own.all()
    assert result.metrics["accuracy"] == 1
    # For "at the top" the model fills in a bar there, for "not at the bottom" it takes one away
    rows = result.updates.mean(dim=(1, 3))
    assert bool((rows[:2].argmax(dim=1) == 0).all())
    assert bool((rows[4:, 6] < 0).all())


def test_labels_that_turn_out_to_be_independent_are_followed():
    """The first batches of the validation look one-hot."""
    dataset = TensorDataset(IMAGES, torch.cat((torch.eye(3)[LABELS[:12]], MANY[12:].float())))
    probe, said, _ = compared_with_and_without(ManyLabels, dataset)
    assert said == [
        "an image has several labels, unlike those before it: each label is probed by itself from now on, and scores "
        "before and after do not compare"
    ]
    assert [entry["epoch"] for entry in probe.history] == [0, 1]
    assert probe.result.labels.unique().tolist() == [0, 1, 2]


# --- what is no classification of images ---------------------------------------------------------------------------


@pytest.mark.parametrize("case", OFF)
def test_what_is_no_classification_of_images_costs_one_line(case):
    module_class, dataset, says = OFF[case]
    probe, said, _ = compared_with_and_without(module_class, dataset)
    assert len(said) == 1
    assert "off for this run" in said[0]
    assert says in said[0]
    assert "FillInBlanksCallback(batch_adapter=" in said[0]
    assert probe.history == []
