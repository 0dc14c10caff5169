"""Batches of augmented images, whichever way they are read: the one interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ...seeding import generator
from ..augment import Augment, Normalise, ResizedCrop
from ..ops import centre_crop, send
from ..samplers import ClassIndex, LastBatch, batch_sizes, epoch_draws, share
from ..squares import SquareReader
from ..streams import Batch, Stream
from .setup import Crops, Fetched, Request, Setup, threads_for
from .statistics import channel_statistics


class Loader(ABC):
    """Batches of one image set on a device.

    `labels`: int64 [N] of the images that can be drawn. `size`: side of the images in a batch. `mean`, `std`: what they
    are normalised by. `skipped`: keys of the corrupt images met so far and left out.
    """

    def __init__(
        self, reader: SquareReader, setup: Setup, positions: np.ndarray, square: Callable[[int], np.ndarray]
    ) -> None:
        """`positions`: the images of the set that can be drawn. `square`: the pixels of the i-th of them."""
        self.setup, self.size = setup, reader.size
        if setup.mean is None or setup.std is None:
            self.mean, self.std = channel_statistics(
                square, len(positions), reader.channels, threads_for(setup.workers, reader.side)
            )
        else:
            self.mean, self.std = tuple(setup.mean), tuple(setup.std)
        self.labels = reader.images.labels[positions]
        self.skipped: list[str] = []
        self._classes = ClassIndex(self.labels, len(reader.images.class_names))
        self._positions, self._labels = torch.from_numpy(positions), torch.from_numpy(self.labels)
        self._normalise = Normalise(self.mean, self.std)

    def steps(self, batch_size: int, last_batch: LastBatch = "fill") -> int:
        """Steps of an epoch: as many as show every image once, but for a dropped last batch."""
        return len(batch_sizes(len(self.labels), batch_size, last_batch, self.setup.world_size))

    def batches(
        self,
        streams: Mapping[str, Stream],
        *,
        batch_size: int,
        seed: int,
        epoch: int,
        start: int = 0,
        epochs: int = 1,
        last_batch: LastBatch = "fill",
        steps: int | None = None,
        sampling: Callable[[str], Tensor] | None = None,
    ) -> Generator[dict[str, Batch], None, None]:
        """This process's part of the training batches of `epoch` of `epochs`, from step `start` on.

        `batch_size` counts the images of all processes together. `steps`: of the epoch, each of a whole batch (default: as
        many as show every image once, the last as `last_batch` says). `sampling` gives the class weights [C] of a stream with
        sampler "own", asked for when a batch is drawn: just before it is used, or some batches ahead where worker
        processes read. Raises `UsageError` where the batch cannot be shared equally or a spec is wrong, and
        `LongtailError` where an image is corrupt.
        """
        rank, world_size = self.setup.rank, self.setup.world_size
        part = share(batch_size, rank, world_size)
        whole = None if steps is None else [batch_size] * steps
        sizes = whole or batch_sizes(len(self.labels), batch_size, last_batch, world_size)
        draws = {
            name: epoch_draws(
                self._classes, stream, name=name, batch_size=batch_size, seed=seed, epoch=epoch, epochs=epochs,
                steps=len(sizes),
                sampling=None if sampling is None else partial(sampling, name),
            )
            for name, stream in streams.items()
        }  # fmt: skip
        own = any(stream.sampler == "own" for stream in streams.values())
        together = 1 if own else self._together(part.stop - part.start)
        # From a multiple on, wherever training goes on: how a device rounds can depend on the size of what it is given.
        end = len(sizes) - (sizes[-1] < batch_size)  # a smaller last batch is augmented by itself
        spans = [range(first, min(first + together, end)) for first in range(start - start % together, end, together)]
        spans += [range(step, step + 1) for step in range(max(end, start), len(sizes))]
        requests = (
            Request(
                seed,
                epoch,
                span.start,
                {
                    name: torch.cat([draw(i)[: sizes[i]][share(sizes[i], rank, world_size)] for i in span])
                    for name, draw in draws.items()
                },
            )
            for span in spans
        )
        views = {
            name: [self._split(Augment(spec, self.size, self.mean, self.std)) for spec in stream.views]
            for name, stream in streams.items()
        }
        crops = {name: [crop for crop, _ in split] for name, split in views.items()}
        for span, fetched in zip(spans, self._fetch(requests, crops), strict=True):
            parts = {}
            for name, split in views.items():
                generators = [
                    [generator(seed, "augment", name, view, epoch, step, rank) for step in span]
                    for view in range(len(split))
                ]
                parts[name] = self._augmented(fetched[name], [augment for _, augment in split], generators)
            for i, step in enumerate(span):
                if step >= start:
                    yield {name: batches[i] for name, batches in parts.items()}

    def _augmented(
        self, fetched: Fetched, augments: Sequence[Augment], generators: Sequence[Sequence[torch.Generator]]
    ) -> list[Batch]:
        """The views of what was fetched for some steps of a stream, a batch a step. `generators`: of each view and step."""
        views = [
            augment(send(images, self.setup.device), *random)
            for images, augment, random in zip(fetched.images, augments, generators, strict=True)
        ]
        return self._batch(views, fetched.places).chunk(len(generators[0]))

    def _together(self, batch: int) -> int:
        """How many steps of `batch` images to fetch and augment at once."""
        return 1

    def evaluation(self, batch_size: int) -> Iterator[Batch]:
        """This process's share of all images, in order, each once, in one view: its middle, normalised.

        A GPU gets as many of them in a batch as it augments together: they need no gradients.
        """
        rank, world_size = self.setup.rank, self.setup.world_size
        first, end = (len(self.labels) * part // world_size for part in (rank, rank + 1))
        batches = torch.arange(first, end).split(batch_size * self._together(batch_size))
        requests = (Request(0, 0, step, {"": places}) for step, places in enumerate(batches))
        for fetched in self._fetch(requests, {"": [None]}, substitute=False):
            (source,), places = fetched[""]
            if len(places):
                yield self._batch([self._evaluated(send(source, self.setup.device))], places)

    def _evaluated(self, images: Tensor) -> Tensor:
        """What is evaluated of what was fetched for it."""
        return self._normalise(centre_crop(images, self.size))

    def _batch(self, views: Sequence[Tensor], places: Tensor) -> Batch:
        labels, index = (send(values[places], self.setup.device) for values in (self._labels, self._positions))
        return Batch(tuple(views), labels, index)

    def _split(self, augment: Augment) -> tuple[ResizedCrop | None, Augment]:
        """The crop that is made while decoding, if any, and what remains for the device."""
        return None, augment

    @abstractmethod
    def _fetch(
        self, requests: Iterable[Request], crops: Crops, substitute: bool = True
    ) -> Iterator[Mapping[str, Fetched]]:
        """The images of each request. Corrupt ones that are to be skipped are substituted, or left out."""
