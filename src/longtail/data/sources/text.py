"""Text files of millions of lines, read by Arrow: lines end at LF or CRLF and nowhere else."""

from __future__ import annotations

import codecs
import csv
import io
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import UsageError, brief
from ..images import Strings
from .splits import Reading

_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}
_LONE_RETURN = re.compile(rb"\r(?!\n)")
_LONGEST_PATH = 4096  # bytes, as Linux has it
_LONGEST_ROW = 1 << 20  # bytes; a row of more is a quote left open, or no table


def read_text(file: Path) -> bytes:
    """The file as UTF-8 without byte-order mark; UTF-16 is turned into it where a mark says so.

    Raises `UsageError` where it cannot be read, is in another encoding, or holds a NUL, which no text does.
    """
    try:
        if not file.is_file():
            file.stat()  # says why
            raise UsageError(f"Cannot read {file}: it is no regular file.")
        raw = file.read_bytes()
        if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raw = raw.decode("utf-16").encode()
        raw = raw.removeprefix(codecs.BOM_UTF8)
        raw.decode()
    except (OSError, UnicodeError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text (nor UTF-16 with a byte-order mark)"
        raise UsageError(f"Cannot read {file}: {reason}.") from error
    if (at := raw.find(b"\0")) >= 0:
        raise UsageError(
            f"{file} line {line_at(raw, at)}: a NUL character, which no text file holds. Write the file anew, as UTF-8."
        )
    return raw


def read_lines(file: Path) -> bytes:
    """As `read_text`. Raises `UsageError` for a carriage return without a line feed, which ends a line for some programs."""
    raw = read_text(file)
    if found := _LONE_RETURN.search(raw):
        raise UsageError(
            f"{file} line {line_at(raw, found.start())}: a carriage return without a line feed. Lines end with LF, or CR and LF."
        )
    return raw


def line_at(raw: bytes, position: int) -> int:
    """The number of the line that the byte at `position` is in."""
    return raw.count(b"\n", 0, position) + 1


def lines_of(raw: bytes) -> Any:
    """The lines of a text as an Arrow array of strings, without their ends."""
    import pyarrow as pa
    import pyarrow.compute as pc

    lines = pc.list_flatten(pc.split_pattern(pa.array([raw.decode()], pa.large_string()), "\n"))
    return pc.utf8_rtrim(lines, "\r")


class Table:
    """A CSV file: `columns`, its header; `column(name)`, one of them as an Arrow array of strings."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.raw = read_lines(file)
        header = self.raw[: self.raw.find(b"\n") + 1 or None].decode().strip("\r\n")
        self.delimiter = max(_DELIMITERS, key=header.count) if header else ","
        self.columns = next(_rows([header], self.delimiter), (1, []))[1]
        if len(self.columns) == 1 and self.columns[0].count("|") > 0:
            raise UsageError(f"{file}: its columns are separated by '|'; expected {', '.join(_DELIMITERS.values())}.")

    @property
    def separated_by(self) -> str:
        return _DELIMITERS[self.delimiter]

    def column(self, name: str) -> Any:
        return self.read([name])[0]

    def read(self, names: list[str]) -> list[Any]:
        """Columns as Arrow arrays of strings, of equal length. Raises `UsageError`, naming the line, for a row of more or
        fewer fields than the header."""
        import pyarrow as pa
        from pyarrow import csv as arrow

        for name in names:
            if self.columns.count(name) > 1:
                raise UsageError(f"{self.file}: two columns are called '{name}'. Give each a name of its own.")
        places = [str(self.columns.index(name)) for name in names]
        ragged: list[Any] = []

        def note(row: Any) -> str:
            if len(ragged) < 3:
                ragged.append(row)
            return "skip"

        try:
            table = arrow.read_csv(
                pa.BufferReader(self.raw),
                arrow.ReadOptions(
                    use_threads=False,  # so that wrong rows come with their numbers
                    block_size=_LONGEST_ROW,
                    skip_rows=1,
                    column_names=[str(k) for k in range(len(self.columns))],
                ),
                arrow.ParseOptions(delimiter=self.delimiter, newlines_in_values=True, invalid_row_handler=note),
                arrow.ConvertOptions(
                    include_columns=places,
                    column_types=dict.fromkeys(places, pa.large_string()),
                    strings_can_be_null=False,
                ),
            )
        except pa.ArrowException as error:
            if "Empty CSV" in str(error):
                return [pa.array([], pa.large_string()) for _ in names]
            reason = (
                f"a row of more than {_LONGEST_ROW:,} bytes. Is a quotation mark left open?"
                if "straddl" in str(error)
                else str(error).rstrip(".") + "."
            )
            raise UsageError(f"{self.file} is no table of {self.separated_by}: {reason}") from error
        if ragged:
            row = ragged[0]
            raise UsageError(
                f"{self.file} {self.line(row.number - 2)}: {row.actual_columns} fields where the header has "
                f"{row.expected_columns}: '{brief(row.text)}'. Put a field that holds a delimiter between quotation marks."
            )
        return [table.column(place).combine_chunks() for place in places]

    def line(self, row: int) -> str:
        """ "line 3", where a row of the table is: below blank lines and fields of several lines, which are looked for."""
        rows = _rows(io.StringIO(self.raw.decode(), newline=""), self.delimiter)
        try:
            return next((f"line {line}" for k, (line, _) in enumerate(rows) if k == row + 1), f"row {row + 1}")
        except csv.Error:  # a carriage return somewhere before
            return f"row {row + 1}"


def _rows(lines: Iterable[str], delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The rows of a table and the number of the line that each ends at, without blank lines; fields of any length."""
    limit = csv.field_size_limit(sys.maxsize)
    try:
        reader = csv.reader(lines, delimiter=delimiter)
        for fields in reader:
            if fields:
                yield reader.line_num, fields
    finally:
        csv.field_size_limit(limit)


def located(file: Path, how: Reading, paths: Any) -> tuple[Path, Strings]:
    """The folder that `paths`, an Arrow array of strings, are relative to, and the paths as they are there.

    Only the first is looked for: a list can have millions. Where it is not there as written but is with another slash, a
    suffix, or without white space around it, all are taken so, which is told. Raises `UsageError` where it is nowhere.
    """
    import pyarrow.compute as pc

    if not len(paths):
        raise UsageError(f"{file} names no image.")
    long = np.flatnonzero(np.asarray(pc.binary_length(paths)) > _LONGEST_PATH)
    if len(long):
        row = int(long[0])
        raise UsageError(
            f"{file}: image {row + 1:,} has the path '{brief(paths[row].as_py())}', longer than any file's."
        )
    if how.suffix is not None:
        paths = _with(paths, how.suffix)
    folder = Path(how.root).expanduser() if how.root else file.parent
    ways: list[tuple[str, Callable[[Any], Any]]] = [
        ("", lambda text: text),
        ("without the white space around them", pc.utf8_trim_whitespace),
        ("with '/' for '\\'", partial(pc.replace_substring, pattern="\\", replacement="/")),
        ("without the '/' before them", partial(pc.utf8_ltrim, characters="/")),
    ]
    if how.suffix is None:
        ways += [
            (f"with '{suffix}' behind them (as --suffix {suffix} says)", partial(_with, suffix=suffix))
            for suffix in (".jpg", ".jpeg", ".png", ".JPG", ".tif", ".webp", ".bmp")
        ]
    for told, way in ways:
        first = way(paths[:1])[0].as_py()
        if first and os.path.isfile(folder / first):
            if told:
                how.tell(f"{file}: its images are taken {told}: '{brief(paths[0].as_py())}' is {first}.")
            return folder, Strings(way(paths))
    first = paths[0].as_py()
    hint = "Give the images' folder as --root"
    hint += "." if "." in Path(first).name else ", and what their names lack as --suffix (.jpg)."
    if re.search(r"\s[0-9]+$", first):
        hint = "Are there two labels in each line? Then leave the first. Else: " + hint
    raise UsageError(f"{file}: its first image '{brief(first)}' is not under {folder}. {hint}")


def _with(text: Any, suffix: str) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.binary_join_element_wise(text, pa.scalar(suffix, text.type), pa.scalar("", text.type))
