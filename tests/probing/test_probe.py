"""The probe, against a plain reference: a Python loop over masks."""

import dataclasses
from array import array

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fitb_callbacks import FillInBlanks, FillInBlanksResult
from fitb_callbacks.probing.masks import random_masks
from fitb_callbacks.utils.patch_grid import PatchGrid


def reference(model, images, labels, probe, patch_size, baseline):
    """Mean update and number of kept masks of each image, one mask at a time, in float64."""
    model, images = model.double(), images.double()
    visible = random_masks(
        torch.arange(probe.num_masks),
        PatchGrid.for_images(images, patch_size),
        mask_ratio=probe.mask_ratio,
        seed=probe.seed,
    )
    updates, kept = torch.zeros_like(images), []
    for row, (image, label) in enumerate(zip(images, labels, strict=True)):
        count = 0
        for mask in visible.double():
            leaf = (image * mask + baseline * (1 - mask)).detach().requires_grad_()
            logits = model(leaf.unsqueeze(0))
            if logits.argmax() == label:
                F.cross_entropy(logits, label.unsqueeze(0)).backward()
                updates[row] += (1 - mask) * -leaf.grad
                count += 1
        kept.append(count)
        updates[row] /= max(count, 1)
    return updates, torch.tensor(kept)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"mask_ratio": 0.6, "patch_size": 3, "baseline": 0.3, "seed": 5},
        {"mask_ratio": 0.5, "patch_size": 2, "num_masks": 37},
    ],
)
def test_agrees_with_a_plain_loop(trained, probe_images, settings):
    images, labels = probe_images
    probe = FillInBlanks(**{"num_masks": 24, "adjust": False} | settings)
    result = probe.probe(trained, images, labels)
    baseline = settings.get("baseline", images.min())
    expected, kept = reference(
        trained, images, labels, probe, patch_size=settings.get("patch_size", 1), baseline=baseline
    )
    trained.float()
    assert torch.equal(result.kept, kept)
    assert (kept < probe.num_masks).any()  # the selection of masks was put to the test
    error = (result.updates.double() - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1).clamp(1e-12)
    assert error[kept > 0].max() < 1e-5


@pytest.mark.slow
def test_chunk_size_changes_nothing_but_rounding(trained, probe_images):
    results = [
        FillInBlanks(num_masks=50, chunk_size=size).probe(trained, *probe_images) for size in (1, 7, 30, 64, 10_000)
    ]
    expected = results[0].updates.flatten(1)
    for result in results[1:]:
        assert torch.equal(result.kept, results[0].kept)
        # Rounding depends on the processor, and is some 1e-7 of an update. One mask of 50 is about 1e-2.
        error = (result.updates.flatten(1) - expected).norm(dim=1) / expected.norm(dim=1)
        assert error.max() < 1e-5


def test_repeats_exactly_with_the_same_seed(trained, probe_images):
    # In chunks of one size: the search for the fastest one may go on between probes, and sums are rounded by chunk.
    first, second, other = (
        FillInBlanks(num_masks=20, seed=seed, chunk_size=64).probe(trained, *probe_images) for seed in (3, 3, 4)
    )
    assert torch.equal(first.updates, second.updates)
    assert torch.equal(first.prototypes, second.prototypes)
    assert first.metrics == second.metrics
    assert not torch.equal(first.updates, other.updates)


def test_an_image_does_not_depend_on_the_others(trained, probe_images):
    images, labels = probe_images
    probe = FillInBlanks(num_masks=20, low=0.0, high=1.0)
    all_together = probe.probe(trained, images, labels)
    alone = probe.probe(trained, images[4:5], labels[4:5])
    assert torch.allclose(alone.updates[0], all_together.updates[4], atol=1e-6)


def test_prototypes_of_a_trained_model_are_recognised(trained, probe_images):
    result = FillInBlanks(num_masks=128).probe(trained, *probe_images)
    assert result.metrics["coverage"] > 0.9
    assert result.metrics["accuracy"] > 0.8
    assert result.prototypes.min() == 0.0
    assert result.prototypes.max() == 1.0
    binary = FillInBlanks(num_masks=16, binarize=0.25).probe(trained, *probe_images)
    assert set(binary.prototypes.unique().tolist()) == {0.0, 1.0}


def test_prototypes_are_in_the_models_own_input_space(trained, probe_images):
    """The same network behind a mean/std normalisation gives the same prototypes, in its own units."""

    class Normalised(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, x):
            return self.net(x * 0.5 + 0.2)

    images, labels = probe_images
    plain = FillInBlanks(num_masks=64).probe(trained, images, labels)
    normalised = FillInBlanks(num_masks=64).probe(Normalised(trained), (images - 0.2) / 0.5, labels)
    assert torch.allclose(normalised.prototypes * 0.5 + 0.2, plain.prototypes, atol=1e-6)
    assert normalised.settings["baseline"] == pytest.approx([-0.4])
    assert normalised.metrics == pytest.approx(plain.metrics)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 5), (2, 31)])
def test_any_channels_and_sizes(channels, height, width):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(channels, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    images = torch.randn(4, channels, height, width)
    result = FillInBlanks(num_masks=16).probe(model, images, torch.tensor([0, 1, 2, 0]))
    assert result.prototypes.shape == result.updates.shape == images.shape
    assert result.figure().size[0] > 100


def test_predicted_target_needs_no_labels(trained, probe_images):
    images, _ = probe_images
    result = FillInBlanks(num_masks=32, target="predicted").probe(trained, images)
    assert torch.equal(result.labels, trained(images).argmax(1))
    assert result.coverage == 1.0


def test_a_model_that_predicts_one_class_covers_that_class_only(probe_images):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    nn.init.zeros_(model[1].weight)
    nn.init.zeros_(model[1].bias)
    model[1].bias.data[3] = 1.0
    model[1].weight.data[:, 0] = torch.linspace(0, 1e-3, 10)
    result = FillInBlanks(num_masks=8).probe(model, *probe_images)
    assert result.coverage == pytest.approx(0.1)
    assert (result.predictions[result.labels != 3] == -1).all()
    assert (result.prototypes[result.labels != 3] == 0).all()
    result.figure()


def test_a_model_that_covers_nothing_has_undefined_rates(probe_images):
    class Nowhere(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :10] * torch.nan

    result = FillInBlanks(num_masks=4).probe(Nowhere(), *probe_images)
    assert (result.kept == 0).all()  # argmax of NaN is class 0, but its gradients are not finite
    assert result.coverage == 0.0
    assert np.isnan(result.metrics["accuracy"])
    result.figure()


def test_memory_does_not_depend_on_the_number_of_masks():
    """The largest number of images that ever goes through the model at once is the chunk size."""
    sizes = []

    class Watched(nn.Module):
        def forward(self, x):
            sizes.append(len(x))
            return x.flatten(1)[:, :3]

    for num_masks in (10, 1000):
        FillInBlanks(num_masks=num_masks, chunk_size=32).probe(Watched(), torch.rand(6, 1, 4, 4), torch.arange(6) % 3)
    assert max(sizes) <= 32


@pytest.mark.parametrize("output", ["tuple", "dict", "attribute", "extra dict", "single logit", "logits_fn"])
def test_finds_logits(output):
    class Output:
        def __init__(self, logits):
            self.logits = logits

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(16, 1 if output == "single logit" else 2)

        def forward(self, x):
            logits = self.linear(x.flatten(1))
            return {
                "tuple": (logits, x),
                "dict": {"features": x, "logits": logits},
                "attribute": Output(logits),
                "extra dict": {"loss": torch.tensor(0.0), "out": logits},
                "single logit": logits[:, 0],
                "logits_fn": "no tensor at all",
            }[output]

    def logits_fn(model, x):
        return model.linear(x.flatten(1))

    torch.manual_seed(0)
    result = FillInBlanks(num_masks=8).probe(
        Model(),
        torch.rand(4, 1, 4, 4),
        torch.tensor([0, 1, 0, 1]),
        logits_fn=logits_fn if output == "logits_fn" else None,
    )
    assert result.settings["num_classes"] == 2


class NoLogits(nn.Module):
    def forward(self, x):
        return {"features": x, "name": "resnet"}


class Detached(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :3].detach()


@pytest.mark.parametrize(
    ("error", "says", "settings"),
    [
        (ValueError, r"mask_ratio .* greater than 0 and less than 1; got 1$", {"mask_ratio": 1}),
        (ValueError, r"mask_ratio .* got 0", {"mask_ratio": 0}),
        (ValueError, r"mask_ratio .* got nan", {"mask_ratio": float("nan")}),
        (TypeError, r"mask_ratio .* got 'half'", {"mask_ratio": "half"}),
        (ValueError, r"num_masks .* >= 1; got 0", {"num_masks": 0}),
        (TypeError, r"num_masks .* got 2.5", {"num_masks": 2.5}),
        (TypeError, r"num_masks .* got True", {"num_masks": True}),
        (ValueError, r"patch_size .* >= 1; got -1", {"patch_size": -1}),
        (ValueError, r"normalize must be one of .*'max_abs'.*; got 'softmax'", {"normalize": "softmax"}),
        (TypeError, r"binarize .* got 'yes'", {"binarize": "yes"}),
        (ValueError, r"binarize .* got inf", {"binarize": float("inf")}),
        (ValueError, r"target must be one of 'label', 'predicted'; got 'guess'", {"target": "guess"}),
        (ValueError, r"seed .* >= 0.*; got -1", {"seed": -1}),
        (TypeError, r"baseline .* got 'black'", {"baseline": "black"}),
        (ValueError, r"chunk_size .* got 0", {"chunk_size": 0}),
        (TypeError, r"unknown setting 'patchsize'; did you mean 'patch_size'\?", {"patchsize": 2}),
        (TypeError, r"unknown setting 'colour'; the settings are masking, mask_ratio", {"colour": 2}),
    ],
)
def test_wrong_settings_name_the_argument(error, says, settings):
    with pytest.raises(error, match=says):
        FillInBlanks(**settings)


@pytest.mark.parametrize(
    ("error", "says", "change"),
    [
        (ValueError, "patch_size must be at most 8", {"settings": {"patch_size": 9}}),
        (ValueError, "patch_size must leave at least 2 patches", {"settings": {"patch_size": 8}}),
        (
            ValueError,
            "baseline must be one number, or one for each of the 1 channels",
            {"settings": {"baseline": [0, 1]}},
        ),
        (ValueError, "low must not be greater than high", {"settings": {"low": 2.0}}),
        (ValueError, r"labels must be from 0 to 9.*got \[10\]", {"labels": torch.tensor([10])}),
        (ValueError, r"labels must be from 0 to 9.*got \[-1\]", {"labels": torch.tensor([-1])}),
        (ValueError, r"labels must have the shape \(1,\)", {"labels": torch.tensor([1, 2])}),
        (TypeError, "labels must be an integer tensor.*float32", {"labels": torch.tensor([1.0])}),
        (ValueError, "labels must be given", {"labels": None}),
        (ValueError, r"images must have the shape \(N, C, H, W\)", {"images": torch.rand(8, 8)}),
        (ValueError, "images must have the shape", {"images": torch.rand(0, 1, 8, 8)}),
        (ValueError, "images must be finite", {"images": torch.full((1, 1, 8, 8), torch.nan)}),
        (TypeError, "images must be a tensor.*ndarray", {"images": np.zeros((1, 1, 8, 8))}),
        (TypeError, r"no logits found.*'features': float32 tensor.*logits_fn", {"model": NoLogits()}),
        (TypeError, "forward.*logits_fn", {"model": nn.Module()}),
        (RuntimeError, "carry no gradient", {"model": Detached(), "labels": torch.tensor([1])}),
        (ValueError, "class_names must hold 10 names", {"class_names": ["a"]}),
    ],
)
def test_wrong_inputs_say_what_was_found(trained, error, says, change):
    arguments = {"images": torch.rand(1, 1, 8, 8), "labels": torch.tensor([1]), "model": trained} | change
    probe = FillInBlanks(num_masks=2, **arguments.pop("settings", {}))
    with pytest.raises(error, match=says):
        probe.probe(**arguments)


def test_settings_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        FillInBlanks().num_masks = 3


def test_results_are_saved_and_loaded_without_loss(trained, probe_images, tmp_path):
    names = [f"digit {i}" for i in range(10)]
    result = FillInBlanks(num_masks=8, baseline=0.1).probe(trained, *probe_images, class_names=names)
    result.save(tmp_path / "probe.npz")
    loaded = FillInBlanksResult.load(tmp_path / "probe.npz")
    for field in dataclasses.fields(result):
        ours, theirs = getattr(result, field.name), getattr(loaded, field.name)
        if isinstance(ours, torch.Tensor):
            assert torch.equal(ours, theirs)
            assert ours.dtype == theirs.dtype
        elif ours is None:
            assert theirs is None
        elif isinstance(ours, bool):
            assert ours is theirs
        elif field.name != "class_names":
            assert dict(ours) == dict(theirs)
    assert list(loaded.class_names) == names
    (tmp_path / "other.npz").write_bytes(b"not a result")
    with pytest.raises(ValueError, match=r"other.npz' is not a saved FillInBlanksResult"):
        FillInBlanksResult.load(tmp_path / "other.npz")
    with pytest.raises(FileNotFoundError):
        FillInBlanksResult.load(tmp_path / "none.npz")


def test_runs_out_of_memory_once_then_takes_smaller_chunks(trained, probe_images):
    """The allocator cannot be made to fail on a CPU, so the error is raised by the model; the rest is real."""

    class Tight(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net, self.failures = net, array("q", [0])  # which a probe does not put back, as it would an integer

        def forward(self, x):
            if torch.is_grad_enabled() and len(x) > 20:
                self.failures[0] += 1
                raise torch.cuda.OutOfMemoryError("out of memory")
            return self.net(x)

    tight = Tight(trained)
    small = FillInBlanks(num_masks=30, chunk_size=200, fill=None).probe(tight, *probe_images)
    whole = FillInBlanks(num_masks=30, chunk_size=200, fill=None).probe(trained, *probe_images)
    assert torch.equal(small.kept, whole.kept)
    assert torch.allclose(small.updates, whole.updates, atol=1e-6)
    assert 0 < tight.failures[0] < 6  # halved a few times, then never again


def test_half_precision_does_not_lose_the_gradients_of_a_confident_model():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    images = torch.rand(2, 1, 8, 8)
    labels = model(images).argmax(1)
    with torch.no_grad():
        model[1].bias[labels.unique()] += 17  # a loss of about 1e-7: in float16, the gradients alone would be zero
    probe = FillInBlanks(num_masks=16)
    exact = probe.probe(model, images, labels).updates
    assert 0 < exact.abs().max() < 6e-8  # the smallest number of float16
    with torch.autocast("cpu", dtype=torch.float16):
        half = probe.probe(model, images, labels).updates
    assert torch.cosine_similarity(exact.flatten(1), half.flatten(1), eps=1e-30).min() > 0.99
