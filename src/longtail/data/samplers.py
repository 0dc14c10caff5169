"""Which images make up each batch of a stream: a function of (seed, stream, epoch, step) and of nothing else.

Because no step depends on the one before, an epoch can be entered anywhere and shows the same batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..errors import UsageError, unknown_name
from ..seeding import generator
from .streams import Stream


class ClassIndex:
    """Positions of the images sorted by class, so that a class is a slice."""

    def __init__(self, labels: np.ndarray, num_classes: int) -> None:
        self.counts = torch.from_numpy(np.bincount(labels, minlength=num_classes))
        self.order = torch.from_numpy(np.argsort(labels, kind="stable"))
        self.offsets = self.counts.cumsum(0) - self.counts

    def members(self, label: int) -> Tensor:
        """Positions of one class, ascending."""
        return self.order[self.offsets[label] : self.offsets[label] + self.counts[label]]

    def class_probabilities(self, stream: Stream) -> Tensor:
        """Probability of each class in a draw with replacement, float64 [C]. A class without images is never drawn.

        Raises `UsageError` for an unknown sampler, and for a q by which no probabilities can be computed.
        """
        counts = self.counts.double()
        if stream.sampler == "power":
            weights = counts * counts**-stream.q
        elif stream.sampler == "balanced":
            weights = torch.ones_like(counts)
        elif stream.sampler == "reversed":
            weights = 1 / counts
        else:
            raise unknown_name("sampler", stream.sampler, ("instance", "balanced", "power", "reversed"))
        weights = weights.where(self.counts > 0, 0)
        probabilities = weights / weights.sum()
        if not (math.isfinite(stream.q) and probabilities.isfinite().all()):
            raise UsageError(
                f"Images cannot be drawn by 1 / n^q with q = {stream.q:g} (resample_weighting): expected about 0 (images "
                "equally likely) to 1 (classes equally likely)."
            )
        return probabilities


def epoch_draws(
    classes: ClassIndex, stream: Stream, *, name: str, batch_size: int, seed: int, epoch: int
) -> Callable[[int], Tensor]:
    """The batches of the stream `name` in one epoch: a function from the step to positions int64 [batch_size].

    The instance sampler goes through a permutation of all images; what the last batch lacks comes from further
    permutations. The others draw with replacement: the class first, then uniformly within it.
    """
    place = ("draw", name, epoch)
    if stream.sampler == "instance":
        images = len(classes.order)
        drawn = steps_per_epoch(images, batch_size) * batch_size
        random = generator(seed, *place)
        rounds = [torch.randperm(images, generator=random) for _ in range(math.ceil(drawn / images))]
        return torch.cat(rounds)[:drawn].view(-1, batch_size).__getitem__

    cumulative = classes.class_probabilities(stream).cumsum(0)
    cumulative = cumulative / cumulative[-1]

    def draw(step: int) -> Tensor:
        which, within = torch.rand(2, batch_size, dtype=torch.float64, generator=generator(seed, *place, step))
        label = torch.searchsorted(cumulative, which, right=True)
        counts = classes.counts[label]
        return classes.order[classes.offsets[label] + (within * counts).long().clamp_(max=counts - 1)]

    return draw


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Batches it takes to see every image once."""
    return math.ceil(images / batch_size)


def share(batch_size: int, rank: int, world_size: int) -> slice:
    """The part of each global batch that process `rank` works on.

    Raises `UsageError` where `batch_size` does not divide by the number of processes.
    """
    if batch_size % world_size:
        raise UsageError(
            f"Batch size {batch_size} does not divide by {world_size} processes. Choose a multiple of {world_size}."
        )
    return slice(rank * batch_size // world_size, (rank + 1) * batch_size // world_size)
