"""Images that the model knows, but under none of the usual masks, get gentler ones."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fitb_callbacks import FillInBlanks, FillInBlanksResult

WHITE = torch.ones(2, 1, 16, 16)
SETTINGS = {"num_masks": 32, "baseline": 0.0, "low": 0.0, "high": 1.0, "fill": None, "chunk_size": 64}


class Fussy(nn.Module):
    """Says "0" of an image that is bright enough: more than so much of a white one must be left."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, images: Tensor) -> Tensor:
        bright = 50 * (images.mean(dim=(1, 2, 3)) - self.share)
        return torch.stack((bright, -bright), dim=1)


def probe_of(share: float, labels: tuple[int, int] = (0, 0), **settings: object) -> FillInBlanksResult:
    return FillInBlanks(**SETTINGS | settings).probe(Fussy(share), WHITE, torch.tensor(labels))


@pytest.mark.parametrize(("share", "ratio"), [(0.7, 0.25), (0.8, 0.125), (0.9, 0.0625), (0.95, 0.03125)])
def test_masks_hide_as_much_as_the_model_bears(share, ratio):
    result = probe_of(share)
    assert result.mask_ratios.tolist() == [ratio, ratio]
    assert result.gentler.tolist() == [ratio < 0.25] * 2
    assert result.coverage == 1
    assert (result.updates > 0).float().mean() > 0.7
    assert (result.kept > 0).all()


def test_every_mask_is_counted():
    assert probe_of(0.7).tried.tolist() == [32, 32]
    assert probe_of(0.9).tried.tolist() == [96, 96]


def test_one_that_bears_nothing_has_no_prototype():
    result = probe_of(0.99)
    assert result.coverage == 0
    assert result.mask_ratios.tolist() == [0.25, 0.25]


def test_images_that_the_model_gets_wrong_are_left_alone():
    result = probe_of(1.01, labels=(0, 1))
    assert result.kept.tolist() == [0, 32]
    assert result.tried.tolist() == [32, 32]


def test_only_the_images_without_a_mask_change():
    images = torch.stack((torch.ones(1, 16, 16), torch.full((1, 16, 16), 0.9)))
    labels = torch.tensor([0, 0])
    model = Fussy(0.7)  # three quarters of 1 are enough, of 0.9 not
    gentle, usual = (
        FillInBlanks(**SETTINGS, gentler=gentler).probe(model, images, labels) for gentler in (True, False)
    )
    assert usual.kept.tolist() == [32, 0]
    assert gentle.kept.tolist() == [32, 32]
    assert torch.equal(gentle.updates[0], usual.updates[0])
    assert torch.equal(gentle.reliance, usual.reliance)
    assert gentle.mask_ratios.tolist() == [0.25, 0.125]


def test_the_paper_and_progressive_masks_have_none():
    paper = FillInBlanks.paper(num_masks=8, low=0.0)
    assert paper.probe(Fussy(0.9), WHITE, torch.tensor([0, 0])).coverage == 0
    assert probe_of(0.9, masking="progressive").mask_ratios is None


def test_the_result_keeps_it_and_its_picture_says_so(tmp_path):
    from fitb_callbacks.plotting.prototypes import legend_of

    probe_of(0.9).save(tmp_path / "probe.npz")
    result = FillInBlanksResult.load(tmp_path / "probe.npz")
    assert result.gentler.all()
    assert "hide less than usual for 0." in legend_of(result.cells(), 1)
    assert "less than usual" not in legend_of(probe_of(0.7).cells(), 1)
