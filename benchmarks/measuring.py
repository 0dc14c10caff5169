"""What the benchmarks share: ratios of rounds that took turns, and the facts that every record starts with."""

from __future__ import annotations

import datetime
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from longtail.engine.memory import keep_freed_memory, set_thresholds
from longtail.engine.run import device_name


def about(device: str = "cpu") -> dict[str, Any]:
    """When and on what a figure was measured."""
    return {
        "date": datetime.date.today().isoformat(),
        "machine": device_name(torch.device(device)),
        "torch": torch.__version__,
    }


def ratios(slow: Sequence[float], fast: Sequence[float]) -> dict[str, float]:
    """Of each round's `slow` over its `fast`: median, least and most."""
    each = [a / b for a, b in zip(slow, fast, strict=True)]
    return {"median": statistics.median(each), "min": min(each), "max": max(each)}


@contextmanager
def allocating_as_others_do() -> Iterator[None]:
    """Within, the thresholds that glibc comes to by itself; afterwards the trainer's."""
    set_thresholds(mmap=32 << 20, trim=64 << 20)
    try:
        yield
    finally:
        keep_freed_memory()
