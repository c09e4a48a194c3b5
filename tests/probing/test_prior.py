"""The statistics of images that shape the ascent."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fitb_callbacks.probing.prior import ImagePrior


def smooth_images(number: int, *, channels: int = 3, size: tuple[int, int] = (24, 32), seed: int = 0) -> Tensor:
    """Random images whose amplitude falls with frequency, in correlated channels."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(number, channels, *size, generator=generator)
    rows, columns = torch.fft.fftfreq(size[0]), torch.fft.rfftfreq(size[1])
    frequency = torch.hypot(rows[:, None], columns[None]).clamp(min=1 / max(size))
    smooth = torch.fft.irfft2(torch.fft.rfft2(noise) / frequency, s=size)
    return smooth + smooth.mean(dim=1, keepdim=True) * 3


def test_mean_and_covariance_are_those_of_all_pixels():
    images = smooth_images(5) + torch.tensor([1.0, -2.0, 3.0])[:, None, None]
    prior = ImagePrior.from_images(images)
    pixels = images.double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(prior.mean, pixels.mean(dim=1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(prior.covariance, torch.cov(pixels, correction=0), rtol=1e-4, atol=1e-4)
    assert prior.std == pytest.approx(pixels.var(dim=1).mean().sqrt().item(), rel=1e-3)


@pytest.mark.parametrize("size", [(16, 16), (9, 9)])
def test_power_is_parsevals(size: tuple[int, int]):
    """The power over all frequencies, each at its radius, sums to the energy of the deviations."""
    images = smooth_images(3, size=size)
    prior = ImagePrior.from_images(images)
    rows, columns = torch.fft.fftfreq(size[0]), torch.fft.fftfreq(size[1])
    radius = (torch.hypot(rows[:, None], columns[None]) * max(size)).round().long()
    energy = (images - images.mean(dim=(0, 2, 3), keepdim=True)).square().sum(dim=(2, 3)).mean()
    assert prior.power[radius].sum().item() == pytest.approx(energy.item(), rel=1e-4)


@pytest.mark.parametrize("cuts", [(1, 7), (4, 4), (2, 3, 3), (1,) * 8])
def test_merging_batches_gives_what_all_images_give(cuts: tuple[int, ...]):
    images = smooth_images(8)
    whole = ImagePrior.from_images(images)
    parts = [ImagePrior.from_images(batch) for batch in images.split(cuts)]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merged(part)
    assert merged.count == 8
    torch.testing.assert_close(merged.mean, whole.mean, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(merged.covariance, whole.covariance, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(merged.power[1:], whole.power[1:], rtol=1e-3, atol=1e-5)


def test_the_order_of_merging_makes_no_difference():
    first, second = ImagePrior.from_images(smooth_images(2)), ImagePrior.from_images(smooth_images(6, seed=1))
    torch.testing.assert_close(first.merged(second).covariance, second.merged(first).covariance)


def test_images_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"3 channels of .24, 32. and 1 channels"):
        ImagePrior.from_images(smooth_images(1)).merged(ImagePrior.from_images(smooth_images(1, channels=1)))
    with pytest.raises(ValueError, match=r"gradient must have the shape .B, 3, 24, 32."):
        ImagePrior.from_images(smooth_images(1)).shape(torch.zeros(1, 3, 32, 24))


def test_a_shaped_gradient_has_the_spectrum_of_the_images():
    images = smooth_images(64)
    noise = torch.randn(64, 3, 24, 32, generator=torch.Generator().manual_seed(1))
    shaped = ImagePrior.from_images(ImagePrior.from_images(images).shape(noise))
    radii = torch.tensor([1, 2, 4, 8, 11])
    wanted, found = (prior.power[radii] / prior.power[2] for prior in (ImagePrior.from_images(images), shaped))
    torch.testing.assert_close(found, wanted, rtol=0.35, atol=0)


def test_a_shaped_gradient_has_the_colours_of_the_images():
    grey = smooth_images(4, channels=1).expand(-1, 3, -1, -1)
    shaped = ImagePrior.from_images(grey).shape(torch.randn(2, 3, 24, 32))
    torch.testing.assert_close(shaped[:, 0], shaped[:, 1])
    torch.testing.assert_close(shaped[:, 0], shaped[:, 2])


def test_shaping_is_an_ascent_direction():
    """It multiplies by a positive semidefinite matrix, so a small step along it never lowers what that raises."""
    prior = ImagePrior.from_images(smooth_images(4))
    gradient = torch.randn(16, 3, 24, 32)
    assert (prior.shape(gradient) * gradient).flatten(1).sum(dim=1).min() > 0


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (2, 3), (7, 7)])
@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize("constant", [True, False])
def test_tiny_and_constant_images(size: tuple[int, int], channels: int, constant: bool):
    images = torch.full((1, channels, *size), 0.3) if constant else torch.rand(1, channels, *size)
    shaped = ImagePrior.from_images(images).shape(torch.ones(2, channels, *size))
    assert shaped.shape == (2, channels, *size)
    assert shaped.isfinite().all()
    assert (shaped != 0).any()


def test_half_precision_is_shaped_in_single():
    prior = ImagePrior.from_images(smooth_images(2).half())
    assert prior.shape(torch.randn(1, 3, 24, 32).bfloat16()).dtype == torch.float32
    assert prior.shape(torch.randn(1, 3, 24, 32).double()).dtype == torch.float64


def test_images_far_from_zero_are_measured_as_well():
    near, far = smooth_images(4), smooth_images(4) + 1000
    torch.testing.assert_close(
        ImagePrior.from_images(far).covariance, ImagePrior.from_images(near).covariance, rtol=1e-2, atol=1e-2
    )
