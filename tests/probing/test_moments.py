"""Streaming moments, against NumPy over all values at once."""

import torch

from fitb_callbacks.probing.moments import Moments


def test_chunks_of_any_size_give_the_moments_of_all_kept_values():
    generator = torch.Generator().manual_seed(0)
    values = 1000 + torch.randn(60, 3, 1, 4, 4, generator=generator)  # a mean that is large against the spread
    keep = torch.rand(60, 3, generator=generator) < 0.4
    keep[:, 2] = False
    values[~keep] = torch.nan  # what is not kept may hold anything
    for chunk in (1, 7, 60):
        moments = Moments.zeros((3, 1, 4, 4))
        for start in range(0, 60, chunk):
            moments.add(values[start : start + chunk].clone(), keep[start : start + chunk])
        assert moments.count.tolist() == keep.sum(0).tolist()
        for row in range(2):
            kept = values[keep[:, row], row].double()
            assert torch.allclose(moments.mean[row].double(), kept.mean(0), rtol=1e-6)
            assert torch.allclose(moments.variance()[row].double(), kept.var(0), rtol=1e-2)
        assert (moments.mean[2] == 0).all()
        assert (moments.variance()[2] == 0).all()


def test_merging_is_the_same_as_adding():
    values, keep = torch.randn(20, 2, 1, 3, 3), torch.rand(20, 2) < 0.7
    whole, first, second = (Moments.zeros((2, 1, 3, 3)) for _ in range(3))
    whole.add(values.clone(), keep)
    first.add(values[:5].clone(), keep[:5])
    second.add(values[5:].clone(), keep[5:])
    first.merge(second)
    assert torch.allclose(first.mean, whole.mean, atol=1e-6)
    assert torch.allclose(first.variance(), whole.variance(), atol=1e-5)
    assert torch.equal(first.count, whole.count)
