"""Images read and decoded by worker processes, as they are needed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ...errors import LongtailError
from ...memory import return_freed_memory
from ...seeding import generator
from ..augment import Augment, ResizedCrop
from ..decode import CorruptImage
from ..draws import Draws
from ..samplers import ClassIndex
from ..squares import SquareReader
from ..workers import keep_quiet, results_of
from .base import Loader
from .setup import Crops, Fetched, Request, Setup, corrupt_images


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
        decoder = Decoder(self._reader, self._classes, self.labels, crops, setup.rank, setup.skip_corrupt, substitute)
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


class Decoder(Dataset):
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
