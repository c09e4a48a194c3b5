"""Scans and videos: volumes (B, C, D, H, W) are probed, and three slices are their picture."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset
from with_and_without import CLASSES, Base, compared_with_and_without

from fitb_callbacks import FillInBlanks
from fitb_callbacks.scoring.judges.base import label_ranks
from fitb_callbacks.scoring.judges.module import ModuleJudge

DEPTH = 6


def bars_in_depth(number=24):
    """A bright plane at the height of the class, brightest in the middle slice; a different level in each slice."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(number) % CLASSES
    volumes = 0.3 * torch.rand(number, 1, DEPTH, 8, 8, generator=generator)
    volumes += torch.linspace(0, 0.2, DEPTH)[:, None, None]
    for volume, label in zip(volumes, labels, strict=True):
        volume[:, :, 3 * int(label)] += 0.6
    return volumes, labels


VOLUMES, LABELS = bars_in_depth()


class Scans(Base):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool3d((1, 8, 1)), nn.Flatten()
        )
        self.head = nn.Linear(32, CLASSES)

    def forward(self, volumes):
        return self.head(self.net(volumes))


class Video(Base):
    """Frames first, as (batch, frames, channels, height, width): a network for images, and the mean over frames."""

    def forward(self, clips):
        frames = self.net(clips.flatten(0, 1))
        return frames.unflatten(0, clips.shape[:2]).mean(dim=1)


class ScansInStep(Scans):
    def loss(self, batch):
        return F.cross_entropy(self((batch[0] - 0.5) / 0.5), batch[1])


@pytest.mark.parametrize(
    ("module_class", "volumes"),
    [(Scans, VOLUMES), (ScansInStep, VOLUMES), (Video, VOLUMES.transpose(1, 2).contiguous())],
    ids=["scans", "normalised in the step", "video"],
)
def test_volumes_are_probed_and_training_is_untouched(module_class, volumes):
    probe, said, _ = compared_with_and_without(
        module_class, TensorDataset(volumes, LABELS), options={"max_epochs": 8}, every_n_epochs=8
    )
    assert said == []
    assert [entry["epoch"] for entry in probe.history] == [0, 7]
    result = probe.result
    assert result.depth == DEPTH
    assert result.images.shape[1:] == (DEPTH, 8, 8)
    prepared = (VOLUMES - 0.5) / 0.5 if module_class is ScansInStep else VOLUMES
    known = {volume.numpy().tobytes() for volume in prepared}
    assert all(image.numpy().tobytes() in known for image in result.images)
    assert set(result.metrics) >= {"structure", "carryover_accuracy", "judge_accuracy"}


def test_a_module_judges_volumes():
    torch.manual_seed(3)
    judge = nn.Sequential(nn.Conv3d(1, 2, 1), nn.AdaptiveAvgPool3d((1, 8, 1)), nn.Flatten(), nn.Linear(16, CLASSES))
    optimizer = torch.optim.Adam(judge.parameters(), lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(judge(VOLUMES), LABELS).backward()
        optimizer.step()
    probe, said, _ = compared_with_and_without(Scans, TensorDataset(VOLUMES, LABELS), judge=judge)
    assert said == []
    assert probe.result.metrics["judge_ceiling"] == 1
    model = nn.Sequential(nn.AdaptiveAvgPool3d((1, 3, 1)), nn.Flatten())
    result = FillInBlanks(num_masks=64).probe(model, VOLUMES, LABELS, judge=ModuleJudge(judge))
    filled = result.filled.unflatten(1, (1, DEPTH))
    with torch.no_grad():
        expected = label_ranks(judge(filled), LABELS)
    assert torch.equal(result.judge_ranks, expected)
    other = ModuleJudge(nn.Sequential(nn.AdaptiveAvgPool3d((1, 4, 1)), nn.Flatten()))
    with pytest.raises(ValueError, match="judge must have 3 classes"):
        FillInBlanks(num_masks=8).probe(model, VOLUMES, LABELS, judge=other)


def test_three_central_slices_are_the_picture():
    model = nn.Sequential(nn.AdaptiveAvgPool3d((1, 3, 1)), nn.Flatten())  # top, middle or bottom third is bright
    result = FillInBlanks(num_masks=64).probe(model, VOLUMES, LABELS)
    cell = result.cells()[0]
    volume = result.images[0].view(1, DEPTH, 8, 8)
    assert torch.equal(cell.image[..., :8], volume[:, DEPTH // 2])  # across the depth, at full size
    assert torch.equal(cell.image[:, 0, 8:16], volume[:, 0, 4])  # across the height, the depth downwards
    assert torch.equal(cell.image[:, -1, 16:], volume[:, -1, :, 4])  # across the width
    for part in (cell.update, cell.filled, cell.prototype, cell.masked):
        assert part.shape == (1, 8, 24)
    assert (~cell.visible[0, :, :8]).sum() == 16  # a quarter of the pixels, in every slice
    picture = np.asarray(result.figure())
    assert picture.shape[1] == 900
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 100


def test_a_mask_hides_columns_and_scores_are_those_of_the_volumes():
    """The probe sees the model's own answers to volumes: a model that only takes five dimensions works."""
    model = nn.Sequential(nn.AdaptiveAvgPool3d((1, 3, 1)), nn.Flatten())
    result = FillInBlanks(num_masks=64).probe(model, VOLUMES, LABELS)
    with torch.no_grad():
        right = (model(VOLUMES).argmax(dim=1) == LABELS).float().mean().item()
    assert result.metrics["image_accuracy"] == pytest.approx(right)
    rows = result.updates.mean(dim=(1, 3))
    third = torch.stack([part.mean(dim=1) for part in rows.split((3, 2, 3), dim=1)], dim=1)
    assert (third.argmax(dim=1) == LABELS)[result.covered].all()
