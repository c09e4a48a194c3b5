"""Which cue decides: each keeps what it says, and models that go by one alone are found out."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fitb_callbacks import FillInBlanks
from fitb_callbacks.probing.cues import CUES, cue_profile, mixed

LABELS = torch.arange(40) % 4
OF_REGIONS = {"spot", "place"}


def tinted():
    """Noise, brighter by class."""
    noise = 0.2 * torch.rand(40, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    return noise + 0.2 * LABELS[:, None, None, None]


def framed():
    """Noise in a frame of the class's grey."""
    images = torch.rand(40, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    framed = (0.25 * LABELS[:, None, None, None]).expand_as(images).clone()
    framed[..., 2:-2, 2:-2] = images[..., 2:-2, 2:-2]
    return framed


def shaded():
    """Noise with one bright quarter."""
    images = 0.2 * torch.rand(40, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    for image, label in zip(images, LABELS.tolist(), strict=True):
        top, left = 14 * (label // 2), 14 * (label % 2)
        image[:, top : top + 14, left : left + 14] += 0.6
    return images


def paled():
    """Noise around the same grey, stronger by class."""
    images = torch.rand(40, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    return 0.5 + 0.25 * (images - 0.5) * (1 + LABELS[:, None, None, None])


def nearest(value, targets):
    """A classifier of a measured value: the class whose target is nearest."""
    return lambda images: -(value(images)[:, None] - torch.tensor(targets)).abs()


WORLDS = {
    "colour": (tinted, nearest(lambda x: x.mean(dim=(1, 2, 3)), [0.1, 0.3, 0.5, 0.7])),
    "rim": (framed, nearest(lambda x: x[..., 0, :].mean(dim=(1, 2)), [0.0, 0.25, 0.5, 0.75])),
    "shading": (shaded, lambda x: F.adaptive_avg_pool2d(x, 2).flatten(1)),
    "contrast": (paled, nearest(lambda x: x.flatten(1).std(dim=1), [0.07, 0.145, 0.22, 0.29])),
}


@pytest.mark.parametrize("cue", WORLDS)
def test_a_model_that_goes_by_one_cue_names_the_image_that_the_cue_is_from(cue):
    make, classify = WORLDS[cue]
    profile = cue_profile(classify, make(), LABELS)
    assert set(profile) == set(CUES) - OF_REGIONS
    assert profile[cue].kept == 1
    assert profile[cue].rest == 0
    assert profile[cue].lead == profile[cue].high == 1
    assert profile[cue].low > 0.8


def test_a_cue_that_is_not_used_does_not_suffice():
    images, by_rim = framed(), WORLDS["rim"][1]
    assert cue_profile(by_rim, images, LABELS)["centre"].lead < 0
    assert cue_profile(WORLDS["shading"][1], shaded(), LABELS)["colour"].lead < 0
    assert cue_profile(WORLDS["shading"][1], shaded(), LABELS)["contrast"].lead == -1
    assert cue_profile(WORLDS["contrast"][1], paled(), LABELS)["colour"].lead < 0


def test_a_constant_answer_follows_nothing():
    labels = torch.tensor([0] * 20 + [1] * 20)
    always_zero = lambda images: torch.tensor([1.0, 0.0]).expand(len(images), 2)  # noqa: E731
    profile = cue_profile(always_zero, torch.rand(40, 3, 16, 16), labels)
    for cue in profile.values():
        assert cue.kept + cue.rest == pytest.approx(1)
    profile.pop("sharpness")  # its pairs are in an order of their own: the less sharp image first
    assert all(cue.lead == 0 for cue in profile.values())


@pytest.mark.parametrize("shape", [(2, 1, 3, 3), (2, 3, 64, 40), (1, 1, 28, 28)])
@pytest.mark.parametrize("cue", [cue for cue in CUES if cue not in OF_REGIONS])
def test_mixtures_have_the_shape_and_range_of_the_images_and_leave_them_as_they_were(cue, shape):
    images = torch.rand(shape)
    before = images.clone()
    mixture = mixed(cue, images, 3 * torch.rand(shape))
    assert mixture.shape == images.shape
    assert mixture.min() >= images.min()
    assert mixture.max() <= images.max()
    assert torch.equal(images, before)


def test_rim_and_centre_come_from_one_image_each_and_shuffling_loses_nothing():
    images, others = torch.rand(2, 3, 2, 28, 28, generator=torch.Generator().manual_seed(0))
    others = others.clamp(images.min(), images.max())
    rim, centre = mixed("rim", images, others), mixed("centre", images, others)
    assert torch.equal(rim[..., 4:-4, 4:-4], others[..., 4:-4, 4:-4])
    assert torch.equal(rim[..., :3, :], images[..., :3, :])
    assert torch.equal(centre[..., :6, :], others[..., :6, :])
    assert torch.equal(centre[..., 8:-8, 8:-8], images[..., 8:-8, 8:-8])
    shuffled = mixed("shuffled", images, others)
    torch.testing.assert_close(shuffled.flatten(2).sort().values, images.flatten(2).sort().values)
    assert not torch.equal(shuffled, images)


def test_the_rest_is_of_another_class():
    images = torch.zeros(12, 1, 8, 8) + torch.arange(12).view(-1, 1, 1, 1)
    labels = torch.arange(12) % 3
    seen = []

    def classify(batch):
        seen.append(batch.clone())
        return torch.zeros(len(batch), 3)

    cue_profile(classify, images, labels)
    rim = [cue for cue in CUES if cue not in OF_REGIONS].index("rim")  # three draws in one pass
    inside = [draw[:, 0, 4, 4].long() for draw in seen[rim].split(12)]
    assert all((labels[partners] != labels).all() for partners in inside)
    assert not torch.equal(inside[0], inside[1])


def test_a_module_is_asked_without_gradients():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    cue_profile(model, torch.rand(6, 1, 8, 8), torch.arange(6) % 3)
    assert all(parameter.grad is None for parameter in model.parameters())


def marked():
    """Noise, and in each image a bright square with as many dark rows as its class, anywhere: and where it is."""
    random = torch.Generator().manual_seed(0)
    images, spots = 0.5 * torch.rand(40, 1, 28, 28, generator=random), torch.zeros(40, 28, 28, dtype=torch.bool)
    for image, spot, label in zip(images, spots, LABELS.tolist(), strict=True):
        top, left = torch.randint(0, 24, (2,), generator=random).tolist()
        image[:, top : top + 4, left : left + 4] = 1.0
        image[:, top : top + label, left : left + 4] = 0.7
        spot[top : top + 4, left : left + 4] = True
    return images, spots


def test_a_model_that_reads_a_mark_names_the_image_that_its_spot_is_from():
    images, spots = marked()
    by_mark = nearest(lambda x: (x > 0.9).sum(dim=(1, 2, 3)) / 16, [1.0, 0.75, 0.5, 0.25])
    assert cue_profile(by_mark, images, LABELS, regions={"spot": spots})["spot"].kept == 1
    elsewhere = spots.roll((14, 14), dims=(1, 2))
    assert cue_profile(by_mark, images, LABELS, regions={"spot": elsewhere})["spot"].lead < 0


def test_sharpness_and_patterns_have_a_cue_and_pictures_have_not():
    random = torch.Generator().manual_seed(0)
    angles = torch.pi * LABELS / 4
    rows, columns = torch.meshgrid(torch.arange(28.0), torch.arange(28.0), indexing="ij")
    along = angles.cos()[:, None, None] * rows + angles.sin()[:, None, None] * columns
    stripes = (0.5 + 0.4 * torch.sin(1.5 * along + 6 * torch.rand(40, 1, 1, generator=random)))[:, None]
    spectra = torch.stack([torch.fft.fft2(stripes[label == LABELS]).abs().mean(dim=0) for label in range(4)])
    by_stripes = lambda x: -(torch.fft.fft2(x).abs()[:, None] - spectra).square().sum(dim=(2, 3, 4))  # noqa: E731
    profile = cue_profile(by_stripes, stripes, LABELS)
    assert profile["pattern"].kept > 0.95
    assert profile["shading"].lead < 0
    assert cue_profile(WORLDS["shading"][1], shaded(), LABELS)["pattern"].lead < 0


def test_sharpness_has_a_cue_of_its_own():
    """White noise, the more out of focus the higher the class, and a model that measures how rough it is."""
    random = torch.Generator().manual_seed(0)
    sharp = torch.randn(40, 1, 32, 32, generator=random)
    frequency = torch.hypot(torch.fft.fftfreq(32)[:, None], torch.fft.fftfreq(32))
    blur = torch.exp(-((1.5 * LABELS[:, None, None, None] * frequency) ** 2))
    images = torch.fft.ifft2(torch.fft.fft2(sharp) * blur).real

    def roughness(x):
        steps = x.diff(dim=2).square().mean(dim=(1, 2, 3)) + x.diff(dim=3).square().mean(dim=(1, 2, 3))
        return (steps / x.square().mean(dim=(1, 2, 3))).clamp(min=1e-9).log()

    measured = roughness(images)
    by_roughness = nearest(roughness, [measured[label == LABELS].mean().item() for label in range(4)])
    assert (by_roughness(images).argmax(dim=1) == LABELS).all()
    profile = cue_profile(by_roughness, images, LABELS)
    assert profile["sharpness"].lead > 0.8
    assert profile["colour"].lead < -0.5
    assert cue_profile(WORLDS["shading"][1], shaded(), LABELS)["sharpness"].lead < 0


def test_what_is_faint_has_a_cue():
    """Bright bars anywhere, on a faint ghost of the class's own; and a model that only sees the ghost."""
    random = torch.Generator().manual_seed(0)
    ghosts = 0.3 * torch.rand(4, 1, 28, 28, generator=random)
    ghosts[..., :4, :] = ghosts[..., -4:, :] = ghosts[..., :4] = ghosts[..., -4:] = 0
    images = ghosts[LABELS].clone()
    for image, row in zip(images, torch.randint(4, 24, (40,), generator=random).tolist(), strict=True):
        image[:, row : row + 3] = 1.0
    for flipped in (False, True):  # on black, and on white
        by_ghost = lambda x, f=flipped: -(((1 - x if f else x)[:, None] - ghosts).clamp(max=0.5).abs().sum((2, 3, 4)))  # noqa: E731
        profile = cue_profile(by_ghost, 1 - images if flipped else images, LABELS)
        assert profile["faint"].lead > 0.9
    by_bars = nearest(lambda x: (x.amax(dim=(1, 3)) > 0.9).float().argmax(dim=1).float(), [5.0, 10.0, 15.0, 20.0])
    assert cue_profile(by_bars, images, by_bars(images).argmax(dim=1))["faint"].lead < -0.9


def test_where_everything_is_near_the_background_little_of_it_is_faint():
    """As in photographs, in which a highlight or two are far from the background, and the thing itself is not."""
    images, others = 0.5 * torch.rand(2, 6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    images[..., 16, 16] = others[..., 16, 16] = 1.0
    made = mixed("faint", images, others)
    of_images, of_others = ((made == source).all(dim=1).float().mean().item() for source in (images, others))
    assert of_others > 0.4
    assert of_images < of_others


def test_blurring_an_image_as_another_is_blurred_takes_its_detail_and_leaves_its_colour():
    sharp, other = torch.rand(2, 1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    blurred = F.avg_pool2d(other, 9, stride=1, padding=4, count_include_pad=False)
    made = mixed("sharpness", torch.cat((blurred, other)), torch.cat((sharp, sharp)))[:1]
    assert made.diff(dim=3).std() < 0.3 * sharp.diff(dim=3).std()
    torch.testing.assert_close(made.mean(dim=(2, 3)), sharp.mean(dim=(2, 3)), atol=0.01, rtol=0)


def test_small_images_have_no_finest_detail():
    images, others = torch.rand(2, 3, 1, 8, 8)
    torch.testing.assert_close(mixed("detail", images, others), others.clamp(images.min(), images.max()))


def test_the_finest_detail_has_a_cue():
    textures = torch.randint(2, (4, 1, 28, 28), generator=torch.Generator().manual_seed(1)).float()
    images = 0.7 * shaded() + 0.3 * textures[LABELS]
    by_texture = lambda x: torch.stack([((x - x.mean()) * (t - 0.5)).sum(dim=(1, 2, 3)) for t in textures], 1)  # noqa: E731
    profile = cue_profile(by_texture, images, LABELS)
    assert profile["detail"].kept > 0.95
    assert profile["shading"].lead < 0


class Marks(nn.Module):
    """Reads how bright the place of each class is, or, wherever it stands, how large the bright part is."""

    places = ((3, 3), (3, 22), (22, 3), (22, 22))

    def __init__(self, by_place):
        super().__init__()
        self.by_place = by_place

    def forward(self, images):
        if self.by_place:
            return torch.stack([10 * images[:, 0, y : y + 4, x : x + 4].mean(dim=(1, 2)) for y, x in self.places], 1)
        return nearest(lambda some: (some > 0.8).float().sum(dim=(1, 2, 3)), [16.0, 25.0, 36.0, 49.0])(images)


@pytest.mark.parametrize("by_place", [True, False])
def test_a_mark_at_a_place_of_its_class_has_a_cue_and_a_thing_that_stands_anywhere_has_not(by_place):
    random = torch.Generator().manual_seed(0)
    images = 0.4 * torch.rand(40, 1, 28, 28, generator=random)
    for image, label in zip(images, LABELS.tolist(), strict=True):
        y, x = Marks.places[label] if by_place else torch.randint(0, 21, (2,), generator=random).tolist()
        side = 4 if by_place else 4 + label
        image[:, y : y + side, x : x + side] = 1.0
    found = FillInBlanks(num_masks=96, update="none", chunk_size=120).probe(Marks(by_place), images, LABELS)
    assert found.metrics["image_accuracy"] == 1
    if by_place:
        assert found.metrics["cue_place"] > 0.9
        assert found.interpretation()["tone"] == "bad"
    else:
        assert found.metrics["cue_place"] < 0
