"""The run folder: what one training leaves behind, and how it is read back."""

from __future__ import annotations

import json
import logging
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from .. import __version__
from ..config import Config, save_yaml, validate
from ..errors import LongtailError, UsageError
from ..files import append_line, write_atomically, write_text
from ..plain_yaml import load_yaml

logger = logging.getLogger("longtail")

LOCK = ".lock"


class Run:
    """A folder holding the resolved config, environment, metrics, checkpoint, predictions and deployable model of a training."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_file = path / "config.yaml"
        self.environment_file = path / "environment.json"
        self.metrics_file = path / "metrics.jsonl"
        self.checkpoint_file = path / "last.ckpt"
        self.results_file = path / "results.json"
        self.predictions_file = path / "predictions.parquet"
        self.log_file = path / "log.txt"

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """An existing run. Raises `UsageError` where `path` is not a run folder."""
        run = cls(Path(path))
        if not run.config_file.is_file():
            raise UsageError(f"{path} is not a run folder: it has no config.yaml. `longtail train` makes one.")
        return run

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Keep other trainings out of the folder, which is made where there is none.

        Raises `UsageError` where one is in it, `LongtailError` where it cannot be written.
        """
        lock = FileLock(self.path / LOCK)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except Timeout:
            raise UsageError(
                f"Another process is training in {self.path}: wait for it or choose another --out."
            ) from None
        except FileExistsError:
            raise UsageError(f"{self.path} is a file: choose another --out.") from None
        except OSError as error:
            raise LongtailError(f"Cannot write {self.path}: {error.strerror}. Choose another --out.") from error
        try:
            yield
        finally:
            with suppress(OSError):
                (self.path / LOCK).unlink()  # still held: nobody can have taken it
            lock.release()

    def create(self, config: Config) -> None:
        """Begin a new run in the folder. Raises `UsageError` where it is already in use."""
        if self.path.exists() and any(file.name != LOCK for file in self.path.iterdir()):
            advice = f"continue it with `longtail train --resume {self.path}`, or " if self.config_file.exists() else ""
            raise UsageError(f"{self.path} already exists and is not empty: {advice}choose another --out.")
        write_text(self.config_file, save_yaml(config))

    def config(self) -> Config:
        return validate(Config, load_yaml(self.config_file), str(self.config_file))

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        """Add one epoch's line."""
        append_line(self.metrics_file, record)

    def metrics(self) -> list[dict[str, Any]]:
        """One record per finished epoch, oldest first."""
        return (
            [json.loads(line) for line in self.metrics_file.read_text().splitlines()]
            if self.metrics_file.exists()
            else []
        )

    def truncate_metrics(self, epochs: int) -> None:
        """Forget lines written after the checkpoint (a killed run may have written one, or half of one)."""
        if self.metrics_file.exists():
            lines = self.metrics_file.read_text().splitlines()[:epochs]
            write_text(self.metrics_file, "".join(line + "\n" for line in lines))

    def save_checkpoint(self, state: Mapping[str, Any]) -> None:
        def write(temporary: Path) -> None:
            with temporary.open("wb") as handle:  # through which the system's error arrives, not one of torch's own
                torch.save(dict(state), handle)

        write_atomically(self.checkpoint_file, write)

    def load_checkpoint(self, device: torch.device | str = "cpu") -> dict[str, Any]:
        """The last saved state. Raises `UsageError` where there is none, `LongtailError` where it cannot be read."""
        if not self.checkpoint_file.is_file():
            raise UsageError(
                f"{self.path} has no last.ckpt: the run stopped before its first epoch ended. Start it anew."
            )
        try:
            state = torch.load(self.checkpoint_file, map_location=device, weights_only=True)
        except Exception as error:  # bytes that are no checkpoint fail in many ways
            reason = str(error).partition("\n")[0].rstrip(".")
            raise LongtailError(
                f"{self.checkpoint_file} is damaged and cannot be read: {reason}. Restore it, or train anew in another folder."
            ) from error
        if not isinstance(state, dict) or not {"method_name", "method", "progress"} <= state.keys():
            raise LongtailError(f"{self.checkpoint_file} is not a checkpoint of this version of longtail.")
        return state

    def results(self) -> dict[str, Any]:
        """What the finished run measured. Raises `UsageError` for a run that has not finished."""
        if not self.results_file.is_file():
            raise UsageError(f"{self.path} has not finished: continue it with `longtail train --resume {self.path}`.")
        return json.loads(self.results_file.read_text())


def write_json(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content, indent=2) + "\n")


def environment(device: torch.device) -> dict[str, Any]:
    """Where and with what a run was made."""
    packages = ("torch", "torchvision", "timm", "lightning-fabric", "numpy", "pillow", "pyarrow")
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": platform.platform(),
        "processor": device_name(device),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "packages": {"longtail": __version__} | {name: _version(name) for name in packages},
        "git_commit": _git_commit(),
    }


def _version(package: str) -> str | None:
    """None for a package that is there under another name, or in a folder of PYTHONPATH, and says nothing of itself."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def device_name(device: torch.device) -> str:
    """The marketing name of the processor that computes, with the core count for a CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        name = next(
            (line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line), name
        )
    return f"{name}, {cores()} cores"


def cores() -> int:
    """Of the CPU, those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _git_commit() -> str | None:
    """The commit of the longtail checkout that runs, "+" where it has changes; None for an installed package."""
    here = Path(__file__).parent
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"],
            cwd=here, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
        tracked = subprocess.run(
            ["git", "ls-files", "--error-unmatch", __file__], cwd=here, capture_output=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip() if tracked.returncode == 0 else None
