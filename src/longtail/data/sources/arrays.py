"""Images in numpy arrays: `.npz` files, and the embedded Fashion-MNIST-LT."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import UsageError
from ..images import ArraySet, Splits
from .names import numbered

EMBEDDED = "fashion-mnist-lt"


def open_embedded() -> Splits:
    """Fashion-MNIST-LT: 28 x 28 grey, 10 classes of 600 to 6 training images, 1,000 test images."""
    return _open(EMBEDDED, Path(__file__).parents[1] / "embedded" / "fashion_mnist_lt.npz")


def open_npz(location: str) -> Splits:
    """`train_images` uint8 [N, H, W] or [N, H, W, C], `train_labels` integers [N]; `test_images`, `test_labels` and
    `class_names` are optional."""
    path = Path(location)
    return _open(f"npz:{path}", path)


def _open(name: str, path: Path) -> Splits:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            content: dict[str, Any] = dict(arrays)
    except (OSError, ValueError, TypeError, zipfile.BadZipFile) as error:
        reason = getattr(error, "strerror", None) or "it is not an npz file of plain arrays"
        raise UsageError(f"Cannot read {path}: {reason}.") from error
    if "train_images" not in content or "train_labels" not in content:
        raise UsageError(
            f"{path}: expected arrays train_images and train_labels; found {', '.join(content) or 'none'}."
        )
    class_names = content.get("class_names", ())

    def split(which: str) -> ArraySet:
        images, labels = content[f"{which}_images"], content.get(f"{which}_labels", np.zeros(0))
        if images.dtype != np.uint8 or images.ndim not in (3, 4):
            raise UsageError(
                f"{path}: {which}_images is {images.dtype} {list(images.shape)}; "
                "expected uint8 [N, H, W] or [N, H, W, C]."
            )
        if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
            raise UsageError(
                f"{path}: {which}_labels is {labels.dtype} {list(labels.shape)}; expected integers [{len(images)}]."
            )
        names = tuple(map(str, class_names)) or numbered(labels, str(path))
        return ArraySet(f"{name} ({which})", names, labels, images, which)

    return Splits(split("train"), split("test") if "test_images" in content else None)
