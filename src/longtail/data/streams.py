"""What a method asks the data for (streams), and what it gets (batches)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Sampler = Literal["instance", "balanced", "power", "reversed"]


@dataclass(frozen=True)
class Stream:
    """A sequence of batches drawn by one sampler, each image seen through one or more views.

    `sampler`: "instance" (every image once an epoch), "balanced" (classes equally likely), "power" (image i drawn with
    probability proportional to 1 / n_{y_i}^q), "reversed" (class c drawn in proportion to 1 / n_c).
    `views`: one augmentation spec per view, for example ``("crop:4,flip", "crop:4,flip")``; see `data.augment`.
    """

    views: tuple[str, ...]
    sampler: Sampler = "instance"
    q: float = 0.0


@dataclass(frozen=True)
class Batch:
    """One batch of one stream. `views`: float32 [B, C, H, W] each; `labels`: int64 [B]; `index`: int64 [B], the images'
    positions in the training set."""

    views: tuple[Tensor, ...]
    labels: Tensor
    index: Tensor

    def chunk(self, parts: int) -> list[Batch]:
        """The same images as so many smaller batches, in order."""
        views = zip(*(view.chunk(parts) for view in self.views), strict=True)
        return [Batch(*part) for part in zip(views, self.labels.chunk(parts), self.index.chunk(parts), strict=True)]
