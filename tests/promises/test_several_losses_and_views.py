"""Steps with several losses, views of an image, or images: the right ones are probed and learned from."""

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.utilities import CombinedLoader
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from with_and_without import CLASSES, Base, bars, with_and_without

from fitb_callbacks.models.observation import Observer
from fitb_callbacks.models.usage import find_usage

IMAGES, LABELS = bars()
PLAIN = TensorDataset(IMAGES, LABELS)


def loaders(dataset=PLAIN):
    return {
        "train_dataloaders": DataLoader(dataset, batch_size=6, shuffle=True),
        "val_dataloaders": DataLoader(dataset, batch_size=6),
    }


class Plain(Base):
    def forward(self, x):
        return self.net(x)


class Adversarial(Plain):
    """A generator, a discriminator that sees its images first, and a classifier, optimized by hand."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.generator, self.discriminator = nn.Linear(5, 64), nn.Sequential(nn.Flatten(), nn.Linear(64, 1))

    def training_step(self, batch, batch_idx):
        images, labels = batch
        made = self.generator(torch.randn(len(images), 5)).view(-1, 1, 8, 8)
        real = torch.ones(len(images), 1)
        losses = (
            lambda: F.binary_cross_entropy_with_logits(self.discriminator(made), real),
            lambda: F.binary_cross_entropy_with_logits(self.discriminator(made.detach()), 1 - real),
            lambda: F.cross_entropy(self(images), labels),
        )
        for optimizer, loss in zip(self.optimizers(), losses, strict=True):
            optimizer.zero_grad()
            self.manual_backward(loss())
            optimizer.step()

    def configure_optimizers(self):
        parts = (self.generator, self.discriminator, self.net)
        return [torch.optim.Adam(part.parameters(), lr=1e-2) for part in parts]


class WithOnlineHead(Plain):
    """As SimCLR's: a contrastive loss of two noisy views, and a head on the features of one."""

    def __init__(self):
        super().__init__(outputs=16)
        self.head, self.projection = nn.Linear(16, CLASSES), nn.Linear(16, 8)

    def loss(self, batch):
        images, labels = batch
        views = [self.net(images + 0.02 * torch.randn_like(images)) for _ in range(2)]
        projected = F.normalize(self.projection(torch.cat(views)), dim=1)
        similar = (projected @ projected.T / 0.1).masked_fill(torch.eye(len(projected), dtype=torch.bool), -1e9)
        partner = torch.arange(len(projected)).roll(len(images))
        return F.cross_entropy(similar, partner) + F.cross_entropy(self.head(views[0].detach()), labels)


class TwoViews(Plain):
    """Mean probabilities of an image and its mirror image in validation."""

    def validation_step(self, batch, batch_idx):
        images, labels = batch
        mean = (self(images).softmax(dim=1) + self(images.flip(-1)).softmax(dim=1)) / 2
        self.log("val_loss", F.nll_loss(mean.log(), labels))


class TwoNormalisedViews(Plain):
    """The same, of images that only exist within the step: there is no place to put a filled one for both views."""

    def validation_step(self, batch, batch_idx):
        images, labels = (batch[0] - 0.5) / 0.5, batch[1]
        mean = (self(images).softmax(dim=1) + self(images.flip(-1)).softmax(dim=1)) / 2
        self.log("val_loss", F.nll_loss(mean.log(), labels))


class Pairs(Base):
    """Whether two images are of one class, by the distance of what one network makes of each."""

    def loss(self, batch):
        one, other, same = batch
        distance = (self.net(one) - self.net(other)).square().sum(dim=1)
        return F.binary_cross_entropy_with_logits(-distance, same)


class Penalised(Plain):
    """Gradients of the images within both steps."""

    def loss(self, batch):
        with torch.enable_grad():
            images = batch[0].clone().requires_grad_()
            loss = F.cross_entropy(self(images), batch[1])
            (gradient,) = torch.autograd.grad(loss, images, create_graph=True)
            return loss + gradient.square().sum()


class Cycled(Plain):
    def training_step(self, batch, batch_idx):
        return sum(self.loss(each) for each in batch.values())


class Stream(IterableDataset):
    def __iter__(self):
        yield from zip(IMAGES, LABELS, strict=True)


def cycled():
    several = {"one": DataLoader(PLAIN, batch_size=6, shuffle=True), "two": DataLoader(PLAIN, batch_size=4)}
    return Cycled(), {**loaders(), "train_dataloaders": CombinedLoader(several, "max_size_cycle")}, {}


def barebones():
    unset = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    return Plain(), loaders(), {"barebones": True} | dict.fromkeys(unset)


SCRIPTS = {
    "a GAN with a classifier": lambda: (Adversarial(), loaders(), {}),
    "self-supervised with an online head": lambda: (WithOnlineHead(), loaders(), {}),
    "test-time augmentation": lambda: (TwoViews(), loaders(), {}),
    "a gradient penalty, inference_mode=False": lambda: (Penalised(), loaders(), {"inference_mode": False}),
    "a combined loader": cycled,
    "barebones": barebones,
    "a validation of unknown length": lambda: (
        Plain(),
        {**loaders(), "val_dataloaders": DataLoader(Stream(), batch_size=6)},
        {},
    ),
    "a Timer": lambda: (Plain(), loaders(), {"callbacks": [Timer("00:01:00:00")]}),
}


@pytest.mark.parametrize("case", SCRIPTS)
def test_it_is_probed_and_training_is_untouched(case):
    probe, said, _ = with_and_without(SCRIPTS[case], fill=None)
    assert said == []
    result = probe.result
    assert torch.equal(result.images.mean(dim=(1, 3)).argmax(dim=1), 3 * result.labels)
    judge = probe._run_judge.last  # noqa: SLF001 - what it has learned from
    assert judge.counts.tolist() == [8, 8, 8] if case != "a combined loader" else min(judge.counts) > 0


def test_several_views_of_an_image_are_made_of_the_masked_one():
    model = TwoViews().eval()
    model.log = lambda *_: None
    batch = IMAGES[:6], LABELS[:6]
    observer = Observer(model)
    observer.start()
    model.validation_step(batch, 0)
    usage = find_usage(model, observer.stop(), batch, lambda batch: model.validation_step(batch, 0))
    others = torch.rand(6, 1, 8, 8)
    expected = (model(others).softmax(dim=1) + model(others.flip(-1)).softmax(dim=1)) / 2
    torch.testing.assert_close(usage.logits_fn(model, others), expected.log())


def test_pairs_that_enter_one_after_the_other_are_no_classification_of_images():
    pairs = TensorDataset(IMAGES, IMAGES.roll(1, 0), (LABELS.roll(1) == LABELS).float())
    probe, (said,), _ = with_and_without(lambda: (Pairs(outputs=8), loaders(pairs), {}))
    assert "2 images of each item enter the network" in said
    assert "FillInBlanksCallback(batch_adapter=" in said
    assert probe.history == []


def test_views_of_images_that_only_exist_within_the_step_are_not_half_filled():
    probe, (said,), _ = with_and_without(lambda: (TwoNormalisedViews(), loaders(), {}))
    assert "also depends on views of the images that could not be filled in" in said
    assert "FillInBlanksCallback(batch_adapter=" in said
    assert probe.history == []
