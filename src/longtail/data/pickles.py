"""Pickles of plain data, such as CIFAR's batches and the verification sets of face recognition, read without running them.

A pickle can run any code, and even a numpy array in one can be made to corrupt memory. So nothing in the file reaches
numpy's constructors: the names that arrays, numbers and bytes are pickled under are answered with stand-ins.
"""

from __future__ import annotations

import mmap
import pickle
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, cast

import numpy as np

from ..files import open_regular

_NUMBERS = {f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)} | {"b1"}


def load_pickle(path: Path) -> Any:
    """The content: containers, numbers, strings, bytes, and an `Array` for each array of integers or booleans.

    Strings of Python 2 come as bytes. Raises `OSError` where there is no such file, and otherwise an error of any type
    where it is no pickle or asks for anything else; no code of it is run.
    """
    # mapped: of an open file, memory would be asked for as many bytes as the pickle announces
    with open_regular(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return _Unpickler(cast(BinaryIO, content), encoding="bytes").load()


class Array:
    """Stands in for a numpy array: takes the state of a pickled one. `values` is None where there was none."""

    values: np.ndarray | None = None

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: tuple[int, tuple[int, ...], _Dtype, bool, bytes]) -> None:
        _, shape, dtype, fortran, raw = state
        self.values = dtype.read(raw).reshape(shape, order="F" if fortran else "C")


class _Dtype:
    """Stands in for a numpy dtype."""

    order = "<"

    def __init__(self, code: str | bytes, *_: object) -> None:
        self.code = code.decode() if isinstance(code, bytes) else code

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order = state[1].decode() if isinstance(state[1], bytes) else state[1]
        self.order = ">" if order == ">" else "<"

    def read(self, raw: bytes) -> np.ndarray:
        if self.code not in _NUMBERS:
            raise pickle.UnpicklingError(f"an array of {self.code!r} where bytes or whole numbers are expected")
        return np.frombuffer(raw, self.order + self.code)


def _number(dtype: _Dtype, raw: bytes) -> int | bool:
    return dtype.read(raw)[0].item()


def _array_of_a_buffer(raw: bytes, dtype: _Dtype, shape: tuple[int, ...], order: str) -> Array:
    array = Array()
    array.values = dtype.read(raw).reshape(shape, order="F" if order == "F" else "C")
    return array


def _encode(text: str, _: str) -> bytes:
    """Stands in for `codecs.encode`, under which Python 3 pickles bytes for Python 2."""
    return text.encode("latin1")


_STAND_INS: dict[str, Any] = {
    "numpy.ndarray": "numpy.ndarray",  # an argument of `_reconstruct`, which has no use for it
    "numpy.dtype": _Dtype,
    "_codecs.encode": _encode,
    "__builtin__.bytes": lambda: b"",  # how Python 3 pickles b"" for Python 2
    "builtins.bytes": lambda: b"",
}
for _core in ("numpy.core", "numpy._core"):
    _STAND_INS |= {
        f"{_core}.multiarray._reconstruct": Array,
        f"{_core}.multiarray.scalar": _number,
        f"{_core}.numeric._frombuffer": _array_of_a_buffer,
    }


class _Unpickler(pickle._Unpickler):
    """Python's own, of which each step can be looked at. What has to be hashed is refused where that could take for ever or
    overflow the stack: tuples of tuples."""

    dispatch: ClassVar[Any] = dict(pickle._Unpickler.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _STAND_INS[f"{module}.{name}"]
        except KeyError:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}, which image data does not need, and was refused"
            ) from None

    def _load_setitem(self: Any) -> None:
        _check_keys(self.stack[-2:-1])
        self.load_setitem()

    def _load_setitems(self: Any) -> None:
        _check_keys(self.stack[::2])  # since the mark
        self.load_setitems()

    def _load_dict(self: Any) -> None:
        _check_keys(self.stack[::2])
        self.load_dict()

    def _load_set(self: Any) -> None:
        raise pickle.UnpicklingError("it holds a set, which image data does not")

    dispatch[pickle.SETITEM[0]] = _load_setitem
    dispatch[pickle.SETITEMS[0]] = _load_setitems
    dispatch[pickle.DICT[0]] = _load_dict
    dispatch[pickle.EMPTY_SET[0]] = dispatch[pickle.FROZENSET[0]] = dispatch[pickle.ADDITEMS[0]] = _load_set


def _check_keys(keys: list[Any]) -> None:
    for key in keys:
        if not isinstance(key, (str, bytes, int)):
            raise pickle.UnpicklingError(f"a dictionary has a key of type {type(key).__name__}, not a name")
