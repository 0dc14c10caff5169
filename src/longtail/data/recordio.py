"""InsightFace's training sets: a RecordIO file (`train.rec`) with its index (`train.idx`), read without MXNet.

A record is the magic number, a word whose upper 3 bits say which part of a record this is and whose lower 29 bits are a
length, and the data, padded to 4 bytes; all words are little-endian. Data that contains the magic number is cut there
into several parts. The data of an image is a 24-byte header (flag, label, two ids; with flag > 0 that many float32
labels follow) and the encoded image. The index has a line "key <tab> offset" for each record.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..errors import UsageError
from .decode import CorruptImage
from .images import ImageSet

_MAGIC = 0xCED7230A
_WORDS = struct.Struct("<II")
_HEADER = struct.Struct("<IfQQ")
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)
_LARGEST = 2.0**53  # whole numbers up to here are exact as floating-point ones
_CHUNK = 65_536  # records looked at together
_OPENING = np.dtype(
    [("magic", "<u4"), ("word", "<u4"), ("flag", "<u4"), ("label", "<f4"), ("ids", "<u8", 2), ("more", "<f4", 2)]
)


class RecordIO(ImageSet):
    """The images of `path` (a `.rec` file, with its `.idx` beside it), labelled with identities.

    The numbers that label identities in the file become class names; labels count them from 0 in ascending order.
    Opening reads the start of every record, so that an index that does not belong to the file is found then. Raises
    `UsageError` for missing files and such an index; `read` raises `CorruptImage` for a corrupt record.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, f"recordio:{path}"
        keys, offsets = _read_index(path)
        openings = self._read_openings(keys, offsets)
        if keys[0] == 0 and openings["flag"][0] > 0:
            # InsightFace's record 0 is no image: it says that records 1 .. n - 1 are. Those after describe identities.
            count = float(openings["more"][0, 0])
            if not (1 <= count < _LARGEST and count == int(count)):
                raise UsageError(
                    f"{path}: record 0 announces {count - 1:g} images. The file is damaged: copy it again."
                )
            end = int(count)
            images = slice(1, np.searchsorted(keys, end))
            if missing := end - 1 - len(keys[images]):
                raise UsageError(
                    f"{path}: record 0 announces {end - 1} images, but {path.with_suffix('.idx')} lacks {missing} of "
                    "them. Use the index that was made with this file."
                )
            keys, offsets, openings = keys[images], offsets[images], openings[images]
        if not len(keys):
            raise UsageError(f"{path}: no images in this file. Expected at least one record with an image.")
        identities = np.where(openings["flag"] > 0, openings["more"][:, 0], openings["label"])
        bad = np.flatnonzero(~((identities >= 0) & (identities < _LARGEST) & (identities == np.floor(identities))))
        if len(bad):
            raise UsageError(
                f"{path}: record {keys[bad[0]]} has label {identities[bad[0]]:g}. Expected an identity's number, "
                "0 or more."
            )
        numbers, self.labels = np.unique(identities.astype(np.int64), return_inverse=True)
        self.class_names = tuple(str(number) for number in numbers)
        self._keys, self._offsets = keys, offsets

    def _read_openings(self, keys: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """The first words of each record, after checking that a record of sensible length begins there."""
        size = self.path.stat().st_size
        outside = np.flatnonzero((offsets < 0) | (offsets > size - _WORDS.size - _HEADER.size))
        if len(outside):
            raise self._disagrees(keys[outside[0]], offsets[outside[0]], f"the file ends at byte {size:,}")
        openings = np.empty(len(keys), _OPENING)
        data = np.memmap(self.path, np.uint8, "r")
        for start in range(0, len(keys), _CHUNK):
            places = offsets[start : start + _CHUNK, None] + np.arange(_OPENING.itemsize)
            openings[start : start + _CHUNK] = data[np.minimum(places, size - 1)].view(_OPENING)[:, 0]
        strangers = np.flatnonzero(openings["magic"] != _MAGIC)
        if len(strangers):
            raise self._disagrees(keys[strangers[0]], offsets[strangers[0]], "no record begins there")
        ends = offsets + _WORDS.size + (openings["word"] & (2**29 - 1))
        outside = np.flatnonzero(ends > size)
        if len(outside):
            i = outside[0]
            raise UsageError(
                f"{self.path}: record {keys[i]} at byte {offsets[i]:,} would end at byte {ends[i]:,}, but the file "
                f"ends at byte {size:,}. The file was cut short: copy it again."
            )
        return openings

    def _disagrees(self, key: int, offset: int, found: str) -> UsageError:
        index = self.path.with_suffix(".idx")
        return UsageError(
            f"{index} disagrees with {self.path}: it puts record {key} at byte {offset:,}, but {found}. "
            "Use the index that was made with this file."
        )

    def key(self, i: int) -> str:
        return f"{self.path.name}#{self._keys[i]}"

    def read(self, i: int) -> bytes:
        offset = int(self._offsets[i])
        try:
            # Opened anew: worker processes share no file position, and decoding costs a hundred times more.
            with self.path.open("rb") as file:
                file.seek(offset)
                data = _read_record(file)
            flag = _HEADER.unpack_from(data)[0]
        except (OSError, ValueError, struct.error) as error:
            reason = getattr(error, "strerror", None) or error
            raise CorruptImage(f"record {self._keys[i]} at byte {offset:,} is corrupt: {reason}") from error
        return data[_HEADER.size + 4 * flag :]


def _read_index(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Keys and offsets of the index beside `path`, both int64 [N], by ascending key."""
    index = path.with_suffix(".idx")
    for file in (path, index):
        if not file.is_file() or not file.stat().st_size:
            raise UsageError(f"{file} is missing or empty. A RecordIO set needs a .rec file and its .idx beside it.")
    try:
        table = np.loadtxt(index, np.int64, ndmin=2)
    except (ValueError, OverflowError) as error:
        raise UsageError(f"{index}: expected lines 'key<tab>offset' of two whole numbers: {error}") from error
    if table.shape[1] != 2:
        raise UsageError(f"{index}: expected lines 'key<tab>offset', found {table.shape[1]} numbers in each line")
    keys, places, times = np.unique(table[:, 0], return_index=True, return_counts=True)
    if len(keys) < len(table):
        raise UsageError(f"{index}: key {keys[times.argmax()]} has {times.max()} lines. Expected one for each record.")
    return keys, table[places, 1]


def _read_record(file: BinaryIO) -> bytes:
    """The data of the record that begins at the file's position, its parts joined. Raises `ValueError`."""
    parts = []
    expected = (_WHOLE, _FIRST)
    while True:
        words = file.read(_WORDS.size)
        if len(words) < _WORDS.size:
            raise ValueError("the file ends within it")
        magic, word = _WORDS.unpack(words)
        part, length = word >> 29, word & (2**29 - 1)
        if magic != _MAGIC or part not in expected:
            raise ValueError("its parts do not follow each other")
        data = file.read(length)
        if len(data) < length:
            raise ValueError("the file ends within it")
        parts.append(data)
        if part in (_WHOLE, _LAST):
            return struct.pack("<I", _MAGIC).join(parts)
        file.seek(-length % 4, 1)
        expected = (_MIDDLE, _LAST)


def write_recordio(path: Path, images: Iterable[tuple[bytes, int]]) -> None:
    """Write encoded images and their identities' numbers to `path` (.rec) and its .idx, as InsightFace lays them out.

    Meant for small sets: it is held in memory.
    """
    images = list(images)
    identities = sorted({label for _, label in images})
    count = 1 + len(images)
    records = [_HEADER.pack(2, 0.0, 0, 0) + struct.pack("<2f", count, count + len(identities))]
    records += [_HEADER.pack(0, label, key, 0) + data for key, (data, label) in enumerate(images, 1)]
    for key, identity in enumerate(identities, count):
        members = [i for i, (_, label) in enumerate(images, 1) if label == identity]
        records.append(_HEADER.pack(2, 0.0, key, 0) + struct.pack("<2f", members[0], members[-1] + 1))
    offsets = []
    with path.open("wb") as file:
        for record in records:
            offsets.append(file.tell())
            _write_record(file, record)
    path.with_suffix(".idx").write_text("".join(f"{key}\t{offset}\n" for key, offset in enumerate(offsets)))


def _write_record(file: BinaryIO, data: bytes) -> None:
    magic = struct.pack("<I", _MAGIC)
    cuts = [at for at in range(0, len(data) - 3, 4) if data[at : at + 4] == magic]
    starts, ends = [0, *(at + 4 for at in cuts)], [*cuts, len(data)]
    for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
        part = _WHOLE if not cuts else _FIRST if number == 0 else _LAST if number == len(cuts) else _MIDDLE
        file.write(_WORDS.pack(_MAGIC, part << 29 | end - start) + data[start:end] + bytes((start - end) % 4))
