"""Data sets that are handed over as objects: torch `Dataset`s of (image, label), and Hugging Face's."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import PIL.Image
import torch

from ...errors import UsageError
from ..decode import CorruptImage
from ..images import ImageSet
from ..labels import labels_of, pair
from .hub import HubSet, parts_of
from .splits import Reading

logger = logging.getLogger("longtail")

# The data sets that were handed over, by what a configuration calls them; only this process knows what is behind it.
_given: dict[str, Any] = {}
_numbers = itertools.count(1)


def give(data: Any, source: str | None = None) -> str:
    """Have `open_source` find a data set, or a pair of a training and a test set; returns the source to name.

    Each is a torch data set whose items are (image, label) or mappings with an image and a label, the image being a Pillow
    image, a uint8 tensor [C, H, W] or [H, W], or a uint8 array [H, W] or [H, W, C]: the data set without the transform that
    makes floats of them. Or it is a split of Hugging Face's `datasets`, or a dictionary of its splits.
    """
    source = source or f"given:{next(_numbers)}"
    _given[source] = data
    return source


def open_given(location: str, how: Reading) -> dict[str, ImageSet]:
    """What was given as `location`. Raises `UsageError` where this process was given nothing of that name."""
    source = f"given:{location}"
    if source not in _given:
        raise UsageError(
            f"'{source}' is a data set that was handed over in Python, in a process that has ended: hand it over again, "
            "with data=, or give other images."
        )
    data = _given[source]
    if isinstance(data, Mapping):
        return parts_of(data, source, how)
    if isinstance(data, tuple) and len(data) == 2:
        named = zip(("train", "test"), data, strict=True)
        return {role: _image_set(part, f"{source} ({role})", how) for role, part in named}
    return {"train": _image_set(data, f"{source} (train)", how)}


def _image_set(data: Any, name: str, how: Reading) -> ImageSet:
    if hasattr(data, "cast_column") and hasattr(data, "features"):
        return HubSet(name, name, data, how)
    if not (hasattr(data, "__getitem__") and hasattr(data, "__len__")):
        raise UsageError(
            f"A {type(data).__name__} is no data set: expected a path, a torch Dataset of (image, label) with a length, or "
            "a Hugging Face data set."
        )
    return ObjectSet(name, data)


class ObjectSet(ImageSet):
    """A torch data set's images."""

    def __init__(self, name: str, data: Any) -> None:
        labels = labels_of(data)
        names = getattr(data, "classes", None) or tuple(map(str, range(int(labels.max(initial=-1)) + 1)))
        super().__init__(name, tuple(map(str, names)), labels)
        self.data = data

    def key(self, i: int) -> str:
        return f"{self.name}#{i}"

    def read(self, i: int) -> np.ndarray:
        try:
            image, _ = pair(self.data[i])
        except UsageError:
            raise
        except Exception as error:  # a stranger's code may fail in any way
            raise CorruptImage(str(error).partition("\n")[0] or type(error).__name__) from error
        if isinstance(image, PIL.Image.Image):
            modes = {"1": "L", "L": "L", "I;16": "I;16", "I": "I", "F": "F"}
            return np.asarray(image.convert(modes.get(image.mode, "RGB")))
        if isinstance(image, torch.Tensor):
            image = image.numpy(force=True)
            image = np.moveaxis(image, 0, -1) if image.ndim == 3 else image
        if not (isinstance(image, np.ndarray) and image.dtype == np.uint8):
            kind = f"{image.dtype} {list(image.shape)}" if isinstance(image, np.ndarray) else type(image).__name__
            raise UsageError(
                f"Item {i} of {self.name} holds an image of type {kind}; expected a Pillow image, or uint8 numbers. Hand the "
                "data set over without the transform that makes floats of its images: longtail augments and normalises."
            )
        return image
