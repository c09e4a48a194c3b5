"""Intervals of rates."""

import math

import numpy as np

from fitb_callbacks.scoring.intervals import wilson_interval


def test_interval_covers_the_true_rate_about_as_often_as_it_says():
    generator = np.random.default_rng(0)
    for true, number in ((0.5, 20), (0.9, 40), (0.98, 100)):
        drawn = generator.binomial(number, true, 2000) / number
        covered = [low <= true <= high for low, high in (wilson_interval(rate, number) for rate in drawn)]
        assert 0.91 < np.mean(covered) < 0.99
    assert all(math.isnan(end) for end in wilson_interval(0.5, 0))
