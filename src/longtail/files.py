"""Reading files that are files, and writing them so that none is ever seen half-written."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from .errors import LongtailError

T = TypeVar("T")


def check_regular(path: str | Path) -> None:
    """Raise `OSError` unless `path` leads to a regular file: a FIFO may never have anything to read, a device no end."""
    try:
        mode = os.stat(path).st_mode
    except ValueError:
        raise OSError(errno.EINVAL, "its name holds a NUL character", str(path)) from None
    if not stat.S_ISREG(mode):
        reason = os.strerror(errno.EISDIR) if stat.S_ISDIR(mode) else "it is no regular file"
        raise OSError(errno.EINVAL, reason, str(path))


def open_regular(path: str | Path) -> BinaryIO:
    """The regular file at `path`, to be read. Raises `OSError`, see `check_regular`."""
    check_regular(path)
    return open(path, "rb")


def read_text(path: str | Path, encoding: str = "utf-8") -> str:
    """A text file, whole. Raises `OSError` and `UnicodeDecodeError`."""
    with open_regular(path) as file:
        return file.read().decode(encoding)


def read_json(path: Path) -> dict[str, Any]:
    """A file that holds a JSON object. Raises `LongtailError` for anything else."""
    try:
        content = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or (
            "it is nested too deeply" if isinstance(error, RecursionError) else str(error).partition("\n")[0]
        )
        raise LongtailError(f"{path} is damaged and cannot be read: {reason.rstrip('.')}.") from error
    if not isinstance(content, dict):
        raise LongtailError(f"{path} is damaged: it holds a {type(content).__name__}, expected a JSON object.")
    return content


def write_atomically(path: Path, write: Callable[[Path], T]) -> T:
    """Call `write` with a temporary name beside `path`, then rename: readers see the old file or the new one, whole.

    A link stays one, and what it leads to is written. Returns what `write` does. Raises `LongtailError` when the disk
    refuses (full, read-only), and where `path` is there and is no regular file. The temporary file is removed whatever
    happens.
    """
    path = Path(os.path.realpath(path))
    temporary = path.with_name(f".{path.name}.tmp")  # always the same, so that what a killed run left is overwritten
    try:
        if path.exists():
            check_regular(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)  # it could be a link to somewhere else
        result = write(temporary)
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
        return result
    except LongtailError:
        raise
    # torch and safetensors wrap the system's error in their own (a RuntimeError or a SafetensorError)
    except Exception as error:
        raise LongtailError(
            f"Cannot write {path}: {_reason(error)}. Free some space or choose another --out."
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda temporary: temporary.write_text(text))


def append_line(path: Path, record: Mapping[str, Any]) -> None:
    """Add `record` as a line of JSON. Raises `LongtailError` when the disk refuses."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as handle:
            handle.write(json.dumps(record) + "\n")
    except OSError as error:
        raise LongtailError(
            f"Cannot write {path}: {error.strerror}. Free some space: what was saved before is kept."
        ) from error


def _reason(error: BaseException) -> str:
    """The system's words, where they are among the causes."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return str(error)
