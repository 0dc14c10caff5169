"""Text files that name images and their labels: the official long-tail lists, and CSV."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import UsageError, brief
from ..images import FileSet, ImageSet
from .columns import IMAGE, LABEL, in_folders, in_splits, no_columns, one_hot, pick, pick_label, split_column
from .labels import check_repeats, from_one_hot, from_strings, rows_named
from .splits import Reading, listing
from .text import Table, lines_of, located, read_lines

# A path, which may hold spaces, and a number, "-5" and "0_1" included so that these are told from a missing one.
_SPACED = r"^\s*(?P<path>.*\S)[ \t]+(?P<label>[-+]?[0-9][0-9_.]*)\s*$"
_COMMAS = r"^\s*(?P<path>.*?[^\s,])\s*,\s*(?P<label>[-+]?[0-9][0-9_.]*)\s*(?:,\s*(?P<more>[-+]?[0-9][0-9_.]*)\s*)?$"


def open_list(location: str, how: Reading) -> dict[str, ImageSet]:
    """Lines of `relative/path label`, or `relative/path, label` with a coarser label behind it or without.

    The label is the last word, a class number; paths may contain spaces.
    """
    import pyarrow.compute as pc

    file = Path(location)
    numbers, lines = _written(file)
    if not len(lines):
        raise UsageError(f"{file} names no image.")
    commas = pc.match_substring_regex(lines[:1], _COMMAS)[0].as_py()
    fields = pc.extract_regex(lines, _COMMAS if commas else _SPACED)
    form = "'relative/path, label'" if commas else "'relative/path label'"
    name = f"list:{file}"
    rows = rows_named(lambda row: f"line {numbers[row]}")
    bad = np.flatnonzero(fields.is_null().to_numpy(zero_copy_only=False))
    if len(bad):
        line = lines[int(bad[0])].as_py().strip()
        raise UsageError(
            f"{file}: {rows(bad)}: no label in '{brief(line)}'; expected {form}, the label a class number."
        )
    labels = pc.struct_field(fields, "label")
    if commas and pc.any(pc.not_equal(pc.struct_field(fields, "more"), "")).as_py():
        how.tell(f"{name}: two labels in each line, of which the first is taken.")
    codes, class_names = from_strings(labels, name, rows, how)
    _check_numbers(class_names, codes, name, rows)
    root, paths = located(file, how, pc.struct_field(fields, "path"))
    images = FileSet(name, class_names, codes, root, paths, partial(_line_of_list, file))
    check_repeats(images, how)
    return in_folders(images, images.paths.array, name, how)


def _written(file: Path) -> tuple[np.ndarray, Any]:
    """The lines of a text that are not blank, and their numbers, from 1."""
    import pyarrow.compute as pc

    lines = lines_of(read_lines(file))
    kept = np.flatnonzero(pc.not_equal(pc.utf8_trim_whitespace(lines), "").to_numpy(zero_copy_only=False))
    return kept + 1, lines.take(kept)


# Which line an image is from, for the few that a message names: the file is read again, not kept.


def _line_of_list(file: Path, row: int) -> str:
    return f"line {_written(file)[0][row]}"


def _line_of_table(file: Path, row: int) -> str:
    return Table(file).line(row)


def _check_numbers(class_names: tuple[str, ...], codes: np.ndarray, where: str, rows: Any) -> None:
    for c, name in enumerate(class_names):
        if not (name.isascii() and name.isdigit()):
            at = np.flatnonzero(codes == c)
            raise UsageError(f"{where}: {rows(at)}: label '{name}' is no class number. Expected 0, 1, 2 and so on.")


def open_csv(location: str, how: Reading) -> dict[str, ImageSet]:
    """A table with a header: a column of paths, and one of labels or one of zeros and ones for each class.

    The columns are found by their usual names (see `columns`), or named by `how`. Commas, semicolons or tabs separate
    them. A column `split` says which rows are for training, for validation and for testing.
    """
    table = Table(Path(location))
    where = f"csv:{table.file}"
    image = pick(table.columns, how.image_column, IMAGE, "image-column", where)
    label = pick_label(table.columns, how.label_column, LABEL, where, how, table.column)
    split = split_column(table.columns, image, label, how)
    others = [column for column in table.columns if column not in (image, split)]
    if label is None and image is not None and len(others) == 1:
        label = others[0]
        how.tell(f"{where}: column '{label}' is taken for the labels.")
    encoded = None
    if label is None and image is not None:
        encoded = one_hot(others, table.column)
    if image is None or (label is None and encoded is None):
        raise no_columns(where, table.columns, image, label or (encoded and "one-hot"))
    wanted = [column for column in (image, label, split) if column is not None]
    columns = dict(zip(wanted, table.read(wanted), strict=True))
    rows = rows_named(table.line)
    _check_paths(columns[image], image, where, rows)
    if label is None and encoded is not None:
        names, ones = encoded
        how.tell(f"{where}: the columns {listing(names)} of zeros and ones are taken for the labels.")
        labels, class_names = from_one_hot(ones, names, where, rows)
    else:
        assert label is not None
        labels, class_names = from_strings(columns[label], where, rows, how)
    root, paths = located(table.file, how, columns[image])
    images = FileSet(where, class_names, labels, root, paths, partial(_line_of_table, table.file))
    check_repeats(images, how)
    if split is not None:
        return in_splits(images, split, columns[split], where, how)
    return in_folders(images, images.paths.array, where, how)


def _check_paths(paths: Any, column: str, where: str, rows: Any) -> None:
    import pyarrow.compute as pc

    empty = np.flatnonzero(pc.equal(pc.utf8_trim_whitespace(paths), "").to_numpy(zero_copy_only=False))
    if len(empty):
        raise UsageError(f"{where}: {rows(empty)}: no {column}. Give each row its image.")
