"""The paired bootstrap against one that draws image after image, and against SciPy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import bootstrap, ttest_1samp

from longtail.evaluation.differences import holm, paired_bootstrap, seed_interval


@pytest.fixture(scope="module")
def images():
    """Differences of two classifiers over three seeds on 300 images of 6 unequal classes."""
    draw = np.random.default_rng(0)
    classes = draw.choice(6, 300, p=(0.4, 0.25, 0.15, 0.1, 0.06, 0.04))
    return np.round(draw.integers(-3, 5, 300).clip(-3, 3) / 3, 9), classes


def drawn_one_by_one(differences, strata, draws):
    draw = np.random.default_rng(1)
    members = [np.flatnonzero(strata == s) for s in np.unique(strata)]
    return np.array([np.mean([differences[draw.choice(m, len(m))].mean() for m in members]) for _ in range(draws)])


def test_agrees_with_drawing_images_one_by_one(images):
    differences, classes = images
    found = paired_bootstrap(differences, classes)
    means = drawn_one_by_one(differences, classes, 4000)
    assert found.mean == pytest.approx(np.mean([differences[classes == c].mean() for c in range(6)]))
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(means, (0.025, 0.975))), abs=0.012)
    centred = paired_bootstrap(differences - np.round(found.mean * 3) / 3, classes)
    shifted = means - np.round(found.mean * 3) / 3
    assert centred.p == pytest.approx(2 * min((shifted <= 0).mean(), (shifted >= 0).mean()), abs=0.05)


def test_one_stratum_agrees_with_scipy(images):
    differences, _ = images
    found = paired_bootstrap(differences, np.zeros(300, int))
    expected = bootstrap((differences,), np.mean, n_resamples=4000, method="percentile", rng=0).confidence_interval
    assert found.mean == pytest.approx(differences.mean())
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.01)


def test_many_alike_strata_are_drawn_as_if_each_alone():
    draw = np.random.default_rng(2)
    classes = np.repeat(np.arange(400), 3)
    differences = draw.choice((-1.0, 0.0, 1.0), 1200, p=(0.2, 0.5, 0.3))
    found, means = paired_bootstrap(differences, classes), drawn_one_by_one(differences, classes, 400)
    assert (found.high - found.low) == pytest.approx(np.subtract(*np.quantile(means, (0.975, 0.025))), rel=0.15)
    assert found.mean == pytest.approx(means.mean(), abs=0.005)


def test_its_interval_holds_the_truth_and_its_p_is_even_under_no_difference():
    draw = np.random.default_rng(3)
    classes = np.repeat(np.arange(5), 40)
    found = [paired_bootstrap(draw.choice((-1.0, 0.0, 1.0), 200), classes, draws=500) for _ in range(400)]
    assert 0.92 < np.mean([d.low <= 0 <= d.high for d in found]) < 0.98
    assert 0.02 < np.mean([d.p < 0.05 for d in found]) < 0.08
    assert 0.4 < np.mean([d.p < 0.5 for d in found]) < 0.6


def test_no_difference_at_all():
    found = paired_bootstrap(np.zeros(30), np.repeat(np.arange(3), 10))
    assert (found.mean, found.low, found.high, found.p) == (0, 0, 0, 1)
    same_sums = paired_bootstrap(np.array([1 / 3, -1 / 3] * 20), np.zeros(40, int))
    assert same_sums.p == 1


def test_holm():
    """By hand: 0.01 x 4, then 0.02 x 3, then 0.03 x 2 = 0.06, and 0.04 x 1 raised to it."""
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.7]) == [1, 1]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


def test_the_interval_over_seeds_is_scipys():
    differences = [0.01, 0.03, -0.01, 0.02]
    expected = ttest_1samp(differences, 0).confidence_interval()
    assert seed_interval(differences) == pytest.approx((expected.low, expected.high))
    assert seed_interval([0.01]) is None
