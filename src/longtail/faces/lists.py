"""Lists of face pairs: LFW's `pairs.txt`, the field's `.bin` sets, and the lists of IJB-B and IJB-C."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data.images import ImageSet
from ..data.pickles import Array, load_pickle
from ..data.sources.parquet import ParquetSet
from ..data.sources.text import read_text
from ..errors import LongtailError, UsageError, brief

_NUMBER = re.compile(r"[0-9]{1,9}")
_NUMBERED = re.compile(r"(.+)[_ -]([0-9]{1,9})")


@dataclass(frozen=True)
class Pairs:
    """P pairs of images. `left`, `right`: int64 [P], positions in an image set. `same`: bool [P], whether both show one
    person. `folds`: int64 [P], counted from 0."""

    left: np.ndarray
    right: np.ndarray
    same: np.ndarray
    folds: np.ndarray

    def __len__(self) -> int:
        return len(self.same)


def pair_names(images: ImageSet) -> list[str]:
    """What a list of pairs calls each image ("Person_Name_0001"): its file's name without the suffix, or in parquet
    files its `name`."""
    if isinstance(images, ParquetSet):
        return images.names()
    return [Path(images.key(i)).stem for i in range(len(images))]


def read_lfw_pairs(path: Path, names: Sequence[str]) -> Pairs:
    """A pairs file in LFW's format, its images found in `names` ("Person_Name_0001", one for each image of a set).

    The first line holds the number of folds (one if it is left out) and n; each fold then has n lines "name i j" of the
    same person and n lines "name1 i name2 j" of different ones. Raises `UsageError`, naming the line, for anything else
    and for an image that is not in `names`.
    """
    lines = _lines(path)
    counts = [int(field) if _NUMBER.fullmatch(field) else 0 for field in lines[0].split()] if lines else []
    folds, size = counts if len(counts) == 2 else (1, *counts) if len(counts) == 1 else (0, 0)
    if folds < 1 or size < 1:
        found = repr(brief(lines[0])) if lines else "an empty file"
        raise UsageError(f"{path}:1: expected the number of folds and of pairs, such as '10 300'; found {found}")
    if len(lines) - 1 != 2 * folds * size:
        raise UsageError(
            f"{path}: its first line announces {folds} folds of {size} same and {size} different pairs, so "
            f"{2 * folds * size} lines, but {len(lines) - 1} follow"
        )
    positions = {name: i for i, name in enumerate(names)}
    by_number = _by_number(names)
    same = np.tile(np.repeat([True, False], size), folds)
    ends = np.empty((len(same), 2), np.int64)
    for number, (line, is_same) in enumerate(zip(lines[1:], same.tolist(), strict=True), 2):
        fields = line.split("\t") if "\t" in line else line.split()
        if is_same and len(fields) == 3:
            fields.insert(2, fields[0])
        if len(fields) != 4 or not (_NUMBER.fullmatch(fields[1]) and _NUMBER.fullmatch(fields[3])):
            expected = "'name i j'" if is_same else "'name1 i name2 j'"
            raise UsageError(f"{path}:{number}: expected {expected}, found {brief(line)!r}")
        for side in (0, 1):
            person, image = fields[2 * side], int(fields[2 * side + 1])
            name = f"{person}_{image:04d}"
            place = positions.get(name, by_number.get((person, image)))
            if place is None:
                raise UsageError(
                    f"{path}:{number}: image '{brief(name)}' is not among the {len(names)} images given. "
                    "Point to the set that this list belongs to."
                )
            if place < 0:
                raise UsageError(
                    f"{path}:{number}: several images are number {image} of '{brief(person)}', with and without zeros "
                    f"before it, and none is {brief(name)}. Rename them."
                )
            ends[number - 2, side] = place
    return Pairs(ends[:, 0], ends[:, 1], same, np.repeat(np.arange(folds), 2 * size))


def _by_number(names: Sequence[str]) -> dict[tuple[str, int], int]:
    """Positions of names such as "Ann_12", "Ann_012" and "Ann 12" by person and number, -1 for one that several have."""
    found: dict[tuple[str, int], int] = {}
    for i, name in enumerate(names):
        if match := _NUMBERED.fullmatch(name):
            key = match[1], int(match[2])
            found[key] = -1 if key in found else i
    return found


class BinImages(ImageSet):
    """The encoded images of a `.bin` set: image 2 i and image 2 i + 1 are pair i. They have no identities."""

    class_names = ("unknown",)

    def __init__(self, path: Path, encoded: list[bytes]) -> None:
        self.path, self.name, self._encoded = path, f"bin:{path}", encoded
        self.labels = np.zeros(len(encoded), np.int64)

    def key(self, i: int) -> str:
        return f"{self.path.name}#{i}"

    def read(self, i: int) -> bytes:
        return self._encoded[i]


def read_bin(path: Path, folds: int = 10) -> tuple[BinImages, Pairs]:
    """A verification set as InsightFace packs it (lfw.bin, cfp_fp.bin, agedb_30.bin): its images and pairs.

    The file is a pickle of (list of encoded images, list of booleans, or of 0 and 1), with numpy's numbers and arrays of
    bytes too. One that names any other function or class raises `UsageError` before anything of it is run. Pairs fall
    into `folds` consecutive folds of equal size (to one), as in the field's protocol.
    """
    if not path.exists():
        raise UsageError(f"{path} does not exist. Expected a verification set, such as lfw.bin.")
    refused = f"{path} is no verification set"
    hint = "Expected a pickle of (list of encoded images, list of booleans) that names no function and no class."
    try:
        content = load_pickle(path)
    except Exception as error:  # a damaged pickle raises errors of many types
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UsageError(f"{refused}: {brief(reason, 200)}. {hint}") from error
    parts = [_plain(part) for part in content] if isinstance(content, list | tuple) else []
    if [type(part) for part in parts] != [list, list]:
        raise UsageError(f"{refused}: it holds something else. {hint}")
    encoded, same = ([_plain(item) for item in part] for part in parts)
    for kind, part in ((bytes, encoded), (bool, same)):
        for item in part:
            if type(item) is not kind and not (kind is bool and type(item) is int and item in (0, 1)):
                raise UsageError(f"{refused}: it has a {type(item).__name__} where {kind.__name__} belongs. {hint}")
    if len(encoded) != 2 * len(same) or not same:
        raise UsageError(f"{refused}: {len(encoded)} images for {len(same)} pairs. Expected two images for each pair.")
    left = 2 * np.arange(len(same))
    fold = np.concatenate([np.full(len(part), k) for k, part in enumerate(np.array_split(left, folds))])
    return BinImages(path, encoded), Pairs(left, left + 1, np.array(same, bool), fold)


def _plain(item: Any) -> Any:
    """An array of bytes as bytes, of other numbers as a list; anything else as it is."""
    if not isinstance(item, Array) or item.values is None:
        return item
    return item.values.tobytes() if item.values.dtype == np.uint8 else item.values.tolist()


@dataclass(frozen=True)
class Templates:
    """IJB's lists. `images`: N file names; `templates`, `media`: int64 [N], the template and medium of each image.
    `left`, `right`: int64 [P], the template numbers of each pair; `same`: bool [P]."""

    images: tuple[str, ...]
    templates: np.ndarray
    media: np.ndarray
    left: np.ndarray
    right: np.ndarray
    same: np.ndarray


def read_ijb(images: Path, pairs: Path) -> Templates:
    """The official lists of IJB-B and IJB-C: `images` has lines "file template medium" (`ijbc_face_tid_mid.txt`),
    `pairs` lines "template1 template2 label", label 1 for the same person (`ijbc_template_pair_label.txt`).

    Raises `UsageError`, naming the line, for a malformed one, and for a pair of a template that has no image.
    """
    rows = []
    for number, line in enumerate(_lines(images), 1):
        fields = line.split()
        if len(fields) != 3 or not (_NUMBER.fullmatch(fields[1]) and _NUMBER.fullmatch(fields[2])):
            raise UsageError(f"{images}:{number}: expected 'file template medium', found {brief(line)!r}")
        rows.append((fields[0], int(fields[1]), int(fields[2])))
    if not rows:
        raise UsageError(f"{images}: no images in this list. Expected lines 'file template medium'.")
    names, templates, media = zip(*rows, strict=True)
    if not pairs.is_file():
        raise UsageError(f"{pairs} does not exist. Expected a list of 'template1 template2 label'.")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "loadtxt: input contained no data")  # which is told below
            table = np.loadtxt(pairs, np.int64, ndmin=2)  # 15 million lines for IJB-C
    except ValueError as error:
        raise UsageError(
            f"{pairs}: expected lines 'template1 template2 label' of whole numbers: {brief(str(error), 120)}"
        ) from error
    if table.shape[1] != 3 or not np.isin(table[:, 2], (0, 1)).all():
        raise UsageError(f"{pairs}: expected lines 'template1 template2 label' with label 0 or 1")
    known = np.isin(table[:, :2], np.array(templates)).all(1)
    if not known.all():
        row = int(known.argmin())
        raise UsageError(
            f"{pairs}:{row + 1}: templates {table[row, 0]} and {table[row, 1]}: at least one has no image in {images}"
        )
    return Templates(names, np.array(templates), np.array(media), table[:, 0], table[:, 1], table[:, 2] == 1)


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise UsageError(f"{path} does not exist.")
    text = read_text(path).decode().rstrip()
    return [line.rstrip("\r") for line in text.split("\n")] if text else []


def check_disjoint(train: Sequence[str], test: Sequence[str]) -> None:
    """Raise `LongtailError` if a person is in both lists of names: the test would then be of people trained on."""
    if both := sorted(set(train) & set(test)):
        raise LongtailError(
            f"{len(both)} people are in the training set and in the pairs, first '{both[0]}'. Remove them from one."
        )
