"""CIFAR-10 and CIFAR-100 in their official python layout, which is pickles.

A pickle can run any code, and even a numpy array in one can be made to corrupt memory. So nothing in the file reaches
numpy's constructors: the names an array is pickled under are answered with stand-ins that keep its bytes.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import UsageError
from ..images import ArraySet, Splits


def open_cifar10(location: str) -> Splits:
    """CIFAR-10: `data_batch_1` to `data_batch_5`, `test_batch`, `batches.meta`."""
    return _open("cifar10", location, [f"data_batch_{i}" for i in range(1, 6)], "test_batch", "batches.meta", "label")


def open_cifar100(location: str) -> Splits:
    """CIFAR-100: `train`, `test`, `meta`; the 100 fine classes."""
    return _open("cifar100", location, ["train"], "test", "meta", "fine_label")


def _open(kind: str, location: str, train: list[str], test: str, meta: str, label: str) -> Splits:
    folder = Path(location)
    names = load_pickle(folder / meta).get(f"{label}_names")
    if not isinstance(names, list):
        raise UsageError(f"{folder / meta} has no list '{label}_names'. Is it the official CIFAR layout?")
    class_names = [name.decode() if isinstance(name, bytes) else str(name) for name in names]

    def read(split: str, files: list[str]) -> ArraySet:
        parts = [_batch(folder / file, f"{label}s") for file in files]
        images = np.concatenate([images for images, _ in parts])
        labels = np.concatenate([labels for _, labels in parts])
        return ArraySet(f"{kind}:{folder} ({split})", class_names, labels, images, split)

    return Splits(read("train", train), read("test", [test]))


def _batch(path: Path, label_field: str) -> tuple[np.ndarray, list[int]]:
    """Images uint8 [N, 32, 32, 3] and their labels."""
    content = load_pickle(path)
    data, labels = content.get("data"), content.get(label_field)
    flat = data.array if isinstance(data, _Array) else None
    if flat is None or flat.shape[1:] != (3072,) or not isinstance(labels, list) or len(labels) != len(flat):
        raise UsageError(
            f"{path}: expected 'data' of 3,072 bytes an image and as many '{label_field}'. Is it a CIFAR batch?"
        )
    return flat.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels


def load_pickle(path: Path) -> dict[str, Any]:
    """A pickled dictionary of plain containers, numbers, strings and uint8 arrays.

    Raises `UsageError` where the file is missing, is no such pickle, or asks for anything else; no code of it is run.
    """
    try:
        with path.open("rb") as handle:
            content = _Unpickler(handle, encoding="bytes").load()
        return {key.decode() if isinstance(key, bytes) else key: value for key, value in content.items()}
    except FileNotFoundError as error:
        raise UsageError(f"{path} is missing. The official CIFAR python layout has it.") from error
    except Exception as error:  # bytes that are no pickle fail in many ways
        raise UsageError(f"Cannot read {path} as a CIFAR pickle: {error}.") from error


class _Array:
    """Stands in for a numpy array: takes the state of a pickled one."""

    array: np.ndarray

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: tuple[int, tuple[int, ...], _Dtype, bool, bytes]) -> None:
        _, shape, dtype, fortran, raw = state
        if dtype.code not in ("u1", b"u1"):
            raise pickle.UnpicklingError(f"an array of {dtype.code!r} where bytes are expected")
        self.array = np.frombuffer(raw, np.uint8).reshape(shape, order="F" if fortran else "C")


class _Dtype:
    """Stands in for a numpy dtype."""

    def __init__(self, code: str | bytes, *_: object) -> None:
        self.code = code

    def __setstate__(self, state: object) -> None:
        pass


def _encode(text: str, _: str) -> bytes:
    """Stands in for `codecs.encode`, under which Python 3 pickles bytes for Python 2."""
    return text.encode("latin1")


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        stand_ins = {
            "numpy.core.multiarray._reconstruct": _Array,
            "numpy._core.multiarray._reconstruct": _Array,
            "numpy.ndarray": "numpy.ndarray",  # an argument of the above, which has no use for it
            "numpy.dtype": _Dtype,
            "_codecs.encode": _encode,
        }
        try:
            return stand_ins[f"{module}.{name}"]
        except KeyError:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}, which image data does not need, and was refused"
            ) from None
