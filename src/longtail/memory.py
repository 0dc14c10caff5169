"""How the C library hands out the memory of CPU tensors."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def keep_freed_memory() -> None:
    """Have glibc keep what tensors leave free for the tensors of the next step.

    By default it returns blocks over 32 MB, such as a batch of photographs, to the kernel each time, and is given them
    back page by page, each filled with zeros first. Does nothing where the C library is another.
    """
    set_thresholds(mmap=2**30, trim=2**31 - 1)


def return_freed_memory() -> None:
    """Have glibc return all of that to the kernel. Before a fork: as soon as this process writes to what it kept, the
    child would be left with a copy of its own."""
    if (trim := _function("malloc_trim")) is not None:
        trim(0)


def set_thresholds(mmap: int, trim: int) -> None:
    """Bytes from which on a block is mapped for itself, and free bytes from which on the heap's end is given back."""
    if (mallopt := _function("mallopt")) is not None:
        mallopt(_M_MMAP_THRESHOLD, mmap)
        mallopt(_M_TRIM_THRESHOLD, trim)


def _function(name: str) -> Any:
    """The C library's function of that name, None where it has none."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
