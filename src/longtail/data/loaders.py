"""Batches of augmented images: from memory (resident) or through worker processes (streaming), behind one interface.

Both keep each image as the uint8 square that `squares` makes, draw the same images for the same seed, and run the same
augmentation on the device. They differ where a view starts with `resized_crop` and images are resized: the streaming
loader's workers then crop the whole decoded image, the resident loader the square.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..errors import LongtailError, unknown_name
from ..memory import return_freed_memory
from ..seeding import generator
from .augment import Augment, Normalise, ResizedCrop
from .decode import CorruptImage
from .draws import Draws
from .images import ImageSet
from .ops import centre_crop, send
from .samplers import ClassIndex, LastBatch, batch_sizes, epoch_draws, share
from .squares import SquareReader
from .streams import Batch, Stream
from .workers import keep_quiet, results_of

Mode = Literal["auto", "resident", "streaming"]
Progress = Callable[[int, int], None]
Crops = Mapping[str, Sequence[ResizedCrop | None]]  # per stream and view: the crop that is made while decoding
CHUNK = 64  # images that one thread decodes at a time
# Up to this side, reading an image is mostly Python: threads would only wait for each other's turn.
SMALL = 64
# Steps whose images a GPU augments together, and how many bytes these may have: asking for an operation takes it longer
# than the operation itself where images are small, and a policy asks for hundreds.
STEPS_TOGETHER, BYTES_TOGETHER = 16, 1 << 28


class Fetched(NamedTuple):
    """Part of a stream's batch before augmentation: uint8 images of each view, and the images' places in the loader."""

    images: tuple[Tensor, ...]
    places: Tensor


class Request(NamedTuple):
    """Which places each stream shows in one epoch from `step` on, for one step or several."""

    seed: int
    epoch: int
    step: int
    places: Mapping[str, Tensor]


@dataclass(frozen=True)
class Setup:
    """How a loader works, whatever its images.

    `mean`, `std`: per channel, in units of 0..1 (None: measured, see `channel_statistics`).
    `workers`: threads that decode at the start, processes that decode while streaming (0: none of their own).
    `progress` is told how many images of how many have been decoded.
    """

    device: torch.device
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    workers: int = 0
    skip_corrupt: bool = False
    rank: int = 0
    world_size: int = 1
    progress: Progress | None = None


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
                square, len(positions), reader.channels, _threads(setup.workers, reader.side)
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
        sampling: Callable[[str], Tensor] | None = None,
    ) -> Generator[dict[str, Batch], None, None]:
        """This process's part of the training batches of `epoch` of `epochs`, from step `start` on.

        `batch_size` counts the images of all processes together. `sampling` gives the class weights [C] of a stream with
        sampler "own", asked for when a batch is drawn: just before it is used, or some batches ahead where worker
        processes read. Raises `UsageError` where the batch cannot be shared equally or a spec is wrong, and
        `LongtailError` where an image is corrupt.
        """
        rank, world_size = self.setup.rank, self.setup.world_size
        part = share(batch_size, rank, world_size)
        sizes = batch_sizes(len(self.labels), batch_size, last_batch, world_size)
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


class ResidentLoader(Loader):
    """All images decoded once and kept on the device as uint8 [N, C, side, side]."""

    def __init__(self, reader: SquareReader, setup: Setup) -> None:
        """Raises `LongtailError` that names the corrupt images, unless they are to be skipped."""
        images, positions, skipped = _decode(reader, np.arange(len(reader.images)), setup)
        super().__init__(reader, setup, positions, images.numpy().__getitem__)
        self.skipped = skipped
        self._images = images.to(setup.device)

    def _together(self, batch: int) -> int:
        if self.setup.device.type == "cpu":
            return 1
        bytes_of_a_step = 4 * batch * self._images.shape[1] * self.size**2
        return min(max(BYTES_TOGETHER // bytes_of_a_step, 1), STEPS_TOGETHER)

    def _fetch(
        self, requests: Iterable[Request], crops: Crops, substitute: bool = True
    ) -> Iterator[Mapping[str, Fetched]]:
        for request in requests:
            yield {
                name: Fetched(
                    (self._images.index_select(0, send(places, self.setup.device)),) * len(crops[name]), places
                )
                for name, places in request.places.items()
            }


class StreamingLoader(Loader):
    """Worker processes read and decode; a view's leading `resized_crop` is theirs too where images are resized."""

    def __init__(self, reader: SquareReader, setup: Setup) -> None:
        super().__init__(reader, setup, np.arange(len(reader.images)), reader.square)
        self._reader = reader

    def _split(self, augment: Augment) -> tuple[ResizedCrop | None, Augment]:
        first = augment.ops[0] if augment.ops and self._reader.resizes else None
        return (first, augment.without_first()) if isinstance(first, ResizedCrop) else (None, augment)

    def _fetch(
        self, requests: Iterable[Request], crops: Crops, substitute: bool = True
    ) -> Iterator[Mapping[str, Fetched]]:
        setup = self.setup
        decoder = _Decoder(self._reader, self._classes, self.labels, crops, setup.rank, setup.skip_corrupt, substitute)
        loaded = DataLoader(
            decoder,
            sampler=requests,
            batch_size=None,
            num_workers=setup.workers,
            pin_memory=setup.device.type == "cuda",
            generator=torch.Generator(),  # or it would draw from the global one
            worker_init_fn=keep_quiet,
        )
        if setup.workers:
            return_freed_memory()  # the workers are forked here
        with results_of(loaded) as results:
            for result in results:
                if isinstance(result, LongtailError):
                    raise result
                fetched, corrupt = result
                self.skipped += [key for key in dict.fromkeys(corrupt) if key not in self.skipped]
                yield fetched


class _Decoder(Dataset):
    """What a worker process does: turn a request into images."""

    def __init__(
        self,
        reader: SquareReader,
        classes: ClassIndex,
        labels: np.ndarray,
        crops: Crops,
        rank: int,
        skip_corrupt: bool,
        substitute: bool,
    ) -> None:
        self.reader, self.classes, self.labels, self.crops = reader, classes, labels, crops
        self.rank, self.skip_corrupt, self.substitute = rank, skip_corrupt, substitute

    def __getitem__(self, request: Request) -> tuple[dict[str, Fetched], list[str]] | LongtailError:
        """The images and the keys of skipped ones, or the error to raise: raised here, it would arrive garbled."""
        corrupt: dict[int, str] = {}
        try:
            fetched = {name: self._fetch(request, name, corrupt) for name in request.places}
        except LongtailError as error:
            return error
        if corrupt and not self.skip_corrupt:
            return corrupt_images(list(corrupt.values()))
        return fetched, [self.reader.images.key(i) for i in corrupt]

    def _fetch(self, request: Request, stream: str, corrupt: dict[int, str]) -> Fetched:
        """One stream's images. Adds those that cannot be read to `corrupt`, with the reason."""
        places, crops = request.places[stream].tolist(), self.crops[stream]
        random = generator(request.seed, "crop", stream, request.epoch, request.step, self.rank)
        draws = Draws(len(places), random)
        boxes = [None if crop is None else crop.draw(draws) for crop in crops]
        sides = [self.reader.side if crop is None else self.reader.size for crop in crops]
        out = [np.empty((len(places), self.reader.channels, side, side), np.uint8) for side in sides]
        shown: list[int] = []
        for row, place in enumerate(places):
            drawn = [None if box is None else box[row] for box in boxes]
            for i in self._candidates(place):
                try:
                    views = self.reader.views(i, crops, drawn)
                except CorruptImage as error:
                    corrupt[i] = str(error)
                    continue
                for stack, view in zip(out, views, strict=True):
                    stack[len(shown)] = view
                shown.append(i)
                break
            else:
                if self.substitute and self.skip_corrupt:
                    images, label = self.reader.images, self.labels[place]
                    raise LongtailError(f"{images.name}: no image of class '{images.class_names[label]}' can be read.")
        return Fetched(
            tuple(torch.from_numpy(stack[: len(shown)]) for stack in out), torch.tensor(shown, dtype=torch.int64)
        )

    def _candidates(self, i: int) -> Iterator[int]:
        """Image `i`, then, where corrupt ones are substituted, the others of its class."""
        yield i
        if self.skip_corrupt and self.substitute:
            members = self.classes.members(int(self.labels[i]))
            after = int(torch.searchsorted(members, i)) + 1
            yield from torch.cat((members[after:], members[: after - 1])).tolist()


def _decode(reader: SquareReader, positions: np.ndarray, setup: Setup) -> tuple[Tensor, np.ndarray, list[str]]:
    """Squares of the images at `positions`, uint8 [N, C, side, side], their positions, and the keys of skipped ones."""
    images = torch.empty(len(positions), reader.channels, reader.side, reader.side, dtype=torch.uint8)
    pixels = images.numpy()
    corrupt: dict[int, str] = {}

    def fill(start: int) -> None:
        for row in range(start, min(start + CHUNK, len(positions))):
            try:
                pixels[row] = reader.square(int(positions[row]))
            except CorruptImage as error:
                corrupt[row] = str(error)

    with ThreadPoolExecutor(_threads(setup.workers, reader.side)) as pool:
        for chunk, _ in enumerate(pool.map(fill, range(0, len(positions), CHUNK)), 1):
            if setup.progress:
                setup.progress(min(chunk * CHUNK, len(positions)), len(positions))
    if not corrupt:
        return images, positions, []
    rows = sorted(corrupt)
    if not setup.skip_corrupt:
        raise corrupt_images([corrupt[row] for row in rows])
    if len(rows) == len(positions):
        raise LongtailError(f"{reader.images.name}: none of its {len(positions):,} images can be read.")
    kept = np.delete(np.arange(len(positions)), rows)
    return images[torch.from_numpy(kept)], positions[kept], [reader.images.key(int(positions[row])) for row in rows]


def _threads(workers: int, side: int) -> int:
    return 1 if side <= SMALL else max(workers, 1)


def corrupt_images(messages: list[str]) -> LongtailError:
    """One error for all corrupt images: the first 20 by name, the others as a count."""
    shown = messages[:20] + ([f"... and {len(messages) - 20:,} more."] if len(messages) > 20 else [])
    count = f"{len(messages):,} corrupt image{'s' * (len(messages) > 1)}"
    return LongtailError(
        "\n  ".join([f"{count}:", *shown]) + "\nReplace or remove them, or pass --skip-corrupt to leave them out."
    )


def channel_statistics(
    square: Callable[[int], np.ndarray], count: int, channels: int, threads: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, in units of 0..1, over the pixels that training sees.

    `square` gives the i-th of `count` images, uint8 [channels, H, W]. From up to 10,000 readable ones spread evenly;
    those of one set are always the same. A channel without variation gets the deviation of one grey level. Raises
    `LongtailError` where none can be read.
    """
    positions = np.linspace(0, count - 1, min(count, 10_000)).astype(int)

    def sums(start: int) -> np.ndarray:
        total = np.zeros((3, channels), np.int64)  # pixels, their sum, the sum of their squares: exact in any order
        for i in positions[start : start + CHUNK].tolist():
            with suppress(CorruptImage):
                pixels = square(i).reshape(channels, -1).astype(np.int32)
                total += np.stack((np.full(channels, pixels.shape[1]), pixels.sum(1), (pixels**2).sum(1)))
        return total

    with ThreadPoolExecutor(threads) as pool:
        pixels, first, second = np.sum(list(pool.map(sums, range(0, len(positions), CHUNK))), axis=0)
    if not pixels.all():
        raise LongtailError(f"None of the {len(positions):,} training images looked at can be read.")
    mean = first / pixels
    std = np.sqrt(np.maximum(second / pixels - mean**2, 1))
    return tuple((mean / 255).tolist()), tuple((std / 255).tolist())


def build_loader(
    images: ImageSet,
    *,
    device: torch.device | str,
    channels: int,
    image_size: int | None,
    budget_bytes: int,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    mode: Mode = "auto",
    workers: int = 0,
    skip_corrupt: bool = False,
    rank: int = 0,
    world_size: int = 1,
    log: Callable[[str], None] = lambda message: None,
    progress: Progress | None = None,
) -> Loader:
    """The loader for a set: resident where its squares fit into `budget_bytes`, streaming otherwise, or as `mode` says.

    `image_size`: side of the network's input, see `SquareReader`; the rest: see `Setup`. `log` is told the choice.
    Raises `UsageError` for an unknown mode or images that need an `image_size`, and `LongtailError` for corrupt images.
    """
    if mode not in ("auto", "resident", "streaming"):
        raise unknown_name("loader", mode, ("auto", "resident", "streaming"))
    reader = SquareReader(images, channels, image_size)
    needed = len(images) * channels * reader.side**2
    resident = mode == "resident" or (mode == "auto" and needed <= budget_bytes)
    log(
        f"{images.name}: {len(images):,} images of {channels}x{reader.side}x{reader.side} take {needed / 1e6:,.0f} MB "
        f"(budget {budget_bytes / 1e6:,.0f} MB): {'resident' if resident else f'streaming, {workers} workers'}"
        f"{'' if mode == 'auto' else ', as asked'}."
    )
    setup = Setup(torch.device(device), mean, std, workers, skip_corrupt, rank, world_size, progress)
    return (ResidentLoader if resident else StreamingLoader)(reader, setup)
