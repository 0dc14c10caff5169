"""The labels of a torch data set, without its images where that can be."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ..errors import UsageError

logger = logging.getLogger("longtail")


def pair(item: Any) -> tuple[Any, Any]:
    """Image and label of a data set's item: (image, label), or a mapping with both."""
    if isinstance(item, Mapping):
        return item["image"], item["label"]
    return item[0], item[1]


def labels_of(data: Any) -> np.ndarray:
    """The labels of a torch data set, int64 [N], without reading its images where it can be asked for them.

    Looks for `targets` or `labels`, through `Subset` and `ConcatDataset`, and a Hugging Face data set's column `label`; goes
    through all items otherwise, and says so. An array, tensor or list of labels is taken as it is. Raises `UsageError` for
    labels that are no whole numbers of 0 or more.
    """
    found = _known_labels(data)
    if found is None:
        logger.info("reading all %s items for their labels: a `targets` attribute would save that", f"{len(data):,}")
        found = np.asarray([int(pair(data[i])[1]) for i in range(len(data))])
    labels = np.asarray(found)
    if labels.dtype.kind not in "iu" or labels.ndim != 1 or (len(labels) and labels.min() < 0):
        raise UsageError(f"Labels are {labels.dtype} {list(labels.shape)}; expected whole numbers of 0 or more, [N].")
    return labels.astype(np.int64, copy=False)


def _known_labels(data: Any) -> Any:
    if isinstance(data, torch.Tensor):
        return data.numpy(force=True)
    if isinstance(data, (np.ndarray, list)):
        items = len(data) and isinstance(data[0], (tuple, Mapping))  # a list of (image, label), not of labels
        return None if items else data
    if isinstance(data, torch.utils.data.Subset):
        base = _known_labels(data.dataset)
        return None if base is None else np.asarray(base)[np.asarray(data.indices, dtype=np.int64)]
    if isinstance(data, torch.utils.data.ConcatDataset):
        parts = [_known_labels(part) for part in data.datasets]
        return None if any(part is None for part in parts) else np.concatenate(parts)
    for name in ("targets", "labels"):
        if (labels := getattr(data, name, None)) is not None and len(labels) == len(data):
            return labels.numpy(force=True) if isinstance(labels, torch.Tensor) else labels
    if isinstance(getattr(data, "tensors", None), tuple):
        return data.tensors[-1].numpy(force=True)
    if hasattr(data, "features") and "label" in data.features:
        return np.asarray(data["label"])
    return None
