"""Which images make up each batch of a stream: a function of (seed, stream, epoch, step) and of nothing else.

Because no step depends on the one before, an epoch can be entered anywhere and shows the same batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from ..errors import UsageError, unknown_name
from ..seeding import derive_seed, generator
from .streams import Sampler, Stream

LastBatch = Literal["fill", "keep", "drop"]


class ClassIndex:
    """Positions of the images sorted by class, so that a class is a slice."""

    def __init__(self, labels: np.ndarray, num_classes: int) -> None:
        self.counts = torch.from_numpy(np.bincount(labels, minlength=num_classes))
        self.order = torch.from_numpy(np.argsort(labels, kind="stable"))
        self.offsets = self.counts.cumsum(0) - self.counts

    def members(self, label: int) -> Tensor:
        """Positions of one class, ascending."""
        return self.order[self.offsets[label] : self.offsets[label] + self.counts[label]]

    def class_probabilities(self, stream: Stream, progress: float = 0.0) -> Tensor:
        """Probability of each class in a draw with replacement, float64 [C]. A class without images is never drawn.

        `progress`: how much of training is over, 0 in its first epoch and 1 in its last. Raises `UsageError` for an unknown
        sampler, and for a q by which no probabilities can be computed.
        """
        counts = self.counts.double()
        there = self.counts > 0
        if stream.sampler == "power":
            weights = counts * counts**-stream.q
        elif stream.sampler == "balanced":
            weights = torch.ones_like(counts)
        elif stream.sampler == "square_root":
            weights = counts.sqrt()
        elif stream.sampler == "reversed":
            weights = 1 / counts
        elif stream.sampler == "effective_number":
            # expm1: 1 - beta^n loses its digits where n is small and beta near 1.
            weights = -counts / torch.expm1(counts * math.log(stream.beta))
        elif stream.sampler == "progressive":
            weights = progress / there.sum() + (1 - progress) * counts / counts.sum()
        else:
            raise unknown_name("sampler", stream.sampler, get_args(Sampler))
        return _shares(weights.where(there, 0), stream.q)


def _shares(weights: Tensor, q: float = 0.0) -> Tensor:
    probabilities = weights / weights.sum()
    if not (math.isfinite(q) and probabilities.isfinite().all()):
        raise UsageError(
            f"Images cannot be drawn by 1 / n^q with q = {q:g} (resample_weighting): expected about 0 (images "
            "equally likely) to 1 (classes equally likely)."
        )
    return probabilities


def epoch_draws(
    classes: ClassIndex,
    stream: Stream,
    *,
    name: str,
    batch_size: int,
    seed: int,
    epoch: int,
    epochs: int = 1,
    steps: int | None = None,
    sampling: Callable[[], Tensor] | None = None,
) -> Callable[[int], Tensor]:
    """The batches of the stream `name` in one epoch of `epochs`: a function from the step to positions int64 [batch_size].

    `steps`: of an epoch (default: as many as show every image once). The instance sampler goes through a permutation of all
    images; what the last batch lacks comes from further permutations. The class-aware one goes on in the cycles where the
    epoch before it stopped. The others draw with replacement: the class first, then uniformly within it; "own" by the class
    weights [C] that `sampling` then gives.
    """
    place = ("draw", name, epoch)
    steps = steps or steps_per_epoch(len(classes.order), batch_size)
    if stream.sampler == "instance":
        images = len(classes.order)
        drawn = steps * batch_size
        random = generator(seed, *place)
        rounds = [torch.randperm(images, generator=random) for _ in range(math.ceil(drawn / images))]
        return torch.cat(rounds)[:drawn].view(-1, batch_size).__getitem__
    if stream.sampler == "class_aware":
        first = epoch * steps * batch_size
        cycle = derive_seed(seed, "cycle", name)
        drawn_in_turn = class_aware_draws(classes, stream.per_class, first, steps * batch_size, cycle)
        return drawn_in_turn.view(-1, batch_size).__getitem__

    fixed = None
    if stream.sampler != "own":
        fixed = classes.class_probabilities(stream, epoch / max(epochs - 1, 1))

    def draw(step: int) -> Tensor:
        if fixed is not None:
            probabilities = fixed
        else:
            assert sampling is not None, f"stream '{name}' has sampler 'own': its method gives no sampling()"
            probabilities = _shares(sampling().double().cpu().where(classes.counts > 0, 0))
        cumulative = probabilities.cumsum(0)
        cumulative = cumulative / cumulative[-1]
        which, within = torch.rand(2, batch_size, dtype=torch.float64, generator=generator(seed, *place, step))
        label = torch.searchsorted(cumulative, which, right=True)
        counts = classes.counts[label]
        return classes.order[classes.offsets[label] + (within * counts).long().clamp_(max=counts - 1)]

    return draw


def class_aware_draws(classes: ClassIndex, per_class: int, first: int, count: int, seed: int) -> Tensor:
    """Draws `first` to `first + count` - 1 of the class-aware cycle, positions int64 [count].

    Classes come in a shuffled order, shuffled anew each time all were visited; a visit takes the next `per_class` images
    of the class, which come in a shuffled order of their own, shuffled anew when all were shown (Shen et al., ECCV 2016,
    as cRT's authors released it). Any stretch of this endless sequence is computed from its place and `seed` alone.
    """
    present = torch.nonzero(classes.counts).flatten()
    draws = torch.arange(first, first + count)
    visit, image = draws // per_class, draws % per_class
    cycle, position = visit // len(present), visit % len(present)
    cycles = torch.arange(int(cycle[0]), int(cycle[-1]) + 1)
    orders = _shuffled(present.repeat(len(cycles)), cycles.repeat_interleave(len(present)), ~seed)
    labels = orders.view(len(cycles), -1)[cycle - cycles[0], position]
    # A class is visited once a cycle: the cycle says how many of its images came before.
    shown = cycle * per_class + image
    rounds, place = shown // classes.counts[labels], shown % classes.counts[labels]
    return _in_shuffled_rounds(classes, labels, rounds, place, seed)


def _shuffled(values: Tensor, rounds: Tensor, seed: int, segment: Tensor | None = None) -> Tensor:
    """`values` in a random order within each of `rounds` (or, where rounds are of several classes, each `segment`), which
    stand one after the other: sorted by hashes of value and round, for all at once."""
    salt = np.uint64(seed & (2**64 - 1))
    with np.errstate(over="ignore"):
        keys = _hash(values.numpy().astype(np.uint64) ^ _hash(rounds.numpy().astype(np.uint64) + salt))
    order = np.lexsort((keys, (rounds if segment is None else segment).numpy()))
    return values[torch.from_numpy(order)]


def _in_shuffled_rounds(classes: ClassIndex, labels: Tensor, rounds: Tensor, place: Tensor, seed: int) -> Tensor:
    """For each draw the image at `place` of the shuffled order in which `rounds` goes through the class `labels`.

    For all classes at once.
    """
    pairs, which = torch.stack((labels, rounds), dim=1).unique(dim=0, return_inverse=True)
    sizes = classes.counts[pairs[:, 0]]
    starts = sizes.cumsum(0) - sizes
    segment = torch.repeat_interleave(torch.arange(len(pairs)), sizes)
    within = torch.arange(len(segment)) - starts[segment]
    images = classes.order[classes.offsets[pairs[segment, 0]] + within]
    return _shuffled(images, pairs[segment, 1], seed, segment)[starts[which] + place]


def _hash(numbers: np.ndarray) -> np.ndarray:
    """Well mixed 64-bit numbers (splitmix64, Steele et al., OOPSLA 2014)."""
    with np.errstate(over="ignore"):
        mixed = numbers + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return mixed ^ (mixed >> np.uint64(31))


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Batches it takes to see every image once."""
    return math.ceil(images / batch_size)


def batch_sizes(images: int, batch_size: int, last_batch: LastBatch, world_size: int = 1) -> list[int]:
    """Images of all processes together in each step of an epoch, the last step being as `last_batch` says.

    A kept batch is as large as the processes can share equally, and left out where that is fewer than two images each:
    batch norm has no statistics of one. Raises `UsageError` where dropping it leaves nothing.
    """
    whole, rest = divmod(images, batch_size)
    if last_batch == "fill":
        return [batch_size] * (whole + (rest > 0))
    kept = rest - rest % world_size if last_batch == "keep" else 0
    sizes = [batch_size] * whole + ([kept] if kept >= 2 * world_size else [])
    if not sizes:
        raise UsageError(
            f"{images:,} training images make no batch of {batch_size} and last_batch={last_batch} leaves the partial one "
            "out: choose a smaller --batch-size, or last_batch=fill."
        )
    return sizes


def share(batch_size: int, rank: int, world_size: int) -> slice:
    """The part of each global batch that process `rank` works on.

    Raises `UsageError` where `batch_size` does not divide by the number of processes.
    """
    if batch_size % world_size:
        raise UsageError(
            f"Batch size {batch_size} does not divide by {world_size} processes. Choose a multiple of {world_size}."
        )
    return slice(rank * batch_size // world_size, (rank + 1) * batch_size // world_size)
