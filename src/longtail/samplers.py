"""Samplers for imbalanced data, for any `torch.utils.data.DataLoader`.

    sampler = longtail.samplers.BalancedSampler(dataset)
    loader = DataLoader(dataset, batch_size=128, sampler=sampler)
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        ...

Each is seeded, draws anew in each epoch, and gives each process of a distributed run its own part. They take a data set, whose
labels they find without reading its images (see `labels_of`), or the labels themselves; and the keywords `seed`, `samples`,
`rank` and `world_size` of their base class.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.utils.data import Sampler

from .data.labels import labels_of
from .data.samplers import ClassIndex, epoch_draws
from .data.streams import Sampler as SamplerName
from .data.streams import Stream
from .distributed import world
from .errors import UsageError

__all__ = [
    "BalancedSampler",
    "ClassAwareSampler",
    "EffectiveNumberSampler",
    "PowerSampler",
    "ProgressiveSampler",
    "SquareRootSampler",
]


class _LongTailSampler(Sampler[int]):
    """Draws indices by a stream's sampler.

    `data`: a data set, or labels int64 [N] of 0 or more. `seed` and the epoch fix the draws. `samples`: drawn in an epoch by
    all processes together (default: N, rounded up to a multiple of the processes). `rank`, `world_size`: of a distributed run
    (default: those of `torch.distributed`, where it runs). Raises `UsageError` for labels that are none.
    """

    def __init__(
        self,
        data: Any,
        stream: Stream,
        *,
        epochs: int = 1,
        seed: int = 0,
        samples: int | None = None,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        labels = labels_of(data)
        if not len(labels):
            raise UsageError("The data set is empty: there is nothing to draw from.")
        self._classes = ClassIndex(labels, int(labels.max()) + 1)
        self._stream, self._seed, self._epochs, self._epoch = stream, seed, epochs, 0
        found = world()
        self._rank = found[0] if rank is None else rank
        self._world = found[1] if world_size is None else world_size
        self._samples = -(-(samples or len(labels)) // self._world) * self._world

    def set_epoch(self, epoch: int) -> None:
        """Draw what belongs to `epoch`, counted from 0. Call it before each epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        """Indices that this process draws in an epoch."""
        return self._samples // self._world

    def __iter__(self) -> Iterator[int]:
        draw = epoch_draws(
            self._classes, self._stream, name="sampler", batch_size=self._samples, seed=self._seed, epoch=self._epoch,
            epochs=self._epochs, steps=1,
        )  # fmt: skip
        for part in draw(0)[self._rank :: self._world].split(65_536):  # a list of all would take 36 bytes a draw
            yield from part.tolist()


def _stream(sampler: SamplerName, **options: Any) -> Stream:
    return Stream((), sampler, **options)


class BalancedSampler(_LongTailSampler):
    """Every class equally likely, then every image of the class, with replacement.

    >>> sampler = BalancedSampler([0] * 90 + [1] * 10, seed=0)
    >>> len(sampler), 35 < sum(i >= 90 for i in sampler) < 65
    (100, True)
    """

    def __init__(self, data: Any, **shared: Any) -> None:
        super().__init__(data, _stream("balanced"), **shared)


class PowerSampler(_LongTailSampler):
    """Image i with a probability proportional to 1 / n_{y_i}^q, with replacement: q = 0 draws images alike, 1 classes.

    >>> 10 < sum(i >= 90 for i in PowerSampler([0] * 90 + [1] * 10, q=0.5)) < 45
    True
    """

    def __init__(self, data: Any, q: float, **shared: Any) -> None:
        super().__init__(data, _stream("power", q=q), **shared)


class SquareRootSampler(_LongTailSampler):
    """Class c with a probability proportional to sqrt(n_c), then every image of the class (Mahajan et al., ECCV 2018).

    >>> len(list(SquareRootSampler([0, 0, 0, 1])))
    4
    """

    def __init__(self, data: Any, **shared: Any) -> None:
        super().__init__(data, _stream("square_root"), **shared)


class ProgressiveSampler(_LongTailSampler):
    """From every image equally likely in the first of `epochs` to every class equally likely in the last (Kang et al.,
    ICLR 2020, eq. 2).

    >>> sampler = ProgressiveSampler([0] * 90 + [1] * 10, epochs=10)
    >>> sampler.set_epoch(9)
    >>> 35 < sum(i >= 90 for i in sampler) < 65
    True
    """

    def __init__(self, data: Any, epochs: int, **shared: Any) -> None:
        super().__init__(data, _stream("progressive"), epochs=epochs, **shared)


class EffectiveNumberSampler(_LongTailSampler):
    """Image i with a probability proportional to (1 - beta) / (1 - beta^n_{y_i}), with replacement (Cui et al., CVPR 2019;
    LDAM's resampling).

    >>> len(list(EffectiveNumberSampler([0, 0, 0, 1], beta=0.99)))
    4
    """

    def __init__(self, data: Any, beta: float = 0.9999, **shared: Any) -> None:
        if not 0 < beta < 1:
            raise UsageError(f"beta is {beta:g}; expected more than 0 and less than 1, usually 0.9 to 0.9999.")
        super().__init__(data, _stream("effective_number", beta=beta), **shared)


class ClassAwareSampler(_LongTailSampler):
    """A shuffled cycle over the classes, `per_class` images of each class's own shuffled cycle at a visit (Shen et al., ECCV
    2016): every image of a class is shown before one is shown again.

    >>> drawn = list(ClassAwareSampler([0, 0, 0, 0, 1, 1], per_class=2, samples=12))
    >>> sorted(i for i in drawn if i > 3)
    [4, 4, 4, 5, 5, 5]
    """

    def __init__(self, data: Any, per_class: int = 4, **shared: Any) -> None:
        if per_class < 1:
            raise UsageError(f"per_class is {per_class}; expected 1 or more.")
        super().__init__(data, _stream("class_aware", per_class=per_class), **shared)
