"""A set of labelled images: metadata in memory, pixels on demand."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..errors import UsageError, brief
from ..files import open_regular
from .decode import CorruptImage, Range, decode


class ImageSet(ABC):
    """N images with integer labels. Subclasses say where the bytes are.

    `name`: what messages call this set, for instance "cifar10:/data/cifar-10-batches-py (train)".
    `class_names`: C strings. `labels`: int64 [N], each in 0..C-1.
    """

    value_range: Range | None = None  # what `image` scales pixels of more than 8 bits by, see `decode`

    def __init__(self, name: str, class_names: Sequence[str], labels: Sequence[int] | np.ndarray) -> None:
        self.name = name
        self.class_names = tuple(class_names)
        self.labels = np.asarray(labels, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def key(self, i: int) -> str:
        """The stable name of image `i`, for messages and reports: a relative path, or "train.parquet#12"."""

    def place(self, i: int) -> str:
        """Where to look in the source for what it says of image `i`: the row of a table, else its key."""
        return self.key(i)

    @abstractmethod
    def read(self, i: int) -> bytes | np.ndarray:
        """Image `i`: the encoded file's bytes, or numbers [H, W] or [H, W, C] where the source holds plain arrays.

        Raises `CorruptImage` where the file cannot be read.
        """

    def file(self, i: int) -> BinaryIO | np.ndarray:
        """Image `i` to look at its header, without reading the whole of it where that can be."""
        raw = self.read(i)
        return BytesIO(raw) if isinstance(raw, bytes) else raw

    def sizes(self, positions: np.ndarray) -> np.ndarray | None:
        """Bytes of the images at `positions`, int64, 0 for one that is missing; None where that takes reading them."""
        return None

    def image(self, i: int, channels: int, at_least: tuple[int, int] | None = None) -> np.ndarray:
        """Image `i` decoded to uint8 [H, W, channels]: `decode`, with errors that name the image."""
        try:
            return decode(self.read(i), channels, at_least, self.value_range)
        except CorruptImage as error:
            raise CorruptImage(f"{self.name}: cannot read image {brief(self.key(i), 200)}: {error}.") from error

    def select(self, indices: Sequence[int] | np.ndarray) -> ImageSet:
        """The images at `indices`, in that order, without copying pixels."""
        return Selection(self, np.asarray(indices, dtype=np.int64))


class Selection(ImageSet):
    """Some of another set's images."""

    def __init__(self, base: ImageSet, indices: np.ndarray) -> None:
        super().__init__(base.name, base.class_names, base.labels[indices])
        self.base, self.indices = base, indices

    def key(self, i: int) -> str:
        return self.base.key(int(self.indices[i]))

    def place(self, i: int) -> str:
        return self.base.place(int(self.indices[i]))

    def read(self, i: int) -> bytes | np.ndarray:
        return self.base.read(int(self.indices[i]))

    def file(self, i: int) -> BinaryIO | np.ndarray:
        return self.base.file(int(self.indices[i]))

    def sizes(self, positions: np.ndarray) -> np.ndarray | None:
        return self.base.sizes(self.indices[positions])


class Strings(Sequence[str]):
    """Millions of strings in Arrow's memory: a fifth of what as many Python strings take, and shared by forked workers."""

    def __init__(self, array: Any) -> None:
        self.array = array

    @classmethod
    def of(cls, strings: Sequence[str]) -> Strings:
        """Raises `UsageError` for one that is not UTF-8."""
        import pyarrow as pa

        try:
            return cls(pa.array(strings, pa.large_string()))
        except UnicodeEncodeError:
            check_utf8(strings)
            raise

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, i: Any) -> Any:
        return Strings(self.array[i]) if isinstance(i, slice) else self.array[i].as_py()

    def __iter__(self) -> Iterator[str]:
        return iter(self.array.to_pylist())


def check_utf8(texts: Iterable[str]) -> None:
    """Raise `UsageError` for a name that is not UTF-8."""
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise UsageError(f"The name {os.fsencode(text)!r} is not UTF-8: rename it.") from None


class FileSet(ImageSet):
    """Image files under one folder. `paths` are relative to `root`; `row` says which row of a table names an image."""

    def __init__(
        self,
        name: str,
        class_names: Sequence[str],
        labels: Sequence[int] | np.ndarray,
        root: Path,
        paths: Sequence[str],
        row: Callable[[int], str] | None = None,
    ) -> None:
        """Raises `UsageError` for a name that is not UTF-8, as the names in a run's files must be."""
        check_utf8((name, *class_names))
        super().__init__(name, class_names, labels)
        self.root, self.paths = root, paths if isinstance(paths, Strings) else Strings.of(paths)
        self.row = row

    def key(self, i: int) -> str:
        return self.paths[i]

    def place(self, i: int) -> str:
        return self.row(i) if self.row is not None else self.key(i)

    def read(self, i: int) -> bytes:
        return read_file(self.root / self.paths[i])

    def file(self, i: int) -> BinaryIO:
        return open_regular(self.root / self.paths[i])

    def sizes(self, positions: np.ndarray) -> np.ndarray:
        def size(path: str) -> int:
            try:
                return os.stat(os.path.join(root, path)).st_size
            except (OSError, ValueError):
                return 0

        root = str(self.root)
        return np.array([size(self.paths[int(i)]) for i in positions], dtype=np.int64)


class ArraySet(ImageSet):
    """Images of one size in one array, numbers [N, H, W] or [N, H, W, C]. `prefix` starts their keys: "train#12"."""

    def __init__(
        self,
        name: str,
        class_names: Sequence[str],
        labels: Sequence[int] | np.ndarray,
        images: np.ndarray,
        prefix: str,
    ) -> None:
        super().__init__(name, class_names, labels)
        self.images, self.prefix = images, prefix

    def key(self, i: int) -> str:
        return f"{self.prefix}#{i}"

    def read(self, i: int) -> np.ndarray:
        return self.images[i]


@dataclass(frozen=True)
class Splits:
    """What a source offers: always a training set, and a test and a validation set where the source has them.

    `notes`: what was guessed, left out or put right in reading it, a sentence or two each.
    """

    train: ImageSet
    test: ImageSet | None = None
    val: ImageSet | None = None
    notes: tuple[str, ...] = ()

    @property
    def to_score(self) -> ImageSet:
        """Where another model's images are asked for: those of the test split, else of the validation split, else all."""
        return self.test or self.val or self.train

    def named(self) -> dict[str, ImageSet]:
        """The sets there are, by "train", "val" and "test"."""
        sets = {"train": self.train, "val": self.val, "test": self.test}
        return {name: images for name, images in sets.items() if images is not None}


def read_file(path: Path) -> bytes:
    """The bytes of an image file. Raises `CorruptImage` where it is missing, no regular file, or cannot be read."""
    try:
        with open_regular(path) as file:
            return file.read()
    except OSError as error:
        raise CorruptImage(f"{error.strerror or error} ({brief(str(path), 200)})") from error


def spread(count: int, most: int) -> np.ndarray:
    """Up to `most` positions, evenly over 0 to count - 1."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64)) if count else np.zeros(0, np.int64)
