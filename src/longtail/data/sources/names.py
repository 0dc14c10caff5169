"""Conventions that several sources share: class names and split names."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from ...errors import UsageError

TEST_SPLITS = ("test", "val", "validation")  # the first that is there is the test set


def test_split(names: Collection[str]) -> str | None:
    """The name of the test split among `names`."""
    return next((name for name in TEST_SPLITS if name in names), None)


def numbered(labels: Sequence[int] | np.ndarray, where: str) -> tuple[str, ...]:
    """Class names "0", "1", .. up to the largest label, where a source has none of its own."""
    largest = max(labels, default=-1)
    if largest >= 10_000_000:
        raise UsageError(f"{where}: label {largest} is out of range; class numbers start at 0 and have no large gaps.")
    return tuple(str(c) for c in range(largest + 1))


def from_strings(values: Sequence[str], where: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels int64 and class names: class numbers where every value is one, else the distinct values, sorted."""
    try:
        labels = np.array([int(value) for value in values], dtype=np.int64)
    except (ValueError, OverflowError):
        names, labels = np.unique(np.array(values, dtype=str), return_inverse=True)
        return labels, tuple(names.tolist())
    return labels, numbered(labels, where)
