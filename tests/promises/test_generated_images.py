"""Steps in which a network makes images, or modules prepare them: probe and judge see those of the batch."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from with_and_without import CLASSES, Base, bars, with_and_without

IMAGES, LABELS = bars()
ONE_LOSS = F.binary_cross_entropy_with_logits


def normalised(images):
    return (images - 0.5) / 0.5


def loaders(*, validation=True):
    dataset = TensorDataset(IMAGES, LABELS)
    train = {"train_dataloaders": DataLoader(dataset, batch_size=6, shuffle=True)}
    return train | ({"val_dataloaders": DataLoader(dataset, batch_size=6)} if validation else {})


class Discriminator(nn.Module):
    """Whether an image is real, and its class."""

    def __init__(self, classes):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU())
        self.real, self.classes = nn.Linear(16, 1), nn.Linear(16, classes)

    def forward(self, images):
        features = self.body(images)
        return self.real(features), self.classes(features)


class GAN(Base):
    """Both networks by hand, images normalised in the step; subclasses say what the discriminator learns."""

    classes = CLASSES

    def __init__(self):
        super().__init__()
        del self.net
        self.automatic_optimization = False
        self.generator = nn.Sequential(nn.Linear(5 + CLASSES, 64), nn.Tanh(), nn.Unflatten(1, (1, 8, 8)))
        self.discriminator = Discriminator(self.classes)

    def made(self, labels):
        return self.generator(torch.cat((torch.randn(len(labels), 5), F.one_hot(labels, CLASSES)), dim=1))

    def training_step(self, batch, batch_idx):
        images, labels = normalised(batch[0]), batch[1]
        for optimizer, loss in zip(self.optimizers(), (self.generators, self.discriminators), strict=True):
            optimizer.zero_grad()
            self.manual_backward(loss(images, labels))
            optimizer.step()

    def validation_step(self, batch, batch_idx):
        _, logits = self.discriminator(normalised(batch[0]))
        self.log("val_loss", F.cross_entropy(logits, batch[1]))

    def configure_optimizers(self):
        return [torch.optim.Adam(part.parameters(), lr=1e-2) for part in (self.generator, self.discriminator)]


class AuxiliaryClassifier(GAN):
    """AC-GAN: the generator comes first, and learns labels of its own."""

    def generators(self, images, labels):
        wanted = torch.randint(CLASSES, (len(images),))
        real, logits = self.discriminator(self.made(wanted))
        return ONE_LOSS(real, torch.ones(len(images), 1)) + F.cross_entropy(logits, wanted)

    def discriminators(self, images, labels):
        real, of_made = self.discriminator(self.made(labels).detach())
        _, of_images = self.discriminator(images)
        fake = ONE_LOSS(real, torch.zeros(len(images), 1))
        return fake + F.cross_entropy(of_made, labels) + F.cross_entropy(of_images, labels)


class OneClassMore(GAN):
    """A semi-supervised GAN: the last class is that of the generator's images."""

    classes = CLASSES + 1

    def generators(self, images, labels):
        _, logits = self.discriminator(self.made(labels))
        return F.cross_entropy(logits, torch.full_like(labels, CLASSES)).neg()

    def discriminators(self, images, labels):
        with torch.no_grad():
            made = self.made(labels)
        _, of_made = self.discriminator(made)
        _, of_images = self.discriminator(images)
        return F.cross_entropy(of_made, torch.full_like(labels, CLASSES)) + F.cross_entropy(of_images, labels)


class InOneBatch(OneClassMore):
    """The same with both kinds of images in one call."""

    def discriminators(self, images, labels):
        both = torch.cat((images, self.made(labels).detach()))
        _, logits = self.discriminator(both)
        return F.cross_entropy(logits, torch.cat((labels, torch.full_like(labels, CLASSES))))


class Translating(AuxiliaryClassifier):
    """As StarGAN: the generator gives the batch's images another class."""

    def made(self, labels):
        return self.generator(torch.cat((self.images.flatten(1)[:, :5], F.one_hot(labels, CLASSES)), dim=1))

    def generators(self, images, labels):
        self.images, others = images, labels.roll(1)
        _, logits = self.discriminator(self.made(others))
        return F.cross_entropy(logits, others)


class RealOrNot(GAN):
    """No classes at all."""

    def generators(self, images, labels):
        return ONE_LOSS(self.discriminator(self.made(labels))[0], torch.ones(len(images), 1))

    def discriminators(self, images, labels):
        real, _ = self.discriminator(images)
        return self.generators(images, labels).neg() + ONE_LOSS(real, torch.ones(len(images), 1))

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.generators(*batch))


class Normalise(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor(0.5))

    def forward(self, images):
        return (images - self.mean) / 0.5


class Prepared(Base):
    """Modules augment and normalise in the step, as with kornia; a head takes the feature maps of a body."""

    def __init__(self):
        super().__init__()
        self.prepare, self.body = Normalise(), nn.Conv2d(1, 4, 3, padding=1)
        self.net = nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(256, CLASSES))

    def loss(self, batch):
        return F.cross_entropy(self.net(self.body(self.prepare(batch[0]))), batch[1])


class WithAnotherTask(Base):
    """A loss of labels that the step makes comes first."""

    def __init__(self):
        super().__init__()
        self.turned = nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES))

    def loss(self, batch):
        images, labels = normalised(batch[0]), batch[1]
        turns = torch.randint(CLASSES, (len(images),))
        turned = torch.stack([image.rot90(int(by), (1, 2)) for image, by in zip(images, turns, strict=True)])
        return F.cross_entropy(self.turned(turned), turns) + F.cross_entropy(self.net(images), labels)


class MixedUp(Base):
    def training_step(self, batch, batch_idx):
        images, labels, by = normalised(batch[0]), batch[1], torch.randperm(len(batch[0]))
        logits = self.net(0.3 * images + 0.7 * images[by])
        return 0.3 * F.cross_entropy(logits, labels) + 0.7 * F.cross_entropy(logits, labels[by])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", F.cross_entropy(self.net(normalised(batch[0])), batch[1]))


def trained(module, *, validation=True, **options):
    return with_and_without(lambda: (module(), loaders(validation=validation), options), fill=None)


def has_the_bars(images, labels):
    return torch.equal(images.mean(dim=(1, 3)).argmax(dim=1), 3 * labels)


@pytest.mark.parametrize("validation", [True, False], ids=["validation", "no validation"])
@pytest.mark.parametrize("module", [AuxiliaryClassifier, OneClassMore, Translating, WithAnotherTask])
def test_probe_and_judge_see_the_images_of_the_batch(module, validation):
    probe, said, _ = trained(module, validation=validation)
    assert all("no image of class 3" in line for line in said)  # that of the generator's
    result, judge = probe.result, probe._run_judge.last  # noqa: SLF001 - what it has learned from
    assert has_the_bars(result.images, result.labels)
    assert result.images.min() < -0.5
    assert judge.counts[:CLASSES].tolist() == [8, 8, 8]
    assert judge.counts[CLASSES:].sum() == 0
    probe_images = normalised(IMAGES)
    assert judge.classify(probe_images).eq(LABELS).float().mean() > 0.9


def test_images_that_modules_prepare_are_those_that_enter_the_network():
    probe, said, _ = trained(Prepared)
    assert said == []
    assert probe.result.images.shape[1:] == (1, 8, 8)
    assert has_the_bars(probe.result.images, probe.result.labels)
    assert probe.result.images.min() < -0.5


def test_without_a_sanity_check_the_first_validation_tells_what_a_training_step_cannot():
    probe, said, _ = trained(Prepared, num_sanity_val_steps=0)
    assert said == ["the judge has seen no training batch, so there is none"]  # in the first epoch
    assert has_the_bars(probe.result.images, probe.result.labels)
    assert [entry["epoch"] for entry in probe.history] == [0, 1]
    assert probe._run_judge.last.counts.tolist() == [8, 8, 8]  # noqa: SLF001 - what it has learned from


def test_images_of_two_labels_teach_the_judge_nothing():
    probe, said, _ = trained(MixedUp)
    assert said == []
    judge = probe._run_judge.last  # noqa: SLF001 - what it has learned from
    assert 0 < judge.counts.sum() < len(IMAGES)
    assert judge.classify(normalised(IMAGES)).eq(LABELS).float().mean() > 0.9


def test_a_judge_learns_nothing_from_real_and_made_images_in_one_batch():
    probe, (said,), _ = trained(InOneBatch)
    assert "images that a network generates enter the classifier" in said
    assert "FillInBlanksCallback(reference=(images, labels))" in said
    assert has_the_bars(probe.result.images, probe.result.labels)
    assert probe._run_judge.last is None  # noqa: SLF001 - there is none


@pytest.mark.parametrize("module", [InOneBatch, RealOrNot])
def test_a_gan_without_a_classification_of_the_batch_costs_one_line(module):
    probe, (said,), _ = trained(module, validation=False)
    assert "off for this run" in said
    assert "FillInBlanksCallback(batch_adapter=" in said
    assert probe.history == []


def test_a_gan_without_classes_costs_one_line_with_its_validation():
    probe, (said,), _ = trained(RealOrNot)
    assert "as a GAN's discriminator does" in said
    assert probe.history == []
