"""Random numbers for the images of a batch."""

from __future__ import annotations

import torch
from torch import Tensor


class Draws:
    """Numbers for each of `batch` images, drawn on the CPU.

    With several `generators` the batch is as many equal parts, and each part gets what it would get alone: how many
    steps are augmented together changes none of them.
    """

    def __init__(self, batch: int, *generators: torch.Generator) -> None:
        self.part, self.generators = batch // len(generators), generators

    def integers(self, high: int, *shape: int) -> Tensor:
        """int64 [B, *shape], 0 to `high` - 1."""
        return torch.cat([torch.randint(high, (self.part, *shape), generator=g) for g in self.generators])

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """float64 [B, *shape]."""
        return low + (high - low) * self._rand(*shape, dtype=torch.float64)

    def normal(self, *shape: int) -> Tensor:
        """float64 [B, *shape], with mean 0 and deviation 1."""
        return torch.cat([torch.randn(self.part, *shape, dtype=torch.float64, generator=g) for g in self.generators])

    def chance(self, prob: float | Tensor, *shape: int) -> Tensor:
        """bool [B, *shape], each true with probability `prob`."""
        return self._rand(*shape, dtype=torch.float32) < prob

    def signs(self, *shape: int) -> Tensor:
        """float64 [B, *shape], -1 or 1."""
        return self.integers(2, *shape).double() * 2 - 1

    def _rand(self, *shape: int, dtype: torch.dtype) -> Tensor:
        return torch.cat([torch.rand(self.part, *shape, dtype=dtype, generator=g) for g in self.generators])
