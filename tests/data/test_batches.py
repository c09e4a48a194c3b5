"""Reading batches, and choosing probe images from them."""

import pytest
import torch

from fitb_callbacks.data.batches import read_batch
from fitb_callbacks.data.selection import ImageSelection

IMAGES, LABELS = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 1])


@pytest.mark.parametrize(
    "batch",
    [
        (IMAGES, LABELS),
        [IMAGES, LABELS],
        (LABELS, IMAGES),
        (IMAGES, LABELS.unsqueeze(1)),
        (IMAGES, LABELS.float()),
        (IMAGES, {"name": "not a tensor"}, LABELS),
        {"image": IMAGES, "label": LABELS},
        {"pixel_values": IMAGES, "attention": torch.zeros(4, 7), "labels": LABELS},
        {"id": torch.tensor([9, 8, 7, 6]), "x": IMAGES, "y": LABELS},
        {"scan": IMAGES, "diagnosis": LABELS},
    ],
)
def test_finds_images_and_labels(batch):
    images, labels = read_batch(batch)
    assert torch.equal(images, IMAGES)
    assert torch.equal(labels, LABELS)
    assert labels.dtype == torch.int64


@pytest.mark.parametrize(
    ("batch", "says"),
    [
        (IMAGES, "images.*float32 tensor"),
        ((IMAGES.flatten(1), LABELS), r"images.*a tuple of \(float32 tensor \(4, 192\), int64 tensor \(4,\)\)"),
        ((IMAGES, torch.rand(4)), "labels"),
        ((IMAGES, torch.rand(4, 10)), "labels"),
        ({"image": IMAGES, "mask": IMAGES}, "labels.*'image': float32 tensor"),
        ("a string", "str"),
    ],
)
def test_says_what_it_found_and_names_batch_adapter(batch, says):
    with pytest.raises(TypeError, match=f"(?s){says}.*batch_adapter"):
        read_batch(batch)


def test_batch_adapter():
    images, _ = read_batch({"views": [IMAGES], "meta": LABELS}, lambda batch: (batch["views"][0], batch["meta"]))
    assert torch.equal(images, IMAGES)
    with pytest.raises(TypeError, match="batch_adapter must return"):
        read_batch(IMAGES, lambda batch: batch)
    with pytest.raises(TypeError, match="what batch_adapter returned"):
        read_batch(IMAGES, lambda batch: (batch[0], LABELS))


def numbered(labels):
    """Images that carry their own position, so that it can be seen which were taken."""
    return torch.arange(len(labels)).float().view(-1, 1, 1, 1).expand(-1, 1, 2, 2), torch.tensor(labels)


def taken(labels, **limits):
    chosen = ImageSelection(**{"per_class": 2, "max_images": 100} | limits)
    images, labels = numbered(labels)
    for start in range(0, len(labels), 3):
        chosen.offer(images[start : start + 3], labels[start : start + 3])
    return chosen.images[:, 0, 0, 0].int().tolist(), chosen.labels.tolist()


def test_takes_the_first_of_each_class():
    assert taken([1, 1, 1, 0, 2, 0, 0, 2]) == ([3, 5, 0, 1, 4, 7], [0, 0, 1, 1, 2, 2])


def test_every_class_comes_before_any_second_image():
    assert taken([0, 0, 1, 1, 2, 2], max_images=4) == ([0, 1, 2, 4], [0, 0, 1, 2])
    assert taken([5, 5, 5, 3, 1], per_class=3, max_images=3) == ([4, 3, 0], [1, 3, 5])


def test_many_classes_hold_no_more_than_allowed():
    assert taken(list(range(1000)), max_images=7)[1] == list(range(7))


def test_other_sizes_are_passed_over():
    chosen = ImageSelection(per_class=2, max_images=9)
    chosen.offer(torch.zeros(1, 1, 4, 4), torch.tensor([0]))
    chosen.offer(torch.zeros(1, 1, 5, 4), torch.tensor([1]))
    assert chosen.labels.tolist() == [0]


def test_ranks_together_take_what_one_process_would():
    labels = torch.randint(0, 5, (40,), generator=torch.Generator().manual_seed(0)).tolist()
    images, numbers = numbered(labels)
    parts = [ImageSelection(per_class=3, max_images=100) for _ in range(2)]
    for rank, part in enumerate(parts):
        part.offer(images[rank::2], numbers[rank::2])
    merged = parts[0].merged(parts)
    assert (merged.images[:, 0, 0, 0].int().tolist(), merged.labels.tolist()) == taken(labels, per_class=3)
