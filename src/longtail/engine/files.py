"""Writing files so that none is ever seen half-written."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ..errors import LongtailError


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write` with a temporary name beside `path`, then rename: readers see the old file or the new one, whole.

    Raises `LongtailError` when the disk refuses (full, read-only); the temporary file is then removed.
    """
    temporary = path.with_name(f".{path.name}.tmp")  # always the same, so that what a killed run left is overwritten
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    # torch and safetensors wrap the system's error in their own (a RuntimeError or a SafetensorError)
    except Exception as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, LongtailError):
            raise
        raise LongtailError(
            f"Cannot write {path}: {_reason(error)}. Free some space or choose another --out."
        ) from error


def _reason(error: BaseException) -> str:
    """The system's words, where they are among the causes."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return str(error)


def write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda temporary: temporary.write_text(text))
