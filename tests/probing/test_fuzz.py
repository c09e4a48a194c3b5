"""Any settings on any shape: a valid result, or an error of ours that names the argument."""

import math
import re

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import nn

from fitb_callbacks import FillInBlanks, FillInBlanksCallback

settings.register_profile("fitb", deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
settings.load_profile("fitb")

PROBE_ARGUMENTS = list(FillInBlanks.__dataclass_fields__)
CALLBACK_ARGUMENTS = ["images_per_class", "max_images", "batch_adapter", "logits_fn", "class_names", "prefix"]
CALLBACK_ARGUMENTS += ["on_error", "audit", "judge", "reference"]

anything = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 40),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.floats(-2, 2), max_size=4),
    st.just(()),
    st.just(object),
    st.just(torch.tensor(0.5)),
    st.just(float("nan")),
)
sensible = {
    "masking": st.sampled_from(["random", "progressive"]),
    "num_steps": st.integers(1, 5),
    "update": st.sampled_from(["gradient", "bfgs"]),
    "mask_ratio": st.floats(0.01, 0.99),
    "patch_size": st.none() | st.integers(1, 9),
    "num_masks": st.integers(1, 9),
    "normalize": st.sampled_from(["max_abs", "min_max", "z_score", None]),
    "binarize": st.none() | st.floats(-1, 1),
    "baseline": st.none() | st.floats(-1, 1) | st.lists(st.floats(-1, 1), min_size=1, max_size=4),
    "low": st.none() | st.floats(-1, 1) | st.lists(st.floats(-1, 1), min_size=1, max_size=4),
    "high": st.none() | st.floats(-1, 1) | st.lists(st.floats(-1, 1), min_size=1, max_size=4),
    "target": st.sampled_from(["label", "predicted"]),
    "seed": st.integers(0, 2**32 - 1),
    "chunk_size": st.none() | st.integers(1, 7),
}


def assert_ours(error, arguments):
    """The message begins with what the error is about: an argument, one of its values, or what was given to probe."""
    assert type(error) in (ValueError, TypeError), repr(error)
    about = re.match(r"(?:every value in )?(\w+)", str(error))
    assert about is not None, str(error)
    assert about[1] in arguments, str(error)


class Linear(nn.Module):
    def __init__(self, values, classes, dtype):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(values, classes, dtype=dtype)

    def forward(self, images):
        return self.layer(images.flatten(1))


@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 12), st.integers(1, 12)),
    classes=st.integers(1, 5),
    kind=st.sampled_from([torch.float32, torch.float64, torch.uint8, torch.bool]),
    offset=st.integers(-1, 1),
    options=st.fixed_dictionaries({}, optional=sensible),
)
@example(shape=(1, 1, 1, 1), classes=2, kind=torch.float32, offset=0, options={})
@example(shape=(1, 1, 1, 2), classes=2, kind=torch.uint8, offset=0, options={"mask_ratio": 0.99, "num_masks": 1})
@settings(max_examples=200)
@pytest.mark.slow
def test_a_probe_gives_a_valid_result_or_an_error_of_ours(shape, classes, kind, offset, options):
    generator = torch.Generator().manual_seed(1)
    images = (torch.rand(shape, generator=generator) * 4).to(kind)
    labels = torch.arange(shape[0]) % classes + offset
    model = Linear(math.prod(shape[1:]), classes, torch.float64 if kind == torch.float64 else torch.float32)
    try:
        result = FillInBlanks(**{"num_masks": 4} | options).probe(model, images, labels)
    except (ValueError, TypeError) as error:
        assert_ours(error, [*PROBE_ARGUMENTS, "labels", "images"])
        return
    num_masks = options.get("num_masks", 4)
    assert result.prototypes.shape == result.updates.shape == result.images.shape == shape
    assert result.prototypes.isfinite().all()
    assert result.updates.isfinite().all()
    low, high = (torch.tensor(result.settings[name], dtype=result.prototypes.dtype) for name in ("low", "high"))
    baseline = torch.tensor(result.settings["baseline"], dtype=result.prototypes.dtype)
    inside = (result.prototypes >= low[:, None, None]) & (result.prototypes <= high[:, None, None])
    assert (inside | (result.prototypes == baseline[:, None, None])).all()
    assert ((result.kept >= 0) & (result.kept <= num_masks)).all()
    assert ((result.predictions == -1) == (result.kept == 0)).all()
    assert (result.predictions < max(classes, 2)).all()
    for name in ("accuracy", "f1_macro", "f1_weighted", "coverage"):
        value = result.metrics[name]
        assert 0 <= value <= 1 or (math.isnan(value) and result.coverage == 0)


@given(name=st.sampled_from(PROBE_ARGUMENTS), value=anything)
@settings(max_examples=400)
@pytest.mark.slow
def test_any_value_of_a_setting_is_taken_or_refused_by_name(name, value):
    model, images = Linear(64, 3, torch.float32), torch.rand(3, 1, 8, 8)
    try:
        probe = FillInBlanks(**{"num_masks": 2} | {name: value})
        if probe.num_masks > 100:
            return  # valid, and for ever
        probe.probe(model, images, torch.arange(3))
    except (ValueError, TypeError) as error:
        assert_ours(error, PROBE_ARGUMENTS)


@pytest.mark.slow
@given(name=st.sampled_from(CALLBACK_ARGUMENTS + PROBE_ARGUMENTS), value=anything)
@settings(max_examples=400)
def test_any_argument_of_the_callback_is_taken_or_refused_by_name(name, value):
    try:
        FillInBlanksCallback(**{name: value})
    except (ValueError, TypeError) as error:
        assert_ours(error, CALLBACK_ARGUMENTS + PROBE_ARGUMENTS)


@given(images=anything, labels=anything)
@settings(max_examples=200)
def test_anything_in_place_of_images_and_labels(images, labels):
    model = Linear(64, 3, torch.float32)
    for given_images, given_labels in ((images, torch.arange(3)), (torch.rand(3, 1, 8, 8), labels)):
        try:
            FillInBlanks(num_masks=1).probe(model, given_images, given_labels)
        except (ValueError, TypeError) as error:
            assert_ours(error, ["images", "labels"])
