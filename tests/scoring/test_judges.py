"""Judges: what they see, what they refuse, and that they leave everything as it was."""

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fitb_callbacks import FillInBlanks
from fitb_callbacks.scoring.judges.centroid import CentroidJudge
from fitb_callbacks.scoring.judges.module import ModuleJudge
from judge_process import gather, seen, some


@pytest.mark.parametrize("batch_size", [1, 7, 40])
def test_means_do_not_depend_on_the_batches(batch_size):
    images, labels = some(shape=(3, 8, 6))
    judge = seen(images, labels, batch_size)
    for label in range(4):
        torch.testing.assert_close(judge.means[label], images[labels == label].mean(0))


def test_memory_depends_neither_on_the_number_nor_on_the_size_of_the_images():
    sizes = {seen(*some(number, shape=(3, side, side))).means.numel() for number in (8, 80) for side in (32, 96)}
    assert sizes == {4 * 3 * 8 * 8}


def test_merging_is_seeing_both_even_if_one_has_seen_nothing_or_fewer_classes():
    images, labels = some()
    few, whole = labels < 2, seen(images, labels)
    for first, second in (
        (seen(images[few], labels[few]), seen(images[~few], labels[~few])),
        (seen(images[~few], labels[~few]), seen(images[few], labels[few])),
        (CentroidJudge(), whole),
    ):
        first.merge(second)
        torch.testing.assert_close(first.means, whole.means)
        assert torch.equal(first.counts, whole.counts)


def test_likeness_ignores_brightness_and_contrast_and_is_that_of_pearson():
    images, labels = some(classes=4)
    judge = seen(images, labels)
    pictures, _ = some(seed=1)
    expected = [
        int(np.argmax([np.corrcoef(picture.flatten(), mean.flatten())[0, 1] for mean in judge.means.numpy()]))
        for picture in nn.functional.adaptive_avg_pool2d(pictures, judge.means.shape[-2:]).numpy()
    ]
    assert judge.classify(pictures).tolist() == expected
    assert judge.classify(0.2 * pictures - 5).tolist() == expected


def test_a_class_that_was_not_seen_is_never_answered_and_a_flat_picture_is_no_class():
    images, labels = some()
    judge = seen(images[labels != 0], labels[labels != 0])
    assert judge.absent_classes(6) == [0, 4, 5]
    assert 0 not in judge.classify(some(200, seed=2)[0]).tolist()
    assert judge.classify(torch.full((1, 3, 12, 10), 0.7)).tolist() == [-1]


def test_state_survives_a_checkpoint(tmp_path):
    judge = seen(*some())
    torch.save(judge.state_dict(), tmp_path / "state.pt")
    again = CentroidJudge()
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(again.classify(some(seed=3)[0]), judge.classify(some(seed=3)[0]))
    again.update(*some(seed=4))
    assert judge.counts.sum() == 40  # the copy goes its own way


def test_updates_work_with_images_of_inference_mode():
    judge = CentroidJudge()
    with torch.inference_mode():
        judge.update(*some())
    judge.update(*some(seed=1))
    assert judge.counts.tolist() == [20] * 4


@pytest.mark.parametrize(
    ("images", "labels", "error", "message"),
    [
        (torch.rand(2, 3, 4, 4), torch.tensor([0.0, 1.0]), TypeError, "labels must be an integer tensor"),
        (torch.rand(2, 3, 4, 4), torch.tensor([0, -1]), ValueError, "labels must be integers >= 0; got -1"),
        (torch.rand(2, 3, 4, 4), torch.tensor([0]), ValueError, "must have the shapes"),
        (torch.rand(2, 1, 4, 4), torch.tensor([0, 1]), ValueError, "images must have 3 channels as before; got 1"),
    ],
)
def test_batches_that_make_no_sense_are_refused(images, labels, error, message):
    judge = seen(*some())
    with pytest.raises(error, match=message):
        judge.update(images, labels)


def test_a_judge_that_has_seen_nothing_says_so():
    with pytest.raises(RuntimeError, match="has seen no images yet"):
        CentroidJudge().classify(torch.rand(1, 1, 4, 4))


def test_a_reference_can_be_tensors_a_data_set_or_a_loader():
    images, labels = some()
    data = TensorDataset(images, labels)
    for reference in ((images, labels), data, DataLoader(data, batch_size=9, shuffle=True), [(images, labels)]):
        judge = CentroidJudge.from_reference(reference, image_shape=(3, 12, 10), num_classes=4)
        torch.testing.assert_close(judge.means, seen(images, labels).means)


def test_a_few_images_of_each_class_are_kept_of_a_reference():
    images, labels = torch.rand(400, 1, 4, 4), torch.arange(400) % 3
    judge = CentroidJudge.from_reference((images, labels), image_shape=(1, 4, 4), num_classes=3)
    kept, answers = judge.reference
    assert answers.bincount().tolist() == [33, 33, 33]
    assert all((image == images).all(dim=(1, 2, 3)).any() for image in kept)
    many = CentroidJudge.from_reference((images, torch.arange(400)), image_shape=(1, 4, 4), num_classes=400)
    assert len(many.reference[1]) == 100
    assert CentroidJudge().reference is None


def test_every_process_keeps_the_same_images_of_a_loader_that_shuffles():
    images, labels = torch.rand(400, 1, 4, 4), torch.arange(400) % 3
    loader, kept = DataLoader(TensorDataset(images, labels), batch_size=9, shuffle=True), []
    for seed in (0, 1):  # as of two processes
        torch.manual_seed(seed)
        judge = CentroidJudge.from_reference(loader, image_shape=(1, 4, 4), num_classes=3)
        kept.append(judge.reference[0])
    assert torch.equal(*kept)


def test_reading_a_reference_draws_no_random_number():
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    expected = random.random(), np.random.rand(), torch.rand(1).item()
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    loader = DataLoader(TensorDataset(*some()), batch_size=9, shuffle=True)
    CentroidJudge.from_reference(loader, image_shape=(3, 12, 10), num_classes=4)
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected


class Judge(nn.Module):
    def __init__(self, classes=4):
        super().__init__()
        self.layers = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Dropout(0.5), nn.Linear(360, classes))

    def forward(self, images):
        return {"logits": self.layers(images)}


def test_a_module_judges_in_evaluation_mode_and_is_left_as_it_was():
    module = Judge().train()
    module.layers[0].weight.requires_grad_(False)
    module.layers[3].weight.grad = torch.ones_like(module.layers[3].weight)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    images, labels = some()
    judge = ModuleJudge(module)
    answers = judge.classify(images)
    FillInBlanks(num_masks=4).probe(Judge(), images, labels, judge=judge)
    assert module.training
    assert module.layers[2].training
    assert not module.layers[0].weight.requires_grad
    assert module.layers[3].weight.requires_grad
    assert torch.equal(module.layers[3].weight.grad, torch.ones_like(module.layers[3].weight))
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert torch.equal(answers, module.eval()(images)["logits"].argmax(1))


def test_a_module_of_another_precision_is_not_cast():
    module = Judge().double()
    assert len(ModuleJudge(module).classify(some()[0])) == 40
    assert next(module.parameters()).dtype == torch.float64


def test_judges_for_other_images_or_classes_are_refused_before_the_probe_starts():
    images, labels = some()
    calls = []

    class Counting(Judge):  # a probe switches hooks off, so that they would count nothing
        def forward(self, images):
            calls.append(len(images))
            return super().forward(images)

    model = Counting()
    for judge, message in (
        (ModuleJudge(Judge(classes=9)), "judge must have 4 classes, as the model; got 9"),
        (ModuleJudge(nn.Conv2d(1, 4, 3)), r"judge must take images of the shape \(3, 12, 10\); it fails"),
        (seen(*some(shape=(1, 12, 10))), "judge must have images of 3 channels; got 1"),
        (seen(*some(classes=5)), "judge must have labels from 0 to 3, as the model has 4 classes; got 4"),
    ):
        calls.clear()
        with pytest.raises(ValueError, match=message):
            FillInBlanks(num_masks=64, chunk_size=1).probe(model, images[:2], labels[:2], judge=judge)
        assert sum(calls) == 2  # the logits of the two images themselves, and no masked one
    with pytest.raises(TypeError, match=r"module must be a torch\.nn\.Module; got str"):
        ModuleJudge("champion")


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
def test_all_processes_gather_the_same_judge(tmp_path):
    torch.multiprocessing.spawn(gather, (2, str(tmp_path)), nprocs=2)
    expected = seen(*some())
    for rank in range(2):
        state = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(state["means"], expected.means)
        assert torch.equal(state["counts"], expected.counts)
