"""The mean over masks: what goes through the model together, what is averaged together."""

import pytest
import torch
from torch import nn

from fitb_callbacks import FillInBlanks
from fitb_callbacks.probing.moments import Moments


def convolutions(channels=1):
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(channels, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)),
        *(nn.Flatten(), nn.Linear(8 * 12 * 12, 3)),
    ).eval()


def test_small_chunks_are_averaged_together_but_go_through_the_model_on_their_own(monkeypatch):
    model, images, labels = convolutions(), torch.rand(5, 1, 12, 12), torch.arange(5) % 3
    sizes, added, add = [], [], Moments.add

    def logits(model, images):  # not a hook: a probe puts hooks out of action
        sizes.append(len(images))
        return model(images)

    def noted(self, values, *arguments, **options):
        added.append(values.shape[0] * values.shape[1])
        return add(self, values, *arguments, **options)

    monkeypatch.setattr(Moments, "add", noted)
    FillInBlanks(num_masks=64, tolerance=None, chunk_size=20).probe(model, images, labels, logits_fn=logits)
    assert max(sizes) == 20
    assert max(added) > 100


@pytest.mark.parametrize("masking", ["random", pytest.param("progressive", marks=pytest.mark.slow)])
def test_the_loop_over_masks_never_waits_for_the_device(masking):
    """No value is read back from the device for a mask or a chunk: as many reads for 16 masks as for 160."""

    def reads(num_masks):
        probe = FillInBlanks(masking=masking, num_masks=num_masks, tolerance=None, chunk_size=8)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as operations:
            probe.probe(convolutions(), torch.rand(3, 1, 12, 12), torch.arange(3))
        reading = {"aten::_local_scalar_dense", "aten::nonzero", "aten::equal"}
        return sum(operation.count for operation in operations.key_averages() if operation.key in reading)

    assert reads(16) == reads(160) > 0
