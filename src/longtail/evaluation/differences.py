"""Whether one classifier is better than another on the same test images, or luck would do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 10_000


@dataclass(frozen=True)
class Difference:
    """A `mean` difference, its 95 % interval, and the two-sided `p` of none."""

    mean: float
    low: float
    high: float
    p: float


def paired_bootstrap(differences: np.ndarray, strata: np.ndarray, draws: int = DRAWS, seed: int = 0) -> Difference:
    """Percentile bootstrap of the mean over strata of each stratum's mean difference, images drawn anew within strata.

    `differences`: float [N], of each test image, the one classifier's hit less the other's (a mean over seeds, where there
    are several). `strata`: int [N]. With the classes as strata this is the difference in class-balanced accuracy; with
    one stratum, that in accuracy.

    Few values occur, so a stratum's sample is drawn as how often each does, which is multinomial, and strata in which each
    occurs equally often are drawn together: exact, and quick for thousands of classes.
    """
    values, value = np.unique(np.round(differences, 9), return_inverse=True)
    _, stratum = np.unique(strata, return_inverse=True)
    counts = np.zeros((stratum.max() + 1, len(values)), np.int64)
    np.add.at(counts, (stratum, value), 1)
    kinds, alike = np.unique(counts, axis=0, return_counts=True)
    random = np.random.default_rng(seed)
    sums = np.zeros(draws)
    for kind, number in zip(kinds, alike, strict=True):
        size = kind.sum()
        sums += random.multinomial(number * size, kind / size, draws) @ values / size
    means = sums / len(counts)
    low, high = np.quantile(means, (0.025, 0.975))
    # Plus one: of ten thousand draws none beyond 0 does not mean that none ever is. Rounding must not hide a tie.
    tail = min((means <= 1e-12).sum(), (means >= -1e-12).sum())
    mean = float((counts @ values / counts.sum(1)).mean())
    return Difference(mean, float(low), float(high), min(1.0, 2 * (int(tail) + 1) / (draws + 1)))


def holm(p: Sequence[float]) -> list[float]:
    """The p values of one family of comparisons, corrected for their number (Holm, 1979)."""
    order = np.argsort(p, kind="stable")
    corrected = np.empty(len(p))
    corrected[order] = np.maximum.accumulate((len(p) - np.arange(len(p))) * np.asarray(p, float)[order])
    return np.minimum(corrected, 1).tolist()


def seed_interval(differences: Sequence[float]) -> tuple[float, float] | None:
    """95 % t interval of the mean of paired differences between trainings, one a seed; None for fewer than two."""
    from scipy.stats import t

    if len(differences) < 2:
        return None
    mean = float(np.mean(differences))
    half = float(t.ppf(0.975, len(differences) - 1) * np.std(differences, ddof=1) / np.sqrt(len(differences)))
    return mean - half, mean + half
