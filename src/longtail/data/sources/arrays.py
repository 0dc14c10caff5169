"""Images in numpy arrays: `.npz` files, and the embedded Fashion-MNIST-LT."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...errors import UsageError
from ..images import ArraySet, Splits
from .names import numbered
from .npz import Npz

EMBEDDED = "fashion-mnist-lt"


def open_embedded() -> Splits:
    """Fashion-MNIST-LT: 28 x 28 grey, 10 classes of 600 to 6 training images, 1,000 test images."""
    return _open(EMBEDDED, Path(__file__).parents[1] / "embedded" / "fashion_mnist_lt.npz")


def open_npz(location: str) -> Splits:
    """`train_images` [N, H, W] or [N, H, W, C], uint8 or other numbers, `train_labels` integers [N]; `test_images`,
    `test_labels` and `class_names` are optional."""
    path = Path(location)
    return _open(f"npz:{path}", path)


def _open(name: str, path: Path) -> Splits:
    content = Npz(path)
    if "train_images" not in content or "train_labels" not in content:
        raise UsageError(
            f"{path}: expected arrays train_images and train_labels; found {', '.join(content) or 'none'}."
        )
    class_names = content.get("class_names", np.zeros(0))
    if class_names.ndim != 1:
        raise UsageError(f"{path}: class_names has shape {list(class_names.shape)}; expected one name for each class.")

    def split(which: str) -> ArraySet:
        images, labels = content[f"{which}_images"], content.get(f"{which}_labels", np.zeros(0))
        if (
            images.dtype.kind not in "buif"
            or images.ndim not in (3, 4)
            or 0 in images.shape[1:]
            or max(images.shape[3:], default=1) > 4
        ):
            raise UsageError(
                f"{path}: {which}_images is {images.dtype} {list(images.shape)}; "
                "expected numbers, best uint8, [N, H, W] or [N, H, W, C] of up to 4 channels."
            )
        if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
            raise UsageError(
                f"{path}: {which}_labels is {labels.dtype} {list(labels.shape)}; expected integers [{len(images)}]."
            )
        names = tuple(map(str, class_names)) or numbered(labels, str(path))
        return ArraySet(f"{name} ({which})", names, labels, images, which)

    return Splits(split("train"), split("test") if "test_images" in content else None)
