"""What a method asks the data for (streams), and what it gets (batches)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Sampler = Literal[
    "instance", "balanced", "power", "reversed", "square_root", "progressive", "effective_number", "class_aware"
]


@dataclass(frozen=True)
class Stream:
    """A sequence of batches drawn by one sampler, each image seen through one or more views.

    `views`: one augmentation spec per view, for example ``("crop:4,flip", "crop:4,flip")``; see `data.augment`.
    `sampler`:

    - "instance": every image once an epoch.
    - "balanced": classes equally likely. "power": image i drawn in proportion to 1 / n_{y_i}^q. "square_root": class c in
      proportion to sqrt(n_c). "reversed": class c in proportion to 1 / n_c (BBN). "effective_number": image i in
      proportion to (1 - beta) / (1 - beta^n_{y_i}) (LDAM's resampling).
    - "progressive": from instance-balanced in the first epoch to class-balanced in the last (Kang et al., ICLR 2020).
    - "class_aware": a shuffled cycle of classes, `per_class` images of each class's own shuffled cycle at a visit.
    - "own": as the method's `sampling` says at each step.

    `held_out`: of the images held out of training, not of those trained on.
    """

    views: tuple[str, ...]
    sampler: Sampler | Literal["own"] = "instance"
    q: float = 0.0
    beta: float = 0.9999
    per_class: int = 4
    held_out: bool = False


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
