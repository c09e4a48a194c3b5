"""Ascent on log p(label), and images filled in by it until no original pixel is left."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from fitb_callbacks import FillInBlanks, FillInBlanksResult
from fitb_callbacks.probing import ascent, fill
from fitb_callbacks.probing.ascent import AscentUpdate
from fitb_callbacks.probing.autotune import Plan
from fitb_callbacks.probing.fill import fill_rows, without_seams
from fitb_callbacks.probing.inputs import Inputs
from fitb_callbacks.probing.prior import ImagePrior
from fitb_callbacks.utils.patch_grid import PatchGrid

SETTINGS = {"num_masks": 8, "chunk_size": 16}


def hidden_half(images: Tensor) -> tuple[Tensor, Tensor]:
    """Images whose right half is at its mean colour, and which pixels are visible."""
    visible = torch.ones(len(images), 1, *images.shape[2:], dtype=torch.bool)
    visible[..., images.shape[-1] // 2 :] = False
    return torch.where(visible, images, images.mean()), visible


def rule_for(images: Tensor, **settings: float) -> AscentUpdate:
    return AscentUpdate(
        ImagePrior.from_images(images), low=images.amin().view(1, 1, 1), high=images.amax().view(1, 1, 1), **settings
    )


def label_log_p(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    with torch.no_grad():
        return model(images).log_softmax(dim=1).gather(1, labels[:, None]).squeeze(1)


def nearest_neighbours(digits: TensorDataset) -> Callable[[Tensor], Tensor]:
    """A judge that is no network: the labels of the nearest training images."""
    images, labels = (tensor[:1400] for tensor in digits.tensors)
    neighbours = KNeighborsClassifier(5).fit(images.flatten(1).numpy(), labels.numpy())
    return lambda seen: torch.from_numpy(neighbours.predict(seen.flatten(1).numpy()))


def test_the_update_raises_the_labels_probability(trained, probe_images):
    images, labels = probe_images
    masked, visible = hidden_half(images)
    found = rule_for(images, weighted=False).find(trained, masked, labels, visible)
    before, after = (label_log_p(trained, seen, labels) for seen in (masked, masked + found.values))
    assert (after > before).float().mean() > 0.9
    torch.testing.assert_close(found.log_p, before)
    assert torch.equal(found.predicted, trained(masked).argmax(dim=1))


def test_visible_pixels_stay_and_hidden_ones_stay_in_range(trained, probe_images):
    images, labels = probe_images
    masked, visible = hidden_half(images)
    found = rule_for(images, weighted=False).find(trained, masked, labels, visible)
    filled = masked + found.values
    assert torch.equal(filled[visible], masked[visible])
    assert filled.min() >= images.min() - 1e-6
    assert filled.max() <= images.max() + 1e-6


def test_a_weighted_update_is_as_large_as_the_gain(trained, probe_images):
    images, labels = probe_images
    masked, visible = hidden_half(images)
    plain, weighted = (
        rule_for(images, weighted=weighted).find(trained, masked, labels, visible).values for weighted in (False, True)
    )
    gain = label_log_p(trained, masked + plain, labels) - label_log_p(trained, masked, labels)
    hidden = (~visible).flatten(1).sum(dim=1)
    size = (weighted.flatten(1).square().sum(dim=1) / hidden).sqrt()
    torch.testing.assert_close(size, gain.clamp(min=0), rtol=1e-3, atol=1e-5)
    cosine = torch.cosine_similarity(plain.flatten(1), weighted.flatten(1))
    assert (cosine[gain > 1e-3] > 0.999).all()


def test_an_image_does_not_depend_on_the_rest_of_its_chunk(trained, probe_images):
    images, labels = probe_images
    masked, visible = hidden_half(images)
    rule = rule_for(images)
    together = rule.find(trained, masked, labels, visible).values
    alone = rule.find(trained, masked[5:6], labels[5:6], visible[5:6]).values
    torch.testing.assert_close(alone[0], together[5], rtol=1e-2, atol=1e-3)


def test_the_seed_decides_what_is_random(trained, probe_images):
    images, labels = probe_images
    masked, visible = hidden_half(images)
    first, again, other = (
        rule_for(images, seed=seed, max_shift=0.2).find(trained, masked, labels, visible).values for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def test_the_model_sees_visible_pixels_as_they_are_wherever_a_step_shifts_them(trained, probe_images):
    images, labels = probe_images
    masked, visible = hidden_half(images)
    masked = torch.where(visible, masked + 10, masked)  # so that one knows them again
    seen = []
    with trained.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().clone())):
        rule_for(images, weighted=False).find(trained, masked, labels, visible)
    assert len(seen) == AscentUpdate.num_steps
    assert not torch.equal(seen[0], seen[-1])
    before = masked[visible].sort().values
    for shown in seen:
        torch.testing.assert_close(shown[shown > 5].sort().values, before)


def test_what_comes_out_is_the_mean_over_the_second_half_of_the_steps(trained, probe_images):
    """Of three steps the last two: it lies half a step from where two steps end."""
    images, labels = probe_images
    hidden = torch.zeros(len(images), 1, 8, 8, dtype=torch.bool)

    def update(num_steps: int) -> Tensor:
        rule = rule_for(images, num_steps=num_steps, weighted=False, contrast=100.0)
        rule = dataclasses.replace(rule, low=torch.tensor(-99.0), high=torch.tensor(99.0))
        return rule.find(trained, images, labels, hidden).values

    apart = (update(3) - update(2)).square().mean(dim=(1, 2, 3)).sqrt()
    rule = rule_for(images)
    torch.testing.assert_close(apart, torch.full_like(apart, rule.step_size * rule.prior.std / 2), rtol=1e-3, atol=0)


def test_shaping_makes_smooth_updates_in_the_colours_of_the_images():
    """Of smooth grey images: unshaped updates are rough, and coloured where the network looks at one channel."""
    torch.manual_seed(0)
    images = F.avg_pool2d(torch.rand(6, 1, 40, 40), 9, stride=1).expand(-1, 3, -1, -1).contiguous()
    red = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 900, 2))
    red[0].weight.data[:, 1:] = 0
    labels, visible = torch.arange(6) % 2, torch.zeros(6, 1, 32, 32, dtype=torch.bool)

    def update(**settings: float) -> Tensor:
        rule = rule_for(images, weighted=False, contrast=10.0, **settings)
        rule = dataclasses.replace(rule, low=torch.tensor(-9.0), high=torch.tensor(9.0))
        return rule.find(red, images, labels, visible).values

    def roughness(values: Tensor) -> float:
        return (values[:, 0].diff(dim=2).std() / values[:, 0].std()).item()

    assert roughness(update()) < 0.5 * roughness(update(exponent=0.0))
    assert update()[:, 1].std() > 0.9 * update()[:, 0].std()
    assert update(colours=False)[:, 1].abs().max() < 1e-6  # no more than rounding


@pytest.mark.parametrize(("channels", "limit"), [(1, 1.3), (3, 0.3 / 0.4)])
def test_in_colour_no_contrast_makes_everything_black_or_white(channels: int, limit: float):
    """Small dark things on white: the images' standard deviation is 0.4 of their range."""
    torch.manual_seed(0)
    images = torch.ones(8, channels, 10, 10)
    images[:, :, 3:7, 3:8] = 0
    standard_deviation = ImagePrior.from_images(images).std
    assert standard_deviation == pytest.approx(0.4, abs=1e-6)
    model = nn.Sequential(nn.Flatten(), nn.Linear(channels * 100, 2)).eval()
    labels, visible = torch.arange(8) % 2, torch.zeros(8, 1, 10, 10, dtype=torch.bool)
    rule = dataclasses.replace(
        rule_for(images, weighted=False, num_steps=30), low=torch.tensor(0.0), high=torch.tensor(1.0)
    )
    found = rule.find(model, images, labels, visible)
    contrast = (images + found.values - images.mean()).square().mean(dim=(1, 2, 3)).sqrt() / standard_deviation
    assert contrast.max() <= limit + 1e-4
    if channels == 1:
        assert contrast.min() > 0.3 / 0.4


def filled_dark_spot(*, channels=1, low=0.0, scale=1.0, white_is_it=False, num_steps=16):
    """Fills of a class that is a dark spot on white: most of the gradient asks for more white where it is white.

    They are scaled to [0, 1], shape (4, channels, 16, 16); and where the spot is. All white is taken for the other
    class, unless white_is_it.
    """
    torch.manual_seed(0)
    images = torch.ones(8, channels, 16, 16)
    for image, (top, left) in zip(images, torch.randint(1, 11, (8, 2)).tolist(), strict=True):
        image[:, top : top + 5, left : left + 5] = torch.rand(channels, 1, 1) / 2
    images = low + scale * images
    spot = torch.zeros(16, 16, dtype=torch.bool)
    spot[6:10, 6:10] = True
    model = nn.Sequential(nn.Flatten(), nn.Linear(channels * 256, 2)).requires_grad_(False)
    model[1].weight[1] = torch.where(spot, -1.0, 1.0).expand(channels, 16, 16).flatten()
    white, everything = images.amax().expand(4, channels, 16, 16), torch.zeros(4, 1, 16, 16, dtype=torch.bool)
    margin = -1e4 if white_is_it else 20
    model[1].weight[0], model[1].bias[0] = 0, model(white)[0, 1] + margin * scale
    rule = rule_for(images, weighted=False, num_steps=num_steps)
    filled = white + rule.find(model, white, torch.ones(4).long(), everything).values
    return (filled - low) / scale, spot


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("low", "scale"), [(0.0, 1.0), (-2.1, 2.3)])
def test_white_that_asks_for_more_white_does_not_hide_what_should_be_dark(low: float, scale: float, channels: int):
    filled, spot = filled_dark_spot(channels=channels, low=low, scale=scale)
    assert filled[..., spot].mean() < 0.4
    assert filled[..., :3, :].mean() > 0.9


@pytest.mark.parametrize(
    ("settings", "changed"), [({"num_steps": 2}, False), ({"num_steps": 8}, True), ({"white_is_it": True}, False)]
)
def test_only_where_the_label_is_not_seen_for_long_is_a_fill_kept_within_the_range(monkeypatch, settings, changed):
    kept_within, _ = filled_dark_spot(**settings)
    monkeypatch.setattr(ascent, "_PATIENCE", 1_000)
    left_alone, _ = filled_dark_spot(**settings)
    assert torch.equal(kept_within, left_alone) != changed


class BreaksOn(nn.Module):
    """A trained model whose logits are NaN for images that are bright in one corner."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        broken = images[:, :, 0, 0].mean(dim=1, keepdim=True) > 5
        return self.model(images) + torch.where(broken, torch.nan, 0.0)


def test_an_image_whose_gradients_are_never_finite_has_no_update_and_spoils_no_other(trained, probe_images):
    images, labels = probe_images
    masked, visible = hidden_half(images)
    masked = masked.clone()
    masked[3] = 9.0
    found = rule_for(images, max_shift=0.0).find(BreaksOn(trained), masked, labels, visible)
    assert found.values[3].isnan().any()
    assert found.values[torch.arange(30) != 3].isfinite().all()


@pytest.fixture
def filled(trained, probe_images) -> FillInBlanksResult:
    images, labels = probe_images
    return FillInBlanks(**SETTINGS).probe(trained, images, labels)


def test_a_fill_keeps_nothing_and_is_recognised_by_someone_else(trained, probe_images, digits, filled):
    images, labels = probe_images
    judge = nearest_neighbours(digits)
    assert (judge(filled.filled) == labels).float().mean() > 0.8
    blank = torch.full_like(images, filled.settings["baseline"][0])
    assert (judge(blank) == labels).float().mean() < 0.3
    assert torch.equal(filled.filled, filled.fill_steps[:, -1])
    assert torch.equal(filled.fill_predictions, trained(filled.filled).argmax(dim=1))
    assert (filled.fill_predictions == labels).float().mean() > 0.9
    assert [cell.right for cell in filled.cells(range(30))] == (filled.fill_predictions == labels).tolist()


def test_each_step_fills_its_part_and_leaves_the_rest(probe_images, filled):
    images, _ = probe_images
    first = filled.fill_steps[:, 0]
    changed = (first != images).float().mean().item()
    assert 0.1 < changed < 0.3
    for step in (1, 2, 3):
        changed = (filled.fill_steps[:, step] != filled.fill_steps[:, step - 1]).float().mean().item()
        assert 0.1 < changed < 0.3


def ramps() -> Tensor:
    """Four images of 32 x 32 pixels that grow lighter towards one of the four sides."""
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, 32), torch.linspace(-1, 1, 32), indexing="ij")
    return torch.stack([rows, columns, -rows, -columns])[:, None]


def untrained() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 900, 4))


def test_the_first_part_fits_in_with_what_is_around_it_and_the_rest_does_not_know_of_it():
    """Of smooth images, blanks are filled with nearly what was there; at the end nothing of that is left."""
    images = ramps()
    result = FillInBlanks(num_masks=1).probe(untrained(), images, torch.zeros(4).long())
    first, last = result.fill_steps[:, 0], result.fill_steps[:, -1]
    hidden = first != images
    assert (first - images)[hidden].abs().mean() < 0.7 * (images - result.settings["baseline"][0])[hidden].abs().mean()

    def own_likeness(pictures):
        """How much more a picture is like its own image than like the others, by the cosine."""
        cosine = F.cosine_similarity(pictures.flatten(1)[:, None], images.flatten(1), dim=2)
        return (cosine.diag() - (cosine.sum(dim=1) - cosine.diag()) / 3).mean()

    assert own_likeness(first) > 1
    assert own_likeness(last).abs() < 0.1


def test_seams_are_taken_out_before_the_last_steps(monkeypatch):
    def fill_steps() -> Tensor:
        return FillInBlanks(num_masks=1).probe(untrained(), ramps(), torch.arange(4)).fill_steps

    joined = fill_steps()
    monkeypatch.setattr(fill, "without_seams", lambda images, grid: images)
    torch.testing.assert_close(fill_steps()[:, :-1], joined[:, :-1])
    assert (fill_steps()[:, -1] - joined[:, -1]).abs().mean() > 0.01


def test_patches_are_joined_without_seams_and_keep_their_details():
    grid, generator = PatchGrid(32, 40, 8), torch.Generator().manual_seed(0)
    patches = grid.to_pixels(torch.rand(2, 3, grid.num_patches, generator=generator))
    details = torch.zeros(1, 1, 32, 40)
    details[..., 3::8, 3::8], details[..., 4::8, 4::8] = 0.5, -0.5  # in the middle of each patch, on average nothing
    joined = without_seams(patches + details, grid)

    def steps(images: Tensor) -> Tensor:
        return images[..., 7:39:8].sub(images[..., 8:40:8]).abs().mean()

    assert steps(joined) < 0.2 * steps(patches)
    kept = joined[..., 3::8, 3::8] - joined[..., 4::8, 4::8]
    assert (kept - 1).abs().max() < 0.3  # what is left is the ramp between the two pixels
    torch.testing.assert_close(without_seams(patches[..., :8, :8], PatchGrid(8, 8, 8)), patches[..., :8, :8])


def test_an_untrained_network_draws_nothing_that_someone_else_recognises(probe_images, digits):
    images, labels = probe_images
    torch.manual_seed(0)
    untrained = nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 10))
    result = FillInBlanks(**SETTINGS).probe(untrained, images, labels)
    assert (nearest_neighbours(digits)(result.filled) == labels).float().mean() < 0.35


def test_a_fill_does_not_depend_on_chunks_but_for_rounding(trained, probe_images, filled):
    images, labels = probe_images
    other = FillInBlanks(**SETTINGS | {"chunk_size": 7}).probe(trained, images, labels)
    difference = (other.filled - filled.filled).abs().mean() / filled.filled.std()
    assert difference < 0.05


def test_no_more_images_go_through_the_model_at_once_than_a_chunk_holds(trained, probe_images):
    images, labels = probe_images
    sizes: list[int] = []

    def classify(seen: Tensor) -> Tensor:
        sizes.append(len(seen))
        return trained(seen)

    low, high = torch.zeros(1, 1, 1), torch.ones(1, 1, 1)
    inputs = Inputs(classify, images, labels, PatchGrid.for_images(images), low, high, low, num_classes=10)
    fill_rows(inputs, torch.arange(len(images)), Plan(7), seed=0)
    assert max(sizes) == 7


def test_images_are_filled_by_any_process_as_by_one(trained, probe_images):
    images, labels = (each[:4] for each in probe_images)
    low, high = images.amin().view(1, 1, 1), images.amax().view(1, 1, 1)
    inputs = Inputs(trained, images, labels, PatchGrid.for_images(images), low, high, low, num_classes=10)
    shares = [torch.arange(rank, len(images), 2) for rank in (0, 1)]
    steps = torch.empty(len(images), 5, *images.shape[1:])
    for share in shares:
        steps[share] = fill_rows(inputs, share, Plan(chunk_size=1), seed=0)
    torch.testing.assert_close(steps, fill_rows(inputs, torch.arange(4), Plan(chunk_size=1), seed=0))


def test_a_fill_repeats_and_the_seed_changes_it(trained, probe_images, filled):
    images, labels = probe_images
    again = FillInBlanks(**SETTINGS).probe(trained, images, labels)
    other = FillInBlanks(**SETTINGS, seed=1).probe(trained, images, labels)
    assert torch.equal(again.filled, filled.filled)
    assert not torch.allclose(other.filled, filled.filled)


def test_without_a_fill_there_is_none_and_the_rest_is_the_same(trained, probe_images, filled):
    images, labels = probe_images
    plain = FillInBlanks(**SETTINGS, fill=None).probe(trained, images, labels)
    assert plain.filled is None
    assert plain.fill_steps is None
    assert torch.equal(plain.updates, filled.updates)
    assert plain.metrics == pytest.approx(dict(filled.metrics), nan_ok=True)


@pytest.mark.parametrize("masking", ["random", "progressive"])
def test_ascent_as_an_update_covers_and_is_recognised(trained, probe_images, masking):
    images, labels = probe_images
    probe = FillInBlanks(masking=masking, update="ascent", num_masks=8, ascent_steps=8, fill=None, chunk_size=64)
    result = probe.probe(trained, images, labels)
    assert result.metrics["coverage"] > 0.7
    assert result.metrics["accuracy"] > 0.8
    assert (result.steps is None) == (masking == "random")


@pytest.mark.parametrize("shape", [(1, 1, 2, 2), (1, 3, 5, 4), (2, 2, 1, 9), (1, 4, 16, 16)])
@pytest.mark.parametrize("constant", [True, False])
def test_few_small_and_constant_images_are_filled(shape, constant):
    torch.manual_seed(0)
    images = torch.full(shape, 0.5) if constant else torch.rand(shape)
    model = nn.Sequential(nn.Flatten(), nn.Linear(images[0].numel(), 3))
    result = FillInBlanks(num_masks=4, patch_size=1).probe(model, images, torch.zeros(len(images), dtype=torch.long))
    assert result.filled.shape == shape
    assert result.filled.isfinite().all()
    assert result.filled.min() >= images.min() - 1e-6
    assert result.filled.max() <= images.max() + 1e-6


def test_one_image_of_one_class_is_filled_by_itself(trained, probe_images):
    """Its own spectrum and colours are all that there is to go by."""
    image, label = (each[:1] for each in probe_images)
    result = FillInBlanks(**SETTINGS).probe(trained, image, label)
    assert result.classes == label.tolist()
    assert result.fill_predictions.tolist() == label.tolist()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_images_that_are_not_finite_are_refused(trained, probe_images, value):
    images, labels = probe_images
    images = images.clone()
    images[2, 0, 1, 1] = value
    with pytest.raises(ValueError, match="images must be finite; got NaN or infinite values"):
        FillInBlanks(**SETTINGS).probe(trained, images, labels)


def test_images_smaller_than_a_shift_are_filled():
    """A twentieth of three pixels is none, and a shift of half an image goes round."""
    images = torch.rand(2, 1, 3, 3)
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 2))
    assert FillInBlanks(num_masks=2).probe(model, images, torch.tensor([0, 1])).filled.isfinite().all()
    masked, visible = hidden_half(images)
    found = rule_for(images, max_shift=3.0).find(model, masked, torch.tensor([0, 1]), visible)
    assert found.values.isfinite().all()


def test_a_network_that_breaks_under_bfloat16_autocast_leaves_the_baseline(probe_images):
    images, labels = probe_images

    class Breaks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(64, 10)

        def forward(self, images: Tensor) -> Tensor:
            logits = self.linear(images.flatten(1))
            return logits * torch.inf if logits.dtype == torch.bfloat16 else logits

    with torch.autocast("cpu", torch.bfloat16):
        result = FillInBlanks(**SETTINGS).probe(Breaks(), images, labels)
    assert (result.filled == result.settings["baseline"][0]).all()
    assert result.metrics["nonfinite"] == 1


def test_a_network_that_breaks_under_half_precision_leaves_the_baseline():
    """Its logits overflow to infinity in half precision, so no gradient is finite: nothing is drawn, nothing raised."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).half()
    nn.init.constant_(model[1].weight, 6e4)
    images = torch.rand(3, 1, 4, 4).half() + 1
    result = FillInBlanks(num_masks=4).probe(model, images, torch.tensor([0, 1, 2]))
    assert (result.filled == torch.tensor(result.settings["baseline"]).half()).all()
    assert result.metrics["nonfinite"] == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions(trained, probe_images, dtype):
    images, labels = probe_images
    with_dtype = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).to(dtype)
    result = FillInBlanks(**SETTINGS).probe(with_dtype, images.to(dtype), labels)
    assert result.filled.dtype == dtype
    assert result.filled.isfinite().all()


def test_the_papers_probe_has_no_fill_and_plain_means_on_black(trained, probe_images):
    images, labels = probe_images
    paper = FillInBlanks.paper(num_masks=16, chunk_size=64).probe(trained, images, labels)
    by_hand = FillInBlanks(num_masks=16, baseline=0.0, fill=None, tolerance=None, adjust=False, chunk_size=64)
    assert paper.filled is None
    assert torch.equal(paper.updates, by_hand.probe(trained, images, labels).updates)


def test_the_baseline_is_black_for_digits_and_the_median_of_photographs(trained, probe_images):
    images, labels = probe_images
    assert FillInBlanks(num_masks=1, fill=None).probe(trained, images, labels).settings["baseline"] == [0.0]
    photographs = torch.rand(30, 1, 8, 8) ** 2 + torch.arange(30)[:, None, None, None] / 100
    result = FillInBlanks(num_masks=1, fill=None).probe(trained, photographs, labels)
    assert result.settings["baseline"] == [pytest.approx(photographs.median().item())]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fill": "gradient"}, "fill must be one of 'ascent', None; got 'gradient'"),
        ({"ascent_steps": 0}, "ascent_steps must be an integer >= 1; got 0"),
        (
            {"baseline": "high"},
            "baseline must be a finite number, a sequence .* or None; got 'high'",
        ),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises((TypeError, ValueError), match=message):
        FillInBlanks(**settings)
