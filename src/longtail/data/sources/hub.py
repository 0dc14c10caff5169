"""Data sets of the Hugging Face hub, through the optional package `datasets`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ...errors import UsageError
from ..images import ImageSet, Splits, read_file
from .names import test_split
from .parquet import pick


def open_hub(location: str) -> Splits:
    """`location` is what `datasets.load_dataset` takes: a name on the hub, or a local folder."""
    try:
        import datasets
    except ImportError as error:
        raise UsageError("hf: sources need the package `datasets`: pip install 'longtail[hf]'.") from error
    try:
        splits = datasets.load_dataset(location)
    except Exception as error:  # the hub, the network and the files each have errors of their own
        raise UsageError(f"Cannot open the data set '{location}': {error}") from error
    if "train" not in splits:
        raise UsageError(f"hf:{location} has the splits {', '.join(splits)} but none named train.")
    test = test_split(splits)
    return Splits(
        HubSet(f"hf:{location} (train)", "train", splits["train"]),
        HubSet(f"hf:{location} (test)", test, splits[test]) if test else None,
    )


class HubSet(ImageSet):
    """Rows of one split, which `datasets` keeps in memory-mapped Arrow files."""

    def __init__(self, name: str, split: str, rows: Any) -> None:
        import datasets

        features = rows.features
        image = pick(list(features), "image", [n for n, f in features.items() if isinstance(f, datasets.Image)])
        label = pick(list(features), "label", [n for n, f in features.items() if isinstance(f, datasets.ClassLabel)])
        if image is None or label is None or not hasattr(features[label], "names"):
            raise UsageError(f"{name}: expected an image and a class label; found the columns {', '.join(features)}.")
        super().__init__(name, features[label].names, np.asarray(rows[label][:]))
        self.split, self.image_column = split, image
        self.rows = rows.cast_column(image, datasets.Image(decode=False))

    def key(self, i: int) -> str:
        return f"{self.split}#{i}"

    def read(self, i: int) -> bytes:
        image = self.rows[i][self.image_column]
        return image["bytes"] if image["bytes"] is not None else read_file(Path(image["path"]))
