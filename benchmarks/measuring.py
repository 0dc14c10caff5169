"""What the benchmarks share: ratios of rounds that took turns, the facts that a record starts with, records that grow."""

from __future__ import annotations

import datetime
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from longtail.engine.run import write_json
from longtail.errors import UsageError
from longtail.hardware import device_name
from longtail.memory import keep_freed_memory, set_thresholds

Row = dict[str, Any]


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


def in_own_process(module: str, case: Mapping[str, Any]) -> Any:
    """What the benchmark `module` prints for `--case`, as JSON: a peak of memory is that of a process."""
    command = [sys.executable, "-m", module, "--case", json.dumps(case)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def resident_bytes(field: str) -> int:
    """VmRSS (now) or VmHWM (the most so far) of this process."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def proportional_bytes(process: int) -> int:
    """Memory of a process, of pages that it shares only its part (Linux)."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def children() -> list[int]:
    """This process's worker processes (Linux)."""
    own = os.getpid()
    return list(map(int, Path(f"/proc/{own}/task/{own}/children").read_text().split()))


def memory_gb() -> float:
    """Memory of this process and its workers."""
    return sum(map(proportional_bytes, (os.getpid(), *children()))) / 1e9


def peak_memory_gb(device: torch.device) -> float:
    """The most so far: on a GPU, of its memory; on a CPU, of this process, and with it what its workers have now."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return (resident_bytes("VmHWM") + sum(map(proportional_bytes, children()))) / 1e9


@contextmanager
def allocating_as_others_do() -> Iterator[None]:
    """Within, the thresholds that glibc comes to by itself; afterwards the trainer's."""
    set_thresholds(mmap=32 << 20, trim=64 << 20)
    try:
        yield
    finally:
        keep_freed_memory()


def add_to_record(
    path: Path, fresh: Sequence[Row], name: Callable[[Row], Hashable], setting: Callable[[Row], Any]
) -> list[Row]:
    """Write the rows of the JSON file at `path`, those made on other machines included, with the `fresh` ones added or
    in place of those with the same `name`. Returns them.

    Raises `UsageError`, with nothing written, where their `setting` differs: they would not belong in one table.
    """
    rows = {name(row): row for row in (*(json.loads(path.read_text()) if path.exists() else ()), *fresh)}
    settings = {json.dumps(setting(row)) for row in rows.values()}
    if len(settings) > 1:
        raise UsageError(
            f"{path} and the runs at hand differ in their settings: {' and '.join(sorted(settings))}. "
            "Give the new table another name, or remove the old one."
        )
    write_json(path, list(rows.values()))
    return list(rows.values())


def provenance(rows: Sequence[Row], name: Callable[[Row], str]) -> list[str]:
    """Lines that say on which machine, when and how the runs were made; which, where that differs between them."""
    made: dict[str, list[str]] = {}
    for row in rows:
        environment = row["environment"]
        compiled = ", network compiled" if row["config"]["train"]["compile"] else ""
        threads = environment["threads"]
        text = (
            f"{environment['processor']}, {threads} thread{'s' * (threads > 1)} a run; {environment['date'][:10]}; "
            f"torch {environment['packages']['torch']}; commit {(environment['git_commit'] or 'unknown')[:12]}{compiled}"
        )
        made.setdefault(text, []).append(name(row))
    return [
        f"- machine: {text}" + (f" ({', '.join(dict.fromkeys(names))})" if len(made) > 1 else "")
        for text, names in made.items()
    ]
