"""Means and deviations of a set's channels."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np

from ...errors import LongtailError
from ..decode import CorruptImage
from ..images import spread
from .setup import CHUNK


def channel_statistics(
    square: Callable[[int], np.ndarray], count: int, channels: int, threads: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, in units of 0..1, over the pixels that training sees.

    `square` gives the i-th of `count` images, uint8 [channels, H, W]. From up to 10,000 readable ones spread evenly;
    those of one set are always the same. A channel without variation gets the deviation of one grey level. Raises
    `LongtailError` where none can be read.
    """
    positions = spread(count, 10_000)

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
