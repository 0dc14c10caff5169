"""Images in numpy arrays: `.npz` files, and the embedded Fashion-MNIST-LT."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...errors import UsageError
from ..images import ArraySet, ImageSet
from .labels import Rows, as_integers, from_numbers, from_one_hot, from_strings, rows_named
from .npz import Npz
from .splits import Reading, affix, listing, role_of, titled

EMBEDDED = "fashion-mnist-lt"


_IMAGES, _LABELS = {"", "x"}, {"label", "labels", "target", "targets", "y"}  # beside the word for the split


def open_embedded() -> dict[str, ImageSet]:
    """Fashion-MNIST-LT: 28 x 28 grey, 10 classes of 600 to 6 training images, 1,000 test images."""
    return _open(EMBEDDED, Path(__file__).parents[1] / "embedded" / "fashion_mnist_lt.npz", Reading())


def open_npz(location: str, how: Reading) -> dict[str, ImageSet]:
    """`train_images` [N, H, W] or [N, H, W, C], uint8 or other numbers, `train_labels` integers [N] or [N, 1]; the same for
    `test` and `val` (or `x_train`, `y_train` and so on) and `class_names` are optional."""
    path = Path(location)
    return _open(f"npz:{path}", path, how)


def _open(name: str, path: Path, how: Reading) -> dict[str, ImageSet]:
    content = Npz(path)
    found: dict[str, dict[str, str]] = {}  # the arrays' names, by role and what they hold
    for key in content:
        role, rest = role_of(key), affix(key)
        if role and rest in _IMAGES | _LABELS:
            found.setdefault(role, {})["images" if rest in _IMAGES else "labels"] = key
    if len(found.get("train", ())) < 2:
        raise UsageError(
            f"{path}: expected arrays train_images and train_labels; found {listing(list(content), 8) or 'none'}."
        )
    class_names = _class_names(content.get("class_names"), path)
    if left := [
        key for key in content if key != "class_names" and key not in {k for f in found.values() for k in f.values()}
    ]:
        how.tell(f"{name}: the arrays {listing(left)} are of no split and left out.")

    def split(role: str) -> ArraySet:
        if len(found[role]) < 2:
            raise UsageError(
                f"{path}: {listing(list(found[role].values()))} has no {role}_images or {role}_labels beside it."
            )
        key = found[role]["images"]
        images, labels = content[key], content[found[role]["labels"]]
        if (
            images.dtype.kind not in "buif"
            or images.ndim not in (3, 4)
            or 0 in images.shape[1:]
            or max(images.shape[3:], default=1) > 4
        ):
            raise UsageError(
                f"{path}: {key} is {images.dtype} {list(images.shape)}; "
                "expected numbers, best uint8, [N, H, W] or [N, H, W, C] of up to 4 channels."
            )
        where, rows = titled(name, role), rows_named(lambda row: f"{role}#{row}")
        labels = _one_dimension(labels, found[role]["labels"], len(images), where, rows, how)
        if labels.dtype.kind == "U":
            labels, names = from_strings(labels.tolist(), where, rows, how)
        elif class_names is not None:
            labels, names = as_integers(labels, where, rows), class_names
        else:
            labels, names = from_numbers(labels, where, rows)
        return ArraySet(where, names, labels, images, role)

    return {role: split(role) for role in found}


def _class_names(names: np.ndarray | None, path: Path) -> tuple[str, ...] | None:
    if names is None:
        return None
    if names.ndim != 1 or names.dtype.kind not in "US":
        raise UsageError(
            f"{path}: class_names has shape {list(names.shape)}, {names.dtype}; expected one name for each class."
        )
    try:
        return tuple(name.decode() if isinstance(name, bytes) else str(name) for name in names.tolist())
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: class_names is not UTF-8 text.") from error


def _one_dimension(labels: np.ndarray, key: str, count: int, where: str, rows: Rows, how: Reading) -> np.ndarray:
    """Labels [N], numbers or names, of such, of [N, 1], or of zeros and ones [N, C]."""
    if labels.ndim == 2 and labels.shape[1] > 1 and len(labels) == count and np.isin(labels, (0, 1)).all():
        how.tell(f"{where}: {key}, zeros and ones {list(labels.shape)}, has a column for each class.")
        return from_one_hot(labels, (), where, rows)[0]
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != (count,) or labels.dtype.kind not in "iufU":
        raise UsageError(f"{where}: {key} is {labels.dtype} {list(labels.shape)}; expected integers [{count}].")
    return labels
