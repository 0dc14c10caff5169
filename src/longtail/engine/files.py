"""Writing files so that none is ever seen half-written."""

from __future__ import annotations

import os
from collections.abc import Callable
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
        temporary.unlink(missing_ok=True)
        if isinstance(error, LongtailError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise LongtailError(f"Cannot write {path}: {reason}. Free some space or choose another --out.") from error


def write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda temporary: temporary.write_text(text))
