"""From what a source says of its images' classes to numbers and names.

A label is a number only where all are written as numbers are ("7", not "07" or "0_7"); otherwise all are names. Classes
are the labels that occur, numbers in ascending order, names sorted. Work on rows is left to Arrow and numpy: there may be
ten million.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...errors import UsageError, brief
from ..images import FileSet, ImageSet
from .splits import Reading, listing

UNLABELLED = -1
_NUMBER = re.compile(r"0|-?[1-9][0-9]{0,17}")
_NO_LABEL = {"", "nan", "na", "n/a", "#n/a", "<na>", "null"}
_FRACTION = re.compile(r"-?[0-9]+\.[0-9]*")
_NOT_LABELLED = re.compile(r"(un-?labell?ed|un-?annotated|no[ _-]?labels?|unsup(ervised)?)(?![a-z])", re.IGNORECASE)
_LISTED = re.compile(r"\[.*\]|\{.*\}")
_LONGEST = 255  # characters of a class name
_JOINTS = ("|", ";", ",", "+", "&", "/", " ")
_INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff"  # spaces of no width, which strip() leaves

Rows = Callable[[np.ndarray], str]  # names some rows of a source for a message: "line 3, line 5 and 7 more"


def rows_named(name: Callable[[int], str], most: int = 3) -> Rows:
    """Rows as `name` calls each, by its position."""

    def named(rows: np.ndarray) -> str:
        more = f" and {len(rows) - most:,} more" if len(rows) > most else ""
        return ", ".join(name(int(row)) for row in rows[:most]) + more

    return named


def tidy(name: str) -> str:
    """A name without white space around it, that of no width included, each letter in its composed form (NFC): what two
    spellings are compared by."""
    return unicodedata.normalize("NFC", name).strip().strip(_INVISIBLE).strip()


def from_strings(values: Any, where: str, rows: Rows, how: Reading) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels int64 [N], -1 where unlabelled, and class names, of `values`: strings, or an Arrow array of them.

    Raises `UsageError`, naming rows, for labels that are none ("", "nan"), for several labels in one, and for numbers
    below -1.
    """
    import pyarrow as pa

    column = pa.array(values, pa.large_string()) if isinstance(values, list) else values
    encoded = column.dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):  # of no chunk
        return np.zeros(0, np.int64), ()
    raw = encoded.dictionary.to_pylist()
    codes = encoded.indices.fill_null(len(raw)).to_numpy(zero_copy_only=False).astype(np.int64)
    written = [tidy(name) for name in raw]

    def where_written(chosen: Callable[[int], bool]) -> np.ndarray:
        """The rows whose value's number in `raw` is chosen."""
        return np.flatnonzero(np.isin(codes, [k for k in range(len(raw)) if chosen(k)]))

    empty = np.flatnonzero(
        (codes == len(raw)) | np.isin(codes, [k for k, w in enumerate(written) if w.lower() in _NO_LABEL])
    )
    if len(empty):
        found = "" if codes[empty[0]] == len(raw) else raw[codes[empty[0]]]
        raise UsageError(no_label(where, rows(empty), found))
    long = where_written(lambda k: len(written[k]) > _LONGEST)
    if len(long):
        raise UsageError(
            f"{where}: {rows(long)}: '{brief(written[codes[long[0]]])}' is no class name; expected up to {_LONGEST} characters."
        )
    broken = where_written(lambda k: "\n" in written[k] or "\r" in written[k])
    if len(broken):
        raise UsageError(f"{where}: {rows(broken)}: a line ends within the label. Is a quotation mark left open?")
    if all(_NUMBER.fullmatch(name) for name in written):
        numbers = np.array([int(name) for name in written], dtype=np.int64)
        return from_numbers(numbers[codes], where, rows)
    _refuse_several(set(written), where, lambda name: rows(where_written(lambda k: written[k] == name)))
    names = sorted(set(written) - {str(UNLABELLED)})
    changed = where_written(lambda k: written[k] != raw[k])
    if len(changed):
        how.tell(
            f"{where}: white space around {len(changed):,} labels, or another Unicode form of the same letters, was put "
            f"right ({rows(changed)}): '{brief(raw[codes[changed[0]]])}' is class '{brief(written[codes[changed[0]]])}'."
        )
    if names and all(_FRACTION.fullmatch(name) for name in names):
        how.tell(
            f"{where}: the labels are numbers with a decimal point ('{names[0]}'), and taken for names of {len(names):,} "
            "classes as they are written, not for measurements."
        )
    if none := [name for name in names if name.lower() == "none"]:
        rows_of = rows(where_written(lambda k: written[k] == none[0]))
        how.tell(f"{where}: the label '{none[0]}' ({rows_of}) is taken for a class of that name.")
    position = {name: c for c, name in enumerate(names)} | {str(UNLABELLED): UNLABELLED}
    return np.array([position[name] for name in written], dtype=np.int64)[codes], tuple(names)


def no_label(where: str, rows: str, found: str = "") -> str:
    what = f"no label but '{found}'" if found.strip() else "no label"
    return f"{where}: {rows}: {what}. Give each image a class, or leave the rows out."


def from_numbers(numbers: np.ndarray, where: str, rows: Rows) -> tuple[np.ndarray, tuple[str, ...]]:
    """As `from_strings`, of integers [N], or floats of whole value: classes are the numbers that occur."""
    whole = as_integers(numbers, where, rows)
    distinct, labels = np.unique(whole, return_inverse=True)
    unlabelled = np.searchsorted(distinct, 0)  # how many of the distinct numbers are below 0
    return labels.reshape(-1) - unlabelled, tuple(str(number) for number in distinct[unlabelled:].tolist())


def as_integers(numbers: np.ndarray, where: str, rows: Rows) -> np.ndarray:
    """`numbers` [N] as int64. Raises `UsageError`, naming rows, for one that is no whole number, below -1, or huge."""
    if numbers.dtype.kind == "f":
        bad = np.flatnonzero(~np.isfinite(numbers))
        if len(bad):
            raise UsageError(no_label(where, rows(bad), str(numbers[bad[0]])))
        bad = np.flatnonzero((numbers != np.floor(numbers)) | (np.abs(numbers) > 2**53))
    elif numbers.dtype.kind == "u":
        bad = np.flatnonzero(numbers > np.iinfo(np.int64).max)
    elif numbers.dtype.kind in "ib":
        bad = np.zeros(0, np.int64)
    else:
        raise UsageError(f"{where}: labels are {numbers.dtype}; expected class numbers or names.")
    if len(bad):
        raise UsageError(f"{where}: {rows(bad)}: label {numbers[bad[0]]} is no class number.")
    whole = numbers.astype(np.int64)
    bad = np.flatnonzero(whole < UNLABELLED)
    if len(bad):
        raise UsageError(
            f"{where}: {rows(bad)}: label {whole[bad[0]]} is out of range. Class numbers are 0 or more, {UNLABELLED} "
            "means unlabelled."
        )
    return whole


def from_one_hot(table: np.ndarray, names: Sequence[str], where: str, rows: Rows) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels and class names of a table [N, C] of zeros and ones, a column for each class.

    Raises `UsageError`, naming rows, where a row has no one, or several.
    """
    ones = (table == 1).sum(axis=1)
    several = np.flatnonzero(ones > 1)
    if len(several):
        raise UsageError(
            f"{where}: {len(several):,} images have several labels ({rows(several)}). Multi-label data is not supported: "
            "give each image one class."
        )
    empty = np.flatnonzero(ones == 0)
    if len(empty):
        raise UsageError(no_label(where, rows(empty)))
    return (table == 1).argmax(axis=1).astype(np.int64), tuple(names)


def _refuse_several(names: set[str], where: str, rows: Callable[[str], str]) -> None:
    """Raise `UsageError` where a label is several: "a|b", or "a, b" where "a" and "b" are labels too."""
    for name in sorted(names):
        if _LISTED.fullmatch(name):
            raise UsageError(
                f"{where}: the label '{brief(name)}' ({rows(name)}) is a list. Multi-label data is not supported: give each "
                "image one class, by its name."
            )
        for joint in _JOINTS:
            parts = [part.strip() for part in name.split(joint)]
            if len(parts) > 1 and (joint == "|" or names.issuperset(parts)):
                raise UsageError(
                    f"{where}: the label '{brief(name)}' ({rows(name)}) looks like several. Multi-label data is not "
                    f"supported: give each image one class, or, if it is one class's name, write it without '{joint}'."
                )


def settle(images: ImageSet, how: Reading) -> ImageSet:
    """`images` as a training set: class names tidy and without two alike, those without images and images without a
    label left out, each told. Raises `UsageError` where two names are one, and for labels out of range."""
    names = tuple(tidy(name) for name in images.class_names)
    _refuse_alike(images.name, images.class_names, names)
    images.class_names = names
    images = _labelled(images, how)
    used = np.zeros(len(names), bool)
    used[images.labels] = True
    if not used.all() and len(images):
        unused = [name for name, has in zip(names, used, strict=True) if not has]
        how.tell(
            f"{images.name}: {len(unused):,} of its {len(names):,} classes have no image and are left out: {listing(unused)}."
        )
        images.labels = (np.cumsum(used) - 1)[images.labels]
        images.class_names = tuple(name for name, has in zip(names, used, strict=True) if has)
    _check_names(images, how)
    _tell_of_case(images, how)
    _tell_of_gaps(images, how)
    return images


def _refuse_alike(where: str, written: Sequence[str], names: Sequence[str]) -> None:
    first: dict[str, int] = {}
    for c, name in enumerate(names):
        if name in first:
            same = f"'{brief(written[c])}' twice" if written[c] == written[first[name]] else (
                f"{brief(written[first[name]])!a} and {brief(written[c])!a}, which are one name in two forms"
            )  # fmt: skip
            raise UsageError(
                f"{where}: its class names have {same} (classes {first[name]} and {c}). Give each class a name of its own."
            )
        first[name] = c


def _labelled(images: ImageSet, how: Reading) -> ImageSet:
    """Those of `images` that have a label. Raises `UsageError`, naming an image, for one out of range."""
    outside = np.flatnonzero((images.labels < UNLABELLED) | (images.labels >= len(images.class_names)))
    if len(outside):
        i = int(outside[0])
        last = len(images.class_names) - 1
        expected = f"expected 0 to {last}" if last >= 0 else "it has no classes"
        raise UsageError(
            f"{images.name}: label {images.labels[i]} of image {images.place(i)} is out of range; {expected} "
            f"(images with such a label: {len(outside):,})."
        )
    labelled = np.flatnonzero(images.labels != UNLABELLED)
    if len(labelled) == len(images):
        return images
    unlabelled = _rows_of(images, images.labels == UNLABELLED)
    how.tell(
        f"{images.name}: {len(images) - len(labelled):,} of {len(images):,} images have label {UNLABELLED}, unlabelled, "
        f"and are left out: {unlabelled}."
    )
    if not len(labelled):
        raise UsageError(
            f"{images.name}: none of its {len(images):,} images has a label ({UNLABELLED} means unlabelled)."
        )
    name, images = images.name, images.select(labelled)
    images.name = name
    return images


def _check_names(images: ImageSet, how: Reading) -> None:
    """Raise `UsageError` for a class without a name, and tell of names that often stand for none."""
    for c, name in enumerate(images.class_names):
        if name.lower() in _NO_LABEL:
            rows = _rows_of(images, images.labels == c)
            if not name:
                raise UsageError(f"{images.name}: a class has no name ({rows}). Give it one.")
            how.tell(f"{images.name}: '{name}' ({rows}) is taken for a class of that name, not for a missing label.")
        elif _NOT_LABELLED.match(name):
            how.tell(
                f"{images.name}: '{brief(name)}' ({_rows_of(images, images.labels == c)}) is taken for a class of that name. "
                "If its images have no label, move them elsewhere, or leave the rows out."
            )


def check_repeats(images: FileSet, how: Reading) -> None:
    """Tell of files that a table names more than once. Raises `UsageError` where they are of several classes there."""
    import pyarrow.compute as pc

    paths = images.paths.array
    if pc.count_distinct(paths).as_py() == len(paths):
        return
    codes = np.asarray(paths.dictionary_encode().indices)
    order = np.argsort(codes, kind="stable")
    again = np.diff(codes[order]) == 0
    several = order[1:][again & (np.diff(images.labels[order]) != 0)]
    if len(several):
        raise UsageError(
            f"{images.name}: {len(several):,} images are named again with another label, {brief(images.key(int(several[0])))} "
            f"({rows_named(images.place)(several)}). Multi-label data is not supported: give each image one class."
        )
    rows = rows_named(images.place)(np.sort(order[1:][again]))
    how.tell(f"{images.name}: {int(again.sum()):,} rows name an image that another row names too ({rows}).")


def _rows_of(images: ImageSet, chosen: np.ndarray) -> str:
    """Where the source speaks of those images for which `chosen`, bool [N], is true."""
    return rows_named(images.place)(np.flatnonzero(chosen))


def _tell_of_case(images: ImageSet, how: Reading, most: int = 3) -> None:
    by_form: dict[str, int] = {}
    pairs = []
    for c, name in enumerate(images.class_names):
        if (first := by_form.setdefault(name.casefold(), c)) != c:
            pairs.append((first, c))
    for pair in pairs[:most]:
        one, other = (f"'{brief(images.class_names[c])}' ({_rows_of(images, images.labels == c)})" for c in pair)
        how.tell(
            f"{images.name}: {one} and {other} differ in upper and lower case only, and are taken for two classes."
        )
    if len(pairs) > most:
        how.tell(f"{images.name}: so do {len(pairs) - most:,} further pairs of class names.")


def _tell_of_gaps(images: ImageSet, how: Reading) -> None:
    names = images.class_names
    if not names or not all(_NUMBER.fullmatch(name) for name in names):
        return
    numbers = {int(name) for name in names}
    low, high = min(numbers), max(numbers)
    if high - low + 1 > len(numbers):
        absent = [str(n) for n in range(low, min(high, low + 10_000)) if n not in numbers]
        how.tell(
            f"{images.name}: class numbers from {low} to {high} of which {high - low + 1 - len(numbers):,} have no image "
            f"({listing(absent)}): its classes are the {len(numbers):,} that occur."
        )


def match_classes(images: ImageSet, class_names: tuple[str, ...], whose: str, how: Reading | None = None) -> ImageSet:
    """`images` with labels renumbered by the order of `class_names`, which belong to `whose` ("photos (train)").

    Matched by name; numbers also where one side writes them with zeros before ("007" and "7"). Images without a label
    are left out. Raises `UsageError` where a class of the images is not among the names.
    """
    how = how or Reading()
    names = tuple(tidy(name) for name in images.class_names)
    _refuse_alike(images.name, images.class_names, names)
    images = _labelled(images, how)
    position = {name: c for c, name in enumerate(class_names)}
    used = np.zeros(len(names), bool)
    used[images.labels] = True
    needed = [name for name, has in zip(names, used, strict=True) if has]
    padded = _by_value(class_names)
    if (
        any(name not in position for name in needed)
        and padded is not None
        and _by_value(needed) is not None
        and all(int(name) in padded for name in needed)
    ):
        position |= {name: padded[int(name)] for name in needed}
        how.tell(
            f"{images.name}: its class numbers are written otherwise than those of {whose} ('{needed[0]}' is class "
            f"'{class_names[position[needed[0]]]}') and matched by value."
        )
    unknown = [name for name in needed if name not in position]
    if unknown:
        alike = {name.casefold(): name for name in class_names}.get(unknown[0].casefold())
        rows = _rows_of(images, images.labels == names.index(unknown[0]))
        hint = f" '{alike}' is, which differs in upper and lower case." if alike else ""
        raise UsageError(
            f"Class '{brief(unknown[0])}' of {images.name} is not a class of {whose} ({rows}; {len(unknown):,} of "
            f"{len(needed):,} classes are not).{hint} Both need the same class names."
        )
    images.labels = np.array([position.get(name, 0) for name in names], dtype=np.int64)[images.labels]
    images.class_names = class_names
    return images


def _by_value(names: Sequence[str]) -> dict[int, int] | None:
    """Position by number, where all names are numbers, no two the same."""
    if not all(re.fullmatch(r"[0-9]{1,18}", name) for name in names):
        return None
    values = {int(name): c for c, name in enumerate(names)}
    return values if len(values) == len(names) else None
