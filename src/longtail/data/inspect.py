"""What is in a data source, before training on it: classes, sizes, values, duplicates, overlap of splits, unreadable files."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np

from ..classes import SHOTS, Classes
from ..errors import UsageError
from .borders import FAR, border, from_black
from .decode import CorruptImage, image_size
from .images import ImageSet, Splits, spread
from .overlap import SIDE, content_hash, look_alikes, repeats, shared, thumbnail
from .values import find_channels, find_range

logger = logging.getLogger("longtail")

EXAMPLES = 10  # how many of each problem are named
COMPARED = 100_000  # images of a set whose thumbnails are compared with all others: the time grows with the square

Example = tuple[str, str, str]  # key, key, and how alike they are
SAME, ALIKE = "the same bytes as", "looks like"


@dataclass(frozen=True)
class SplitInspection:
    """One split.

    `counts`: images of each class, in label order. `imbalance`: largest over smallest count, None where a class has no
    image. `heights`, `widths`: smallest, median and largest, in pixels, None where nothing is readable. `sizes`: number
    of different sizes; `common_sizes`: (height, width, images) of the commonest.
    `values`: least and largest pixel value, of those of more than 8 bits where there are such, else 0 to 255 as decoded;
    `means`, `deviations`: of each channel of the decoded images, in 0..1; of large JPEGs decoded smaller. `border`: how many
    deviations the images' outermost pixels are from black, see `borders.from_black`.
    `duplicates`: images whose encoded bytes an earlier image of the split has too; `contradictions`: those of them with
    another label than the earlier one; `similar`: images that look like an earlier one and are none of these;
    `duplicate_examples`: keys, earlier and repeated, and how alike. `unreadable`: images that cannot be decoded;
    `unreadable_examples`: which, and why.
    """

    name: str
    images: int
    counts: list[int]
    imbalance: float | None
    heights: tuple[int, int, int] | None
    widths: tuple[int, int, int] | None
    sizes: int
    common_sizes: list[tuple[int, int, int]]
    values: tuple[float, float] | None
    means: list[float]
    deviations: list[float]
    border: float | None
    duplicates: int
    contradictions: int
    similar: int
    duplicate_examples: list[Example]
    unreadable: int
    unreadable_examples: list[str]


@dataclass(frozen=True)
class Overlap:
    """Images of the split `second` that are in the split `first` too: `same`, byte for byte; `similar`, to the eye."""

    first: str
    second: str
    same: int
    similar: int
    examples: list[Example]


@dataclass(frozen=True)
class Inspection:
    """A source. `channels`: 1 (grey) or 3. `shots`: classes and training images of each group, after `Classes.shots`.
    `notes`: what was guessed, left out or put right in reading it."""

    class_names: list[str]
    channels: int
    shots: dict[str, tuple[int, int]]
    train: SplitInspection
    val: SplitInspection | None
    test: SplitInspection | None
    overlaps: list[Overlap]
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON can hold it."""
        return asdict(self)

    @property
    def classes(self) -> Classes:
        """Names and training counts."""
        return Classes(tuple(self.class_names), tuple(self.train.counts))

    def splits(self) -> dict[str, SplitInspection]:
        """Those there are, by "train", "val" and "test"."""
        named = {"train": self.train, "val": self.val, "test": self.test}
        return {name: split for name, split in named.items() if split is not None}


def inspect_source(splits: Splits, progress: Callable[[], object] = lambda: None) -> Inspection:
    """Read and decode every image once, one at a time. `progress` is called after each."""
    sets = splits.named()
    notes = list(splits.notes)
    channels = find_channels(splits.train)[0]
    _scale(list(sets.values()), notes)
    seen = {name: _Seen(images, channels, progress) for name, images in sets.items()}
    found = {name: _inspect(images, seen[name]) for name, images in sets.items()}
    if any(len(images) > COMPARED for images in sets.values()):
        notes.append(f"{COMPARED:,} images of a split, spread over it, were compared by their looks.")
    if found["train"].border is not None and found["train"].border > FAR:
        notes.append(
            f"The images' borders are {found['train'].border:.1f} standard deviations from black: augmentations that pad with "
            "black, as crop:4 in the papers' recipes, do harm here. The defaults mirror the images instead (crop:4:reflect)."
        )
        logger.warning(notes[-1])
    classes = Classes.from_labels(splits.train.class_names, splits.train.labels)
    shots, counts = np.array(classes.shots), np.array(classes.counts)
    return Inspection(
        class_names=list(classes.names),
        channels=channels,
        shots={shot: (int((shots == shot).sum()), int(counts[shots == shot].sum())) for shot in SHOTS},
        train=found["train"],
        val=found.get("val"),
        test=found.get("test"),
        overlaps=[
            _overlap(first, second, sets[first], sets[second], seen[first], seen[second])
            for first, second in combinations(sets, 2)
        ],
        notes=notes,
    )


def _scale(sets: list[ImageSet], notes: list[str]) -> None:
    """Have pixels of more than 8 bits scaled as a training would, by the range of the training images."""
    try:
        value_range = find_range(sets[0])
    except UsageError as error:  # which stops a training
        notes.append(str(error))
        value_range = None
    for images in sets:
        images.value_range = value_range


class _Seen:
    """What was seen of each image: `hashes` int64 [N], 0 where it could not be read; `sizes` [M, 2] of the readable ones;
    `thumbnails` float32 [K, 256] of those at `compared`; `borders` of all; sums over pixels; `unreadable`, which and why."""

    def __init__(self, images: ImageSet, channels: int, progress: Callable[[], object]) -> None:
        self.hashes = np.zeros(len(images), dtype=np.int64)
        self.unreadable: list[str] = []
        self.compared = spread(len(images), COMPARED)
        self.thumbnails = np.zeros((len(self.compared), SIDE * SIDE), np.float32)
        self.borders: list[np.ndarray] = []
        self.low, self.high, self.pixels = 255, 0, 0
        self.sums, self.squares = np.zeros(channels), np.zeros(channels)
        place = {int(i): k for k, i in enumerate(self.compared)}
        sizes = []
        for i in range(len(images)):
            try:
                raw = images.read(i)
                self.hashes[i] = content_hash(raw)
                pixels = images.image(i, channels, at_least=(2 * SIDE, 2 * SIDE))  # the whole file is read even so
                sizes.append(image_size(raw))
            except CorruptImage as error:
                self.unreadable.append(f"{images.key(i)}: {error.__cause__ or error}")
            else:
                self._add(pixels)
                self.borders.append(border(pixels))
                if i in place:
                    self.thumbnails[place[i]] = thumbnail(pixels)
            progress()
        self.sizes = np.array(sizes, dtype=np.int64).reshape(-1, 2)

    def _add(self, pixels: np.ndarray) -> None:
        flat = pixels.reshape(-1, pixels.shape[2]).astype(np.float32) / 255
        self.low, self.high = min(self.low, int(pixels.min())), max(self.high, int(pixels.max()))
        self.pixels += len(flat)
        self.sums += flat.sum(axis=0, dtype=np.float64)
        self.squares += np.square(flat).sum(axis=0, dtype=np.float64)

    def statistics(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each channel, in 0..1."""
        if not self.pixels:
            return [], []
        means = self.sums / self.pixels
        deviations = np.sqrt(np.maximum(self.squares / self.pixels - means**2, 0))
        return means.round(4).tolist(), deviations.round(4).tolist()


def _inspect(images: ImageSet, seen: _Seen) -> SplitInspection:
    counts = np.bincount(images.labels, minlength=len(images.class_names))
    distinct, frequency = np.unique(seen.sizes, axis=0, return_counts=True)
    commonest = np.argsort(-frequency, kind="stable")[:EXAMPLES]
    same = repeats(seen.hashes)
    alike = seen.compared[look_alikes(seen.thumbnails)]
    alike = alike[seen.hashes[alike[:, 0]] != seen.hashes[alike[:, 1]]]
    means, deviations = seen.statistics()
    return SplitInspection(
        name=images.name,
        images=len(images),
        counts=counts.tolist(),
        imbalance=float(counts.max() / counts.min()) if counts.min() else None,
        heights=_spread(seen.sizes[:, 0]),
        widths=_spread(seen.sizes[:, 1]),
        sizes=len(distinct),
        common_sizes=[(int(distinct[k, 0]), int(distinct[k, 1]), int(frequency[k])) for k in commonest],
        values=images.value_range or ((seen.low, seen.high) if seen.pixels else None),
        means=means,
        deviations=deviations,
        border=from_black(seen.borders, deviations) if seen.borders else None,
        duplicates=len(same),
        contradictions=int((images.labels[same[:, 0]] != images.labels[same[:, 1]]).sum()),
        similar=len(alike),
        duplicate_examples=_examples(same, alike, images, images),
        unreadable=len(seen.unreadable),
        unreadable_examples=seen.unreadable[:EXAMPLES],
    )


def _overlap(first: str, second: str, ours: ImageSet, theirs: ImageSet, our: _Seen, their: _Seen) -> Overlap:
    same = shared(our.hashes, their.hashes)
    alike = look_alikes(our.thumbnails, their.thumbnails)
    alike = np.stack([our.compared[alike[:, 0]], their.compared[alike[:, 1]]], axis=1)
    alike = alike[~np.isin(alike[:, 1], same[:, 1])]
    return Overlap(first, second, len(same), len(alike), _examples(same, alike, ours, theirs))


def _examples(same: np.ndarray, alike: np.ndarray, first: ImageSet, second: ImageSet) -> list[Example]:
    return [
        (first.key(int(a)), second.key(int(b)), how)
        for pairs, how in ((same, SAME), (alike, ALIKE))
        for a, b in pairs[:EXAMPLES]
    ]


def _spread(values: np.ndarray) -> tuple[int, int, int] | None:
    return (int(values.min()), int(np.median(values)), int(values.max())) if len(values) else None
