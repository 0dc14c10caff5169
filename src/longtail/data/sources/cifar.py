"""CIFAR-10 and CIFAR-100 in their official python layout, which is pickles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ...errors import UsageError, brief
from ..images import ArraySet, ImageSet
from ..pickles import Array, load_pickle


def open_cifar10(location: str) -> dict[str, ImageSet]:
    """CIFAR-10: `data_batch_1` to `data_batch_5`, `test_batch`, `batches.meta`."""
    return _open("cifar10", location, [f"data_batch_{i}" for i in range(1, 6)], "test_batch", "batches.meta", "label")


def open_cifar100(location: str) -> dict[str, ImageSet]:
    """CIFAR-100: `train`, `test`, `meta`; the 100 fine classes."""
    return _open("cifar100", location, ["train"], "test", "meta", "fine_label")


def _open(kind: str, location: str, train: list[str], test: str, meta: str, label: str) -> dict[str, ImageSet]:
    folder = Path(location)
    names = _load(folder / meta).get(f"{label}_names")
    if not isinstance(names, list) or not all(isinstance(name, (str, bytes)) for name in names):
        raise UsageError(f"{folder / meta} has no list of names '{label}_names'. Is it the official CIFAR layout?")
    try:
        class_names = [name.decode() if isinstance(name, bytes) else name for name in names]
    except UnicodeDecodeError as error:
        raise UsageError(f"{folder / meta}: the class name {error.object!r} is not UTF-8.") from error

    def read(split: str, files: list[str]) -> ArraySet:
        parts = [_batch(folder / file, f"{label}s") for file in files]
        images = np.concatenate([images for images, _ in parts])
        labels = np.concatenate([labels for _, labels in parts])
        return ArraySet(f"{kind}:{folder} ({split})", class_names, labels, images, split)

    return {"train": read("train", train), "test": read("test", [test])}


def _batch(path: Path, label_field: str) -> tuple[np.ndarray, list[int]]:
    """Images uint8 [N, 32, 32, 3] and their labels."""
    content = _load(path)
    data, labels = content.get("data"), content.get(label_field)
    flat = data.values if isinstance(data, Array) else None
    if isinstance(labels, Array) and labels.values is not None:
        labels = labels.values.tolist()
    if (
        flat is None
        or flat.dtype != np.uint8
        or flat.shape[1:] != (3072,)
        or not isinstance(labels, list)
        or len(labels) != len(flat)
    ):
        raise UsageError(
            f"{path}: expected 'data' of 3,072 bytes an image and as many '{label_field}'. Is it a CIFAR batch?"
        )
    for label in labels:
        if not isinstance(label, int) or not 0 <= label < 1000:
            raise UsageError(f"{path}: '{label_field}' holds {_brief(label)}; expected class numbers from 0.")
    return flat.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels


def _brief(value: object) -> str:
    short = isinstance(value, (str, bytes, float)) or (isinstance(value, int) and abs(value) < 10**9)
    return f"{value!r:.40}" if short else f"something of type {type(value).__name__}"


def _load(path: Path) -> dict[str, Any]:
    """A pickled dictionary. Raises `UsageError` where the file is missing or is no such pickle."""
    try:
        content = load_pickle(path)
        return {key.decode() if isinstance(key, bytes) else key: value for key, value in content.items()}
    except FileNotFoundError as error:
        raise UsageError(f"{path} is missing. The official CIFAR python layout has it.") from error
    except Exception as error:  # bytes that are no pickle fail in many ways
        reason = getattr(error, "strerror", None) or brief(str(error), 200) or type(error).__name__
        raise UsageError(f"Cannot read {path} as a CIFAR pickle: {reason}.") from error
