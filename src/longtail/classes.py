"""What a method may know about the training classes: their names and how many images each has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

SHOTS = ("many", "medium", "few")
SHOT_MEANINGS = {"many": "more than 100", "medium": "20 to 100", "few": "fewer than 20"}  # training images


@dataclass(frozen=True)
class Classes:
    """Class names and training-image counts, in label order.

    `names`: C strings. `counts`: C positive integers, the number of training images of each class after carving and after
    holding out a validation split.
    """

    names: tuple[str, ...]
    counts: tuple[int, ...]

    @classmethod
    def from_labels(cls, names: Sequence[str], labels: np.ndarray) -> Classes:
        """Count integer `labels` [N] in 0..C-1."""
        return cls(tuple(names), tuple(np.bincount(labels, minlength=len(names)).tolist()))

    def __len__(self) -> int:
        return len(self.names)

    @property
    def imbalance_factor(self) -> float:
        """Largest over smallest class count."""
        return max(self.counts) / min(self.counts)

    @property
    def count_tensor(self) -> Tensor:
        """Counts as int64 [C]."""
        return torch.tensor(self.counts, dtype=torch.int64)

    @property
    def shots(self) -> tuple[str, ...]:
        """For each class "many" (n > 100), "medium" (20 <= n <= 100) or "few" (n < 20): Liu et al., CVPR 2019."""
        return tuple("many" if n > 100 else "medium" if n >= 20 else "few" for n in self.counts)
