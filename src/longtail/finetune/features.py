"""The frozen first stages of a backbone, computed once for every image, and batches of what they made.

Where the first stages do not learn, what they make of an image is the same in every epoch. It is computed once, plain
and for a few draws of each augmentation, kept on disk (see `store`), and training starts from there: its images are
then these maps, or the pooled features where the whole backbone is frozen. A method notices nothing: `Backbone.entry`
says where its forward pass starts.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..data.augment import Augment
from ..data.decode import CorruptImage
from ..data.images import ImageSet
from ..data.loaders import Loader, Setup
from ..data.loaders.setup import Crops, Fetched, Request
from ..data.ops import send
from ..data.squares import SquareReader
from ..data.workers import keep_quiet, results_of
from ..errors import LongtailError
from ..models.backbone import Backbone
from ..seeding import generator
from .store import Store, content_hashes, weights_hash

logger = logging.getLogger("longtail")

BATCH = 32  # images that go through the frozen stages at once
SHARD_SECONDS = 20  # after so long, what was computed is written


class FrozenStages:
    """The first `entry` stages of a backbone, all of it and its pooling where `entry` is one more than it has stages."""

    def __init__(self, backbone: Backbone, entry: int) -> None:
        self.backbone, self.entry = backbone, entry
        stages = torch.nn.ModuleList(list(backbone.stages)[:entry])
        if entry > len(backbone.stages):
            stages.append(backbone.pool)
        self.hash = weights_hash(stages)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Images [B, C, S, S] -> their maps with the channels last, [B, H, W, C], in the type the stages compute in; or
        features [B, 1, 1, D]."""
        images = images.contiguous(memory_format=torch.channels_last)
        if self.entry > len(self.backbone.stages):
            return self.backbone.run(images, 0)[:, None, None]
        maps = self.backbone.run(images, 0, self.entry)
        return maps.permute(0, 2, 3, 1).contiguous() if maps.ndim == 4 else maps[:, None]


class FeatureLoader(Loader):
    """Batches of what frozen stages made, in the place of images.

    Each view of a stream draws, for each image, one of the versions of its augmentation. `values`: for each spec, and for
    "" as they are evaluated, versions of all images [N, H, W, C] in the set's order.
    """

    def __init__(
        self, images: ImageSet, setup: Setup, positions: np.ndarray, values: Mapping[str, Sequence[Tensor]], size: int
    ) -> None:
        """`positions`: of the images that could be read. `size`: of the images, for what is made of it."""
        reader: Any = SimpleNamespace(images=images, size=size, side=size)
        super().__init__(reader, setup, positions, lambda i: np.empty(0))
        self._values, self._rows = values, self._positions

    def _split(self, augment: Augment) -> tuple[Any, Any]:
        return augment.spec, _as_it_is

    def _fetch(
        self, requests: Iterable[Request], crops: Crops | Mapping[str, Any], substitute: bool = True
    ) -> Iterator[Mapping[str, Fetched]]:
        for request in requests:
            fetched = {}
            for name, places in request.places.items():
                rows, views = self._rows[places], []
                for view, spec in enumerate(crops[name]):
                    versions = self._values.get(spec or "", self._values[""])
                    draws = generator(request.seed, "version", name, view, request.epoch, request.step, self.setup.rank)
                    views.append(_pick(versions, rows, draws))
                fetched[name] = Fetched(tuple(views), places)
            yield fetched

    def _evaluated(self, images: Tensor) -> Tensor:
        return images


def _as_it_is(images: Tensor, *generators: torch.Generator) -> Tensor:
    return images


def _pick(versions: Sequence[Tensor], rows: Tensor, draws: torch.Generator) -> Tensor:
    """One of the versions of each row: [B, C, H, W], its channels last in memory."""
    picked = versions[0].index_select(0, rows)
    choice = torch.randint(len(versions), (len(rows),), generator=draws)
    for version in range(1, len(versions)):
        of_it = (choice == version).nonzero()[:, 0]
        picked.index_copy_(0, of_it, versions[version].index_select(0, rows[of_it]))
    return picked.permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Variant:
    """Which version of an image: an augmentation spec ("" for none) and a number for its draws."""

    spec: str
    draw: int = 0


class _Squares(Dataset):
    """What a worker process reads: chunks of squares, and which of them are corrupt."""

    def __init__(self, reader: SquareReader, chunks: Sequence[np.ndarray]) -> None:
        self.reader, self.chunks = reader, chunks

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, chunk: int) -> tuple[Tensor, list[int], dict[int, str]]:
        positions, squares, read, corrupt = self.chunks[chunk], [], [], {}
        for i in positions.tolist():
            try:
                squares.append(torch.from_numpy(np.ascontiguousarray(self.reader.square(i))))
                read.append(i)
            except CorruptImage as error:
                corrupt[i] = str(error)
        return torch.stack(squares) if squares else torch.empty(0), read, corrupt


def compute(
    images: ImageSet,
    frozen: FrozenStages,
    variants: Sequence[Variant],
    *,
    setup: Setup,
    channels: int,
    image_size: int | None,
    advance: Callable[[int, int], bool] = lambda done, total: False,
) -> tuple[dict[Variant, Tensor], np.ndarray, dict[int, str]]:
    """What `frozen` makes of every variant of `images`, [N, H, W, C] each; the positions that could be read; the others, and why.

    Reads what is stored, computes the rest, and stores it. A version depends on its image's content and its draw alone.
    Decoding goes on in worker processes meanwhile. `advance` is told how many images of how many are done, and whether what
    it says ends the work there, all that was computed stored.
    """
    assert setup.mean is not None
    assert setup.std is not None
    reader = SquareReader(images, channels, image_size)
    hashes = content_hashes(images)
    pixels = (reader.size, reader.side, channels, images.value_range, tuple(setup.mean), tuple(setup.std))
    precision = str(frozen.backbone.precision)
    stores = {v: Store({"network": frozen.hash, "pixels": pixels, "in": precision, "of": v}) for v in variants}
    found = {variant: store.read(hashes) for variant, store in stores.items()}
    missing = np.flatnonzero(~np.all([known for _, known in found.values()], axis=0))
    values = {variant: stored for variant, (stored, _) in found.items() if stored is not None}
    corrupt: dict[int, str] = {}
    if len(missing):
        augments = {v: Augment(v.spec, reader.size, setup.mean, setup.std) for v in variants}
        for read, made in _made(reader, frozen, augments, missing, hashes, setup, corrupt, advance):
            rows = torch.tensor(read)
            for variant, part in made.items():
                stores[variant].add(hashes[read], part)
                if variant not in values:
                    values[variant] = torch.empty(len(images), *part.shape[1:], dtype=part.dtype)
                values[variant][rows] = part
    if not values:
        raise LongtailError(f"{images.name}: none of its {len(images):,} images can be read.")
    readable = np.setdiff1d(np.arange(len(images)), list(corrupt))
    return values, readable, corrupt


def _made(
    reader: SquareReader,
    frozen: FrozenStages,
    augments: Mapping[Variant, Augment],
    positions: np.ndarray,
    hashes: np.ndarray,
    setup: Setup,
    corrupt: dict[int, str],
    advance: Callable[[int, int], bool],
) -> Iterator[tuple[list[int], dict[Variant, Tensor]]]:
    """Every variant of the images at `positions`, a shard at a time. Adds those that cannot be read to `corrupt`."""
    chunks = np.array_split(positions, -(-len(positions) // BATCH))
    squares = _Squares(reader, chunks)
    loader = DataLoader(squares, batch_size=None, num_workers=setup.workers, worker_init_fn=keep_quiet)
    read: list[int] = []
    made: dict[Variant, list[Tensor]] = {variant: [] for variant in augments}
    done, written, stop = 0, time.monotonic(), False
    with results_of(loader) as results:
        for images, places, unreadable in results:
            corrupt.update(unreadable)
            if places:
                read += places
                on_device = send(images, setup.device)
                for variant, augment in augments.items():
                    draws = [generator(0, "version", int(h), variant.draw) for h in hashes[places]]
                    made[variant].append(frozen(augment(on_device, *draws)).cpu())
            done += len(places) + len(unreadable)
            stop = advance(done, len(positions))
            if read and (stop or time.monotonic() - written > SHARD_SECONDS or done == len(positions)):
                yield read, {variant: torch.cat(parts) for variant, parts in made.items()}
                read, made, written = [], {variant: [] for variant in augments}, time.monotonic()
            if stop:
                return
