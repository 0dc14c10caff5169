"""Parquet files that follow Hugging Face's image convention.

The image column is a struct of `bytes` and `path`; the label column holds integers, with the class names in the
schema's `huggingface` metadata, or class names. Where no column is called `image` or `label`, the metadata says which
to take.
"""

from __future__ import annotations

import glob
import json
import re
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...errors import UsageError
from ..images import ImageSet, Splits, read_file
from .names import from_strings, numbered, test_split


def open_parquet(location: str) -> Splits:
    """One file, a pattern, or a folder. A split is the files whose name, or folder's name, starts with it."""
    path = Path(location)
    files = sorted(path.rglob("*.parquet") if path.is_dir() else map(Path, glob.glob(str(path), recursive=True)))
    if not files:
        raise UsageError(f"No parquet file at {path}.")
    by_split: dict[str, list[Path]] = {}
    for file in files:
        by_split.setdefault(_split_of(file), []).append(file)
    if len(by_split) == 1:
        return Splits(ParquetSet(f"parquet:{path}", next(iter(by_split.values()))))
    if "train" not in by_split:
        raise UsageError(f"{path} has the splits {', '.join(by_split)} but none named train.")
    test = test_split(by_split)
    return Splits(
        ParquetSet(f"parquet:{path} (train)", by_split["train"]),
        ParquetSet(f"parquet:{path} (test)", by_split[test]) if test else None,
    )


def _split_of(file: Path) -> str:
    for name in (file.stem, file.parent.name):
        if match := re.match(r"(train|test|validation|val)(?![a-z])", name):
            return match[1]
    return "train"


class _Rows(NamedTuple):
    """Arrow struct arrays; the position in the set of the first row of each; the file it is from, and its row there."""

    arrays: list[Any]
    starts: list[int]
    places: list[tuple[Path, int]]


class ParquetSet(ImageSet):
    """Rows of one or more files. The encoded images stay in Arrow's memory, where forked workers share them; a copy
    sent by pickle reads the files again."""

    def __init__(self, name: str, files: list[Path]) -> None:
        import pyarrow.parquet as pq

        self.files = files
        self.image_column, label_column, class_names = _columns(files[0])
        values = []
        for file in files:
            if _columns(file) != (self.image_column, label_column, class_names):
                raise UsageError(f"{file} and {files[0]} differ in their columns or class names.")
            with _naming(file):
                column = pq.read_table(file, columns=[label_column])[label_column]
            if column.null_count:
                row = column.is_null().index(True).as_py()
                raise UsageError(f"{file} row {row}: no label in column '{label_column}'.")
            values.append(column.to_numpy())
        labels = np.concatenate(values)
        if labels.dtype.kind not in "iu":
            labels, class_names = from_strings(labels.astype(str).tolist(), name)
        super().__init__(name, class_names or numbered(labels, name), labels)
        self._rows  # noqa: B018  # now, so that workers forked later share it

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
        yield
    except (OSError, pa.ArrowException) as error:
        raise UsageError(f"Cannot read {file} as parquet: {str(error).rstrip('.')}.") from error


def _columns(file: Path) -> tuple[str, str, tuple[str, ...]]:
    """Image column, label column, and class names (none where the schema does not say)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _naming(file):
        schema = pq.read_schema(file)
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
        types = {name: features[name].get("_type") for name in schema.names if isinstance(features.get(name), dict)}
        names = {name: tuple(map(str, features[name].get("names") or ())) for name in types}
    except (ValueError, AttributeError, TypeError):
        raise UsageError(
            f"{file}: its metadata 'huggingface' is malformed. Write the file anew with the package datasets, or without them."
        ) from None
    image = pick(schema.names, "image", [name for name, kind in types.items() if kind == "Image"])
    label = pick(schema.names, "label", [name for name, kind in types.items() if kind == "ClassLabel"])
    if image is None or label is None:
        raise UsageError(f"{file}: expected columns 'image' and 'label'; found {', '.join(schema.names)}.")
    kind = schema.field(image).type
    if not pa.types.is_struct(kind) or {field.name for field in kind} != {"bytes", "path"}:
        raise UsageError(f"{file}: column '{image}' is {kind}; expected a struct of bytes and path.")
    if pa.types.is_nested(schema.field(label).type):
        raise UsageError(
            f"{file}: column '{label}' is {schema.field(label).type}; expected one number or class name for each image."
        )
    return image, label, names.get(label, ())


def pick(columns: list[str], usual: str, of_the_type: list[str]) -> str | None:
    """The column of the usual name, else the first that the features declare to be of its type."""
    return usual if usual in columns else next(iter(of_the_type), None)
