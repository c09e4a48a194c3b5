import pytest
import torch
from torch import nn

from fitb_callbacks import FillInBlanks, FillInBlanksResult
from fitb_callbacks.masks import partition_masks
from fitb_callbacks.thresholds import prototype
from fitb_callbacks.updates import gradient_update


def linear(channels=1, height=8, width=8, classes=4):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, classes))


@pytest.mark.parametrize(
    ("height", "width", "patch_size", "num_steps"),
    [(8, 8, 2, 4), (28, 28, 2, 4), (7, 5, 2, 3), (9, 14, 4, 5), (3, 3, 1, 4), (6, 6, 3, 1)],
)
def test_masks_of_a_partition_are_disjoint_cover_everything_and_differ_by_at_most_a_patch(
    height, width, patch_size, num_steps
):
    visible = partition_masks(
        torch.arange(5), height=height, width=width, patch_size=patch_size, num_steps=num_steps, seed=3
    )
    assert visible.shape == (5, num_steps, height, width)
    assert ((~visible).sum(dim=1) == 1).all()
    patches = (~visible)[:, :, ::patch_size, ::patch_size].sum((2, 3))
    assert patches.max() - patches.min() <= 1


def test_partitions_depend_on_seed_and_index_alone():
    def masks(indices, seed):
        return partition_masks(torch.tensor(indices), height=8, width=8, patch_size=2, num_steps=4, seed=seed)

    assert torch.equal(masks([0, 1, 2], 0)[2], masks([2], 0)[0])
    assert not torch.equal(masks([0], 0), masks([1], 0))
    assert not torch.equal(masks([0], 0), masks([0], 1))


def test_each_fill_conditions_the_next_as_a_plain_loop_does():
    """One image at a time, written from the paper's section 4.2, against the batched probe."""
    model, images = linear(), torch.rand(3, 1, 8, 8)
    labels = model(images).argmax(dim=1)
    probe = FillInBlanks(masking="progressive", num_masks=4, patch_size=2, baseline=0, low=0, high=1)
    result = probe.probe(model, images, labels)
    masks = partition_masks(torch.arange(1), height=8, width=8, patch_size=2, num_steps=4, seed=0)[0]
    zero, one = torch.zeros(1, 1, 1), torch.ones(1, 1, 1)
    for row, label in enumerate(labels):
        current = images[row : row + 1]
        for step, visible in enumerate(masks):
            update, _ = gradient_update(model, current * visible, label[None])
            fill = prototype(update * ~visible, low=zero, high=one, baseline=zero)
            current = torch.where(visible, current, fill)
            torch.testing.assert_close(result.steps[row, step], current[0])


def test_the_last_step_holds_no_original_pixel_and_is_the_prototype_of_a_single_partition():
    model, images = linear(), torch.rand(5, 1, 8, 8) * 0.5 + 0.25
    labels = model(images).argmax(dim=1)
    result = FillInBlanks(masking="progressive", num_masks=4, normalize="rms", binarize=0.1, low=0, high=1).probe(
        model, images, labels
    )
    assert set(result.steps[:, -1].unique().tolist()) == {0.0, 1.0}  # no pixel of the images is either
    assert result.covered.any()
    assert torch.equal(result.prototypes[result.covered], result.steps[result.covered, -1])


def test_several_partitions_share_the_budget_and_the_chunk_size_changes_nothing():
    model, images, labels = linear(), torch.rand(5, 1, 8, 8), torch.arange(5) % 4
    settings = {"masking": "progressive", "num_masks": 30, "num_steps": 4}
    whole = FillInBlanks(**settings, chunk_size=10_000).probe(model, images, labels)
    parts = FillInBlanks(**settings, chunk_size=3).probe(model, images, labels)
    assert whole.kept.max() <= 7
    assert torch.equal(whole.kept, parts.kept)
    torch.testing.assert_close(whole.updates, parts.updates)
    torch.testing.assert_close(whole.steps, parts.steps)


def test_odd_sized_rgb_images_and_steps_that_do_not_divide_the_patches():
    model, images = linear(3, 7, 11), torch.rand(4, 3, 7, 11)
    result = FillInBlanks(masking="progressive", patch_size=2, num_steps=5, num_masks=10).probe(
        model, images, torch.arange(4)
    )
    assert result.steps.shape == (4, 5, 3, 7, 11)
    assert result.prototypes.isfinite().all()


def test_a_model_that_predicts_one_class_covers_one_class():
    class Constant(nn.Module):
        def forward(self, images):
            return images.flatten(1)[:, :1] * 1e-6 + torch.tensor([0.0, 0.0, 9.0, 0.0])

    result = FillInBlanks(masking="progressive", num_masks=8).probe(
        Constant(), torch.rand(8, 1, 8, 8), torch.arange(8) % 4
    )
    assert result.coverage == 0.25
    assert result.predictions[result.labels != 2].tolist() == [-1] * 6
    assert result.metrics["coverage"] == 0.25


def test_labels_can_be_the_models_own():
    model, images = linear(), torch.rand(5, 1, 8, 8)
    result = FillInBlanks(masking="progressive", num_masks=8, target="predicted").probe(model, images)
    assert torch.equal(result.labels, model(images).argmax(dim=1))


def test_steps_are_saved_and_random_masks_have_none(tmp_path):
    model, images, labels = linear(), torch.rand(2, 1, 8, 8), torch.tensor([0, 1])
    for masking in ("random", "progressive"):
        result = FillInBlanks(masking=masking, num_masks=8).probe(model, images, labels)
        result.save(tmp_path / masking)
        again = FillInBlanksResult.load(tmp_path / masking)
        if masking == "random":
            assert result.steps is again.steps is None
        else:
            assert torch.equal(result.steps, again.steps)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"masking": "both"}, "masking must be one of 'random', 'progressive'; got 'both'"),
        ({"num_steps": 0}, "num_steps must be an integer >= 1; got 0"),
        ({"update": "newton"}, "update must be one of 'gradient', 'bfgs'; got 'newton'"),
        ({"bfgs_steps": 0}, "bfgs_steps must be an integer >= 1; got 0"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        FillInBlanks(**settings)


def test_more_steps_than_patches_are_refused():
    with pytest.raises(ValueError, match=r"num_steps must be at most 16.*got 17"):
        FillInBlanks(masking="progressive", patch_size=2, num_steps=17).probe(
            linear(), torch.rand(1, 1, 8, 8), torch.tensor([0])
        )
