"""Numpy's `.npz` files, of which nothing is read but the arrays asked for, and no more of these than the file can hold."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from ...errors import UsageError
from ...files import open_regular

# No file that deflate makes is expanded further than this by it.
_MOST_EXPANSION = 1032
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class Npz(Mapping[str, np.ndarray]):
    """The arrays of the file at `path`, by name, read each time they are asked for.

    Opening and reading raise `UsageError` where there is no such file, where it is damaged or no npz file of plain arrays,
    and where it announces an array of another size than it holds.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with open_regular(path) as file, zipfile.ZipFile(file) as archive:
                self._members = {
                    member.filename.removesuffix(".npy"): member
                    for member in archive.infolist()
                    if member.filename.endswith(".npy")
                }
        except Exception as error:  # bytes that are no zip file fail in many ways
            raise self._refusal(error) from error

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __getitem__(self, name: str) -> np.ndarray:
        member = self._members[name]
        try:
            with open_regular(self.path) as file, zipfile.ZipFile(file) as archive:
                with archive.open(member) as start:
                    shape, _, dtype = _HEADERS[np.lib.format.read_magic(start)](start)
                    announced = (
                        start.tell() + int(np.prod([int(side) for side in shape], dtype=object)) * dtype.itemsize
                    )
                if dtype.hasobject or announced != member.file_size:
                    raise ValueError("another size")
                held = min(member.compress_size, self.path.stat().st_size)
                if announced > _MOST_EXPANSION * held + 1024:
                    raise ValueError("more than deflate can hold")
                with archive.open(member) as whole:
                    return np.lib.format.read_array(whole, allow_pickle=False)
        except Exception as error:  # and so do damaged members
            raise self._refusal(error, name) from error

    def _refusal(self, error: Exception, name: str = "") -> UsageError:
        about = f", array {name}" if name else ""
        if isinstance(error, MemoryError):
            return UsageError(f"Cannot read {self.path}{about}: it does not fit into memory.")
        reason = getattr(error, "strerror", None) or "it is not an npz file of plain arrays, or damaged"
        return UsageError(f"Cannot read {self.path}{about}: {reason}.")
