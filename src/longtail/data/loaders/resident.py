"""Images decoded once and kept in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from ...errors import LongtailError
from ..decode import CorruptImage
from ..ops import send
from ..squares import SquareReader
from .base import Loader
from .setup import BYTES_TOGETHER, CHUNK, STEPS_TOGETHER, Crops, Fetched, Request, Setup, corrupt_images, threads_for


class ResidentLoader(Loader):
    """All images decoded once and kept on the device as uint8 [N, C, side, side]."""

    def __init__(self, reader: SquareReader, setup: Setup) -> None:
        """Raises `LongtailError` that names the corrupt images, unless they are to be skipped."""
        images, positions, skipped = decode_all(reader, np.arange(len(reader.images)), setup)
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


def decode_all(reader: SquareReader, positions: np.ndarray, setup: Setup) -> tuple[Tensor, np.ndarray, list[str]]:
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

    with ThreadPoolExecutor(threads_for(setup.workers, reader.side)) as pool:
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
