"""Parquet files that follow Hugging Face's image convention.

The image column is a struct of `bytes` and `path`; the label column holds integers, with the class names in the
schema's `huggingface` metadata, or class names. Where no column is called `image` or `label`, the metadata says which
to take.
"""

from __future__ import annotations

import glob
import json
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...errors import UsageError, brief
from ...files import check_regular
from ..images import ImageSet, read_file
from .columns import LABEL, in_splits, no_columns, pick, pick_label, split_column
from .labels import Rows, as_integers, from_numbers, from_strings, no_label, rows_named
from .splits import Reading, of_role, roles_of, split_name, titled


def open_parquet(location: str, how: Reading) -> dict[str, ImageSet]:
    """One file, a pattern, or a folder. A split is the files with its name in theirs, or in their folder's; or the rows
    that a column `split` says."""
    path = Path(location)
    files = sorted(path.rglob("*.parquet") if path.is_dir() else map(Path, glob.glob(str(path), recursive=True)))
    if not files:
        raise UsageError(f"No parquet file at {path}.")
    where = f"parquet:{path}"
    named = {file: split_name(file, path) for file in files}
    roles = roles_of(named.values(), how, where) if len(files) > 1 else {}
    if roles:
        return {
            role: ParquetSet(titled(where, role, names), [f for f in files if named[f] in names], how)
            for role in dict.fromkeys(roles.values())
            if (names := of_role(roles, role))
        }
    images = ParquetSet(where, files, how)
    column = split_column(images.columns, images.image_column, images.label_column, how)
    return in_splits(images, column, images.texts(column) if column else None, where, how)


class _Rows(NamedTuple):
    """Arrow struct arrays; the position in the set of the first row of each; the file it is from, and its row there."""

    arrays: list[Any]
    starts: list[int]
    places: list[tuple[Path, int]]


class ParquetSet(ImageSet):
    """Rows of one or more files. The encoded images stay in Arrow's memory, where forked workers share them; a copy
    sent by pickle reads the files again."""

    def __init__(self, name: str, files: list[Path], how: Reading) -> None:
        self.files = files
        found = _columns(files[0], how)
        self.columns, self.image_column, self.label_column = found.names, found.image, found.label
        for file in files:
            if _columns(file, how) != found:
                raise UsageError(f"{file} and {files[0]} differ in their columns or class names.")
        rows = rows_named(self.place)
        labels, class_names = labels_of_column(self._read(self.label_column), found.class_names, name, rows, how)
        super().__init__(name, class_names, labels)
        self._rows  # noqa: B018  # now, so that workers forked later share it

    def _read(self, column: str) -> Any:
        """A column of all files."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        parts = []
        for file in self.files:
            with _naming(file):
                parts += pq.read_table(file, columns=[column])[column].chunks
        return pa.chunked_array(parts) if parts else pa.chunked_array([[]], pa.string())

    def texts(self, column: str) -> Any:
        """A column as one Arrow array of strings, None where it is of another kind."""
        import pyarrow as pa

        values = self._read(column)
        if pa.types.is_dictionary(values.type):
            values = values.cast(values.type.value_type)
        kind = values.type
        if _is_text(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind):
            return values.cast(pa.large_string()).combine_chunks()
        return None

    def place(self, i: int) -> str:
        """ "train.parquet row 3", counted from 0."""
        import pyarrow.parquet as pq

        for file in self.files:
            count = pq.read_metadata(file).num_rows
            if i < count:
                break
            i -= count
        return f"{file.name} row {i}"

    @cached_property
    def _rows(self) -> _Rows:
        import pyarrow.parquet as pq

        arrays: list[Any] = []
        places = []
        for path in self.files:
            row = 0
            with _naming(path), pq.ParquetFile(path, memory_map=True) as file:
                for group in range(file.num_row_groups):
                    # one group at a time: Arrow cannot read a struct of more than 2 GB in one piece
                    for chunk in file.read_row_group(group, columns=[self.image_column])[self.image_column].chunks:
                        arrays.append(chunk)
                        places.append((path, row))
                        row += len(chunk)
        return _Rows(arrays, list(accumulate(map(len, arrays), initial=0))[:-1], places)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_rows"}

    def _place(self, i: int) -> tuple[int, int]:
        """The array that holds image `i`, and its row there."""
        which = bisect_right(self._rows.starts, i) - 1
        return which, i - self._rows.starts[which]

    def names(self) -> list[str]:
        """Each image's value in the column `name`, or where there is none, its file's name without the suffix."""
        import pyarrow.parquet as pq

        names: list[str] = []
        for file in self.files:
            with _naming(file):
                if "name" in pq.read_schema(file).names:
                    names += pq.read_table(file, columns=["name"])["name"].to_pylist()
                else:
                    rows = pq.read_table(file, columns=[f"{self.image_column}.path"])[self.image_column].to_pylist()
                    names += [Path(row["path"] or "").stem for row in rows]
        return names

    def key(self, i: int) -> str:
        which, row = self._place(i)
        path, first = self._rows.places[which]
        return f"{path.name}#{first + row}"

    def sizes(self, positions: np.ndarray) -> np.ndarray | None:
        import pyarrow.compute as pc

        lengths = [pc.binary_length(array.field("bytes")) for array in self._rows.arrays]
        if any(length.null_count for length in lengths):  # in files of their own
            return None
        return np.concatenate([length.to_numpy() for length in lengths])[positions].astype(np.int64)

    def read(self, i: int) -> bytes:
        which, row = self._place(i)
        image = self._rows.arrays[which][row]
        encoded = image["bytes"].as_py()
        return encoded if encoded is not None else read_file(self._rows.places[which][0].parent / str(image["path"]))


@contextmanager
def _naming(file: Path) -> Iterator[None]:
    """Arrow's errors as a `UsageError` that says which file they are about."""
    import pyarrow as pa

    try:
        check_regular(file)
        yield
    # beyond Arrow's own errors, what is no UTF-8 in the file or a number too large for Python is met in other types
    except (OSError, pa.ArrowException, ValueError, OverflowError, MemoryError) as error:
        raise UsageError(f"Cannot read {file} as parquet: {brief(str(error).rstrip('.'), 200)}.") from error


class _Columns(NamedTuple):
    """All columns' names, the image column, the label column, and class names (none where the schema does not say)."""

    names: list[str]
    image: str
    label: str
    class_names: tuple[str, ...]


def _columns(file: Path, how: Reading) -> _Columns:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _naming(file):
        schema = pq.read_schema(file)
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
        types = {name: features[name].get("_type") for name in schema.names if isinstance(features.get(name), dict)}
        names = {name: tuple(map(str, features[name].get("names") or ())) for name in types}
    except (ValueError, AttributeError, TypeError, RecursionError):
        raise UsageError(
            f"{file}: its metadata 'huggingface' is malformed. Write the file anew with the package datasets, or without them."
        ) from None
    images = ["image", *(name.lower() for name, kind in types.items() if kind == "Image")]
    labels = ["label", *(name.lower() for name, kind in types.items() if kind == "ClassLabel"), *LABEL]
    image = pick(schema.names, how.image_column, images, "image-column", str(file))
    with _naming(file):
        label = pick_label(
            schema.names,
            how.label_column,
            labels,
            str(file),
            how,
            lambda name: pq.read_table(file, columns=[name])[name],
        )
    if image is None or label is None:
        raise no_columns(str(file), schema.names, image, label)
    kind = schema.field(image).type
    if not pa.types.is_struct(kind) or {field.name: _is_kind(field) for field in kind} != {"bytes": True, "path": True}:
        raise UsageError(f"{file}: column '{image}' is {kind}; expected a struct of bytes and path.")
    kind = schema.field(label).type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        raise UsageError(
            f"{file}: column '{label}' is {kind}, several labels for each image. Multi-label data is not supported: expected "
            "one number or class name for each image."
        )
    return _Columns(schema.names, image, label, names.get(label, ()))


def _is_kind(field: Any) -> bool:
    """Whether a field of the image column holds what its name says; a column of nulls does, where a set has none."""
    import pyarrow as pa

    if pa.types.is_null(field.type):
        return True
    if field.name == "bytes":
        return pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type)
    return _is_text(field.type)


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def labels_of_column(
    values: Any, class_names: tuple[str, ...], where: str, rows: Rows, how: Reading
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels and class names of a column of any kind. Raises `UsageError`, naming rows, for a missing one."""
    import pyarrow as pa

    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if not len(values):
        return np.zeros(0, np.int64), class_names
    empty = np.flatnonzero(values.is_null().to_numpy())
    if len(empty):
        raise UsageError(no_label(where, rows(empty)))
    if _is_text(values.type):
        with _naming_text(where):
            return from_strings(values.cast(pa.large_string()).combine_chunks(), where, rows, how)
    if not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type) or pa.types.is_boolean(values.type)):
        raise UsageError(f"{where}: its labels are {values.type}; expected one number or class name for each image.")
    numbers = values.to_numpy()
    if class_names:
        return as_integers(numbers, where, rows), class_names
    return from_numbers(numbers, where, rows)


@contextmanager
def _naming_text(where: str) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        raise UsageError(f"{where}: a label is not UTF-8 text.") from error
