"""Intervals against SciPy's, and against how often they hold the truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from longtail.evaluation.intervals import mean_interval, wilson


@pytest.mark.parametrize(("hits", "images"), [(0, 3), (3, 3), (1, 3), (7, 10), (0, 1), (99, 100), (6_000, 8_000)])
def test_wilson_agrees_with_scipy(hits, images):
    low, high = wilson(np.array([hits]), np.array([images]))
    expected = binomtest(hits, images).proportion_ci(method="wilson")
    assert (low[0], high[0]) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert low[0] <= hits / images <= high[0]


def test_without_images_nothing_is_known():
    low, high = wilson(np.array([0, 2]), np.array([0, 2]))
    assert (low[0], high[0]) == (0, 1)
    assert mean_interval(np.array([0]), np.array([0])) is None


def test_the_interval_of_one_class_is_its_own():
    low, high = wilson(np.array([4]), np.array([9]))
    assert mean_interval(np.array([0, 4]), np.array([0, 9])) == pytest.approx((low[0], high[0]))


@pytest.mark.parametrize("images", [3, 10, 50])
def test_the_interval_of_a_mean_holds_the_truth_19_times_in_20(images):
    draw = np.random.default_rng(0)
    truth = draw.uniform(0.1, 1, 20)
    held = []
    for _ in range(1000):
        hits = draw.binomial(images, truth)
        low, high = mean_interval(hits, np.full(20, images))
        held.append(low <= truth.mean() <= high)
    assert 0.92 < np.mean(held) < 0.99
