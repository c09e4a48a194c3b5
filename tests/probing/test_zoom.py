"""Images seen from nearer or farther away, and steps of an ascent that look at them so."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fitb_callbacks import FillInBlanks
from fitb_callbacks.probing.ascent import AscentUpdate
from fitb_callbacks.probing.prior import ImagePrior
from fitb_callbacks.probing.zoom import Zoom


def pictures(size: tuple[int, int] = (130, 150)) -> Tensor:
    return F.avg_pool2d(
        torch.rand(4, 3, size[0] + 8, size[1] + 8, generator=torch.Generator().manual_seed(0)), 9, stride=1
    )


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 8, 3, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, 4))
    return nn.Sequential(*layers).eval()


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.0, 1.1, 3.0])
def test_it_is_bilinear_sampling(factor: float):
    images = pictures((40, 57)).requires_grad_()
    zoom = Zoom.by(torch.tensor(factor), images)
    turned = torch.tensor([[1 / factor, 0, 0], [0, 1 / factor, 0]]).expand(len(images), 2, 3)
    # With corners aligned, whose grid spans one pixel less, mirrors lie at the same places as ours.
    wanted = F.grid_sample(
        images, F.affine_grid(turned, images.shape, align_corners=True), padding_mode="reflection", align_corners=True
    )
    torch.testing.assert_close(zoom.see(images), wanted, rtol=1e-3, atol=1e-4)
    weights = torch.rand_like(images)
    (gradient,) = torch.autograd.grad(wanted, images, weights)
    torch.testing.assert_close(zoom.back(weights), gradient, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (2, 3)])
def test_tiny_images(size: tuple[int, int]):
    images = torch.full((2, 1, *size), 0.7)
    torch.testing.assert_close(Zoom.by(torch.tensor(0.2), images).see(images), images)


@pytest.mark.parametrize(("side", "zoomed"), [(127, False), (128, True)])
def test_steps_look_at_large_images_from_nearer_and_farther_away(network: nn.Module, side: int, zoomed: bool):
    """Of an image that grows lighter by a fixed amount per pixel, the amount says how near it was."""
    ramp = torch.linspace(-1, 1, 150).expand(1, 3, side, 150).contiguous()
    bound = torch.ones(1, 1, 1)
    rule = AscentUpdate(ImagePrior.from_images(ramp), -bound, bound, num_steps=12, max_shift=0.0)
    seen = []
    with network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach())):
        rule.find(network, ramp, torch.tensor([0]), torch.ones(1, 1, side, 150, dtype=torch.bool))
    slopes = torch.stack([image[0, 0, 0, 70:80].diff().mean() for image in seen[:12]]) * 149 / 2
    assert torch.equal(seen[0], ramp)
    if zoomed:
        assert 0.9 < slopes.min() < 0.97
        assert 1.03 < slopes.max() < 1.11
    else:
        torch.testing.assert_close(slopes, torch.ones(12), rtol=1e-3, atol=0)


def test_gradients_are_brought_back_to_where_the_image_was_seen():
    """A network that looks at one square sees another place of a zoomed image in it, and that is what changes."""

    def looks_at_one_square(images: Tensor) -> Tensor:
        seen = images[..., 60:64, 20:24].mean(dim=(1, 2, 3))
        return torch.stack((seen, -seen), dim=1)

    bound, prior = torch.ones(1, 1, 1), ImagePrior.from_images(pictures()[:, :1, :128, :128])
    start = torch.full((1, 1, 128, 128), prior.mean.item())
    hidden, label = torch.zeros(1, 1, 128, 128, dtype=torch.bool), torch.tensor([0])
    plain = {"num_steps": 2, "weighted": False, "exponent": 0.0, "colours": False, "max_shift": 0.0}

    def changed_elsewhere(max_zoom: float) -> bool:
        rule = AscentUpdate(prior, -bound, bound, max_zoom=max_zoom, **plain)
        change = rule.find(looks_at_one_square, start, label, hidden).values[0, 0].abs()
        outside = change.clone()
        outside[60:64, 20:24] = 0
        return bool(outside.max() > 0.1 * change.max())

    assert not changed_elsewhere(0.0)
    assert changed_elsewhere(0.5)


def test_large_images_are_filled_under_autocast_as_without(network: nn.Module):
    images, labels = pictures(), torch.arange(4)
    plain = FillInBlanks(num_masks=4).probe(network, images, labels).filled
    with torch.autocast("cpu", torch.bfloat16):
        mixed = FillInBlanks(num_masks=4).probe(network, images, labels).filled
    assert mixed.dtype == torch.float32
    assert torch.corrcoef(torch.stack((plain.flatten(), mixed.flatten())))[0, 1] > 0.9
