"""Batches of augmented images: from memory (resident) or through worker processes (streaming), behind one interface.

Both keep each image as the uint8 square that `squares` makes, draw the same images for the same seed, and run the same
augmentation on the device. They differ where a view starts with `resized_crop` and images are resized: the streaming
loader's workers then crop the whole decoded image, the resident loader the square.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from ...errors import unknown_name
from ..images import ImageSet
from ..squares import SquareReader
from .base import Loader
from .resident import ResidentLoader
from .setup import Mode, Progress, Setup
from .statistics import channel_statistics
from .streaming import StreamingLoader

__all__ = [
    "Loader",
    "Mode",
    "Progress",
    "ResidentLoader",
    "Setup",
    "StreamingLoader",
    "build_loader",
    "channel_statistics",
]


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
