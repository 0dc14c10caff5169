"""How a loader works, whatever its images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ...errors import LongtailError
from ..augment import ResizedCrop

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


def threads_for(workers: int, side: int) -> int:
    return 1 if side <= SMALL else max(workers, 1)


def corrupt_images(messages: list[str]) -> LongtailError:
    """One error for all corrupt images: the first 20 by name, the others as a count."""
    shown = messages[:20] + ([f"... and {len(messages) - 20:,} more."] if len(messages) > 20 else [])
    count = f"{len(messages):,} corrupt image{'s' * (len(messages) > 1)}"
    return LongtailError(
        "\n  ".join([f"{count}:", *shown]) + "\nReplace or remove them, or pass --skip-corrupt to leave them out."
    )
