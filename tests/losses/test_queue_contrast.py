"""Drawing positives, spreading targets, and ProCo's Bessel functions over the range where training takes them."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import ive

from longtail.losses.proco import concentration, proco_logits
from longtail.losses.queue_contrast import draw_positives
from longtail.losses.targets import assign_targets, optimised_targets, simplex_targets, uniformity

SAME = torch.tensor([[1, 1, 0, 1, 1, 0], [1, 1, 0, 1, 1, 0], [0, 0, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0]]).bool()


def test_positives_are_of_the_class_and_as_many_as_asked_for_or_as_there_are() -> None:
    drawn = draw_positives(SAME, 3, torch.rand(6), torch.rand(4))
    assert not (drawn & ~SAME).any()
    assert drawn.sum(1).tolist() == [3, 3, 1, 0]
    assert draw_positives(SAME, 9, torch.rand(6), torch.rand(4)).equal(SAME)


def test_every_set_of_positives_is_equally_likely() -> None:
    draw, times = torch.Generator().manual_seed(0), 6000
    sets, pairs = Counter(), Counter()
    for _ in range(times):
        rows = draw_positives(SAME, 2, torch.rand(6, generator=draw), torch.rand(4, generator=draw))
        first, second = (tuple(row.nonzero().flatten().tolist()) for row in rows[:2])
        sets[first] += 1
        pairs[first == second] += 1
    assert len(sets) == 6
    assert all(abs(n / times - 1 / 6) < 5 * (5 / 36 / times) ** 0.5 for n in sets.values())
    assert pairs[False] > times / 2  # two queries of one class do not draw the same positives


@pytest.mark.parametrize(("classes", "dim"), [(2, 1), (4, 3), (5, 16), (10, 128)])
def test_simplex_targets(classes: int, dim: int) -> None:
    targets = simplex_targets(classes, dim, torch.Generator().manual_seed(0))
    expected = torch.full((classes, classes), -1 / (classes - 1)).fill_diagonal_(1.0)
    torch.testing.assert_close(targets @ targets.T, expected, rtol=1e-5, atol=1e-6)


def test_optimised_targets_are_no_worse_than_their_start_and_near_the_best_where_that_is_known() -> None:
    start = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    square = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    assert uniformity(optimised_targets(start, iterations=0)) == uniformity(F.normalize(start))
    found = uniformity(optimised_targets(start, tau=0.5, lr=0.01, iterations=1000), 0.5)
    assert found.item() == pytest.approx(uniformity(square, 0.5).item(), abs=1e-4)


def test_assignment_is_the_best_of_all() -> None:
    means, targets = F.normalize(torch.randn(5, 3)), F.normalize(torch.randn(5, 3))
    scores = means @ targets.T
    best = max(permutations(range(5)), key=lambda order: sum(scores[c, t] for c, t in enumerate(order)))
    assert assign_targets(means, targets).tolist() == list(best)


@pytest.mark.parametrize("dim", [16, 32, 128, 256])
def test_proco_logits_in_float32_from_no_concentration_to_the_largest(dim: int) -> None:
    draw = torch.Generator().manual_seed(0)
    lengths = torch.tensor([1e-6, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 0.99999, 1.0], dtype=torch.float64)
    means = lengths[:, None] * F.normalize(torch.randn(9, dim, generator=draw, dtype=torch.float64))
    features = F.normalize(torch.randn(6, dim, generator=draw, dtype=torch.float64))
    features[0] = F.normalize(means[4], dim=0)
    kappa, order, tau = concentration(means), dim / 2 - 1, 0.1

    def log_c(k: np.ndarray) -> np.ndarray:
        return np.log(ive(order, k)) + k - order * np.log(k)

    moved = (kappa[:, None] * F.normalize(means) + features[:, None] / tau).norm(dim=2)
    with np.errstate(divide="ignore"):  # scipy's values vanish for small kappa in many dimensions
        expected = torch.from_numpy(log_c(moved.numpy()) - log_c(kappa.numpy()))
    known = expected.isfinite()
    assert known.sum() >= 6 * 6
    actual = proco_logits(features.float(), means.float(), tau)
    assert actual.isfinite().all()
    # kappa = D R / (1 - R^2) itself is known to fewer digits in float32 as R comes near 1; its effect fades there.
    torch.testing.assert_close(actual.double()[known], expected[known], rtol=1e-5, atol=2e-5)
