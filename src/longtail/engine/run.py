"""The run folder: what one training leaves behind, and how it is read back."""

from __future__ import annotations

import json
import logging
import os
import platform
import subprocess
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from ..config import Config, save_yaml, validate
from ..errors import LongtailError, UsageError
from ..files import append_line, open_regular, read_json, write_atomically, write_text
from ..hardware import device_name
from ..plain_yaml import load_yaml
from ..version import __version__

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
        self.previous_file = path / "previous.ckpt"  # the checkpoint before that, should it come to harm
        self.results_file = path / "results.json"
        self.predictions_file = path / "predictions.parquet"
        self.log_file = path / "log.txt"
        self._last_is_damaged = False

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
        """One record per finished epoch, oldest first. Raises `LongtailError` where a line is none."""
        if not self.metrics_file.exists():
            return []
        records = []
        for number, line in enumerate(_read_bytes(self.metrics_file).splitlines(), 1):
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                record = None
            if not isinstance(record, dict) or not record:
                raise LongtailError(f"{self.metrics_file} line {number} is damaged: it is no JSON object of figures.")
            records.append(record)
        return records

    def truncate_metrics(self, epochs: int) -> None:
        """Forget lines written after the checkpoint (a killed run may have written one, or half of one)."""
        if self.metrics_file.exists():
            lines = _read_bytes(self.metrics_file).splitlines()[:epochs]
            kept = b"".join(line + b"\n" for line in lines)
            write_atomically(self.metrics_file, lambda temporary: temporary.write_bytes(kept))

    def environment(self) -> dict[str, Any] | None:
        """What `environment` and the trainer noted when the run was begun; None where the file is not there.

        Raises `LongtailError` where it is damaged.
        """
        if not self.environment_file.exists():
            return None
        advice = "Restore it, or remove it to go on without comparing the images with those of then."
        try:
            noted = read_json(self.environment_file)
        except LongtailError as error:
            raise LongtailError(f"{error} {advice}") from error
        if not isinstance(noted.get("data"), dict):
            raise LongtailError(f"{self.environment_file} is damaged: it does not say what 'data' was. {advice}")
        return noted

    def save_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Write the state, and keep the one that was last, unless it was found damaged."""

        def write(temporary: Path) -> None:
            with temporary.open("wb") as handle:  # through which the system's error arrives, not one of torch's own
                torch.save(dict(state), handle)

        if self.checkpoint_file.is_file() and not self._last_is_damaged:
            with suppress(OSError):  # a file system without links, or a full one: it is only for more safety
                self.previous_file.unlink(missing_ok=True)
                os.link(self.checkpoint_file, self.previous_file)
        write_atomically(self.checkpoint_file, write)
        self._last_is_damaged = False

    def load_checkpoint(self, device: torch.device | str = "cpu") -> dict[str, Any]:
        """The last saved state, or where that is damaged the one before, which is logged.

        Raises `UsageError` where there is none, `LongtailError` where none can be read.
        """
        if not self.checkpoint_file.is_file():
            raise UsageError(
                f"{self.path} has no last.ckpt: the run stopped before its first epoch ended. Start it anew."
            )
        try:
            return _read_checkpoint(self.checkpoint_file, device)
        except LongtailError as error:
            state = None
            if self.previous_file.is_file():
                with suppress(LongtailError):
                    state = _read_checkpoint(self.previous_file, device)
            if state is None:
                raise LongtailError(f"{error} Restore it, or train anew in another folder.") from error
            self._last_is_damaged = True
            logger.warning("%s The checkpoint before it is taken instead, %s.", error, self.previous_file.name)
            return state

    def results(self) -> dict[str, Any]:
        """What the finished run measured. Raises `UsageError` for a run that has not finished,
        `LongtailError` for a damaged file."""
        if not self.results_file.is_file():
            raise UsageError(f"{self.path} has not finished: continue it with `longtail train --resume {self.path}`.")
        results = read_json(self.results_file)
        if not {"data", "metrics"} <= results.keys():
            raise LongtailError(
                f"{self.results_file} is damaged: it holds no results. Take it away, and "
                f"`longtail train --resume {self.path}` writes it anew."
            )
        return results


def _read_bytes(path: Path) -> bytes:
    try:
        with open_regular(path) as file:
            return file.read()
    except OSError as error:
        raise LongtailError(f"Cannot read {path}: {error.strerror}.") from error


def _read_checkpoint(path: Path, device: torch.device | str) -> dict[str, Any]:
    """A checkpoint every part of which has its checksum: a zip file has one of each, which `torch.load` does not look at."""
    try:
        with open_regular(path) as file:
            if (part := zipfile.ZipFile(file).testzip()) is not None:
                raise ValueError(f"its part {part} does not have its checksum")
            file.seek(0)
            state = torch.load(file, map_location=device, weights_only=True)
    except Exception as error:  # bytes that are no checkpoint fail in many ways
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0].rstrip(".")
        raise LongtailError(f"{path} is damaged and cannot be read: {reason}.") from error
    if not isinstance(state, dict) or not {"method_name", "method", "progress"} <= state.keys():
        raise LongtailError(f"{path} is not a checkpoint of this version of longtail.")
    weights = state["method"]
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise LongtailError(f"{path} is not a checkpoint of this version of longtail: its 'method' holds no weights.")
    return state


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
