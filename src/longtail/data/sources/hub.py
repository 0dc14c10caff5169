"""Data sets of the Hugging Face hub, through the optional package `datasets`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import UsageError
from ..images import ImageSet, read_file
from .columns import LABEL, pick, pick_label
from .labels import rows_named
from .parquet import labels_of_column
from .splits import Reading, of_role, roles_of, titled


def open_hub(location: str, how: Reading) -> dict[str, ImageSet]:
    """`location` is what `datasets.load_dataset` takes, a name on the hub or a local folder, or a folder that
    `save_to_disk` wrote."""
    try:
        import datasets
    except ImportError as error:
        raise UsageError("hf: sources need the package `datasets`: pip install 'longtail[hf]'.") from error
    try:
        if any((Path(location) / name).is_file() for name in ("dataset_dict.json", "state.json")):
            saved = datasets.load_from_disk(location)
            splits = saved if isinstance(saved, Mapping) else {"train": saved}
        else:
            splits = datasets.load_dataset(location)
    except Exception as error:  # the hub, the network and the files each have errors of their own
        raise UsageError(f"Cannot open the data set '{location}': {error}") from error
    return parts_of(splits, f"hf:{location}", how)


def parts_of(splits: Mapping[str, Any], where: str, how: Reading) -> dict[str, ImageSet]:
    """The images of each role in a data set's splits, which messages say are in `where`."""
    import datasets

    roles = roles_of(splits, how, where) or dict.fromkeys(splits, "train")
    parts: dict[str, ImageSet] = {}
    for role in dict.fromkeys(roles.values()):
        names = of_role(roles, role)
        rows = [splits[name] for name in names]
        joined = datasets.concatenate_datasets(rows) if len(rows) > 1 else rows[0]
        parts[role] = HubSet(titled(where, role, names), "+".join(names), joined, how)
    return parts


class HubSet(ImageSet):
    """Rows of one split, which `datasets` keeps in memory-mapped Arrow files."""

    def __init__(self, name: str, split: str, rows: Any, how: Reading) -> None:
        import datasets
        import pyarrow as pa

        features = rows.features
        images = ["image", *(n for n, f in features.items() if isinstance(f, datasets.Image))]
        labels = [*LABEL, *(n.lower() for n, f in features.items() if isinstance(f, datasets.ClassLabel))]
        image = pick(list(features), how.image_column, images, "image-column", name)
        label = pick_label(list(features), how.label_column, labels, name, how, lambda column: rows.data[column])
        if image is None or label is None:
            raise UsageError(f"{name}: expected an image and a class label; found the columns {', '.join(features)}.")
        values = pa.chunked_array([pa.array(rows[label][:])])
        named = tuple(getattr(features[label], "names", None) or ())
        numbers, class_names = labels_of_column(values, named, name, rows_named(lambda row: f"{split} row {row}"), how)
        super().__init__(name, class_names, numbers)
        self.split, self.image_column = split, image
        self.rows = rows.cast_column(image, datasets.Image(decode=False))

    def key(self, i: int) -> str:
        return f"{self.split}#{i}"

    def read(self, i: int) -> bytes:
        image = self.rows[i][self.image_column]
        return image["bytes"] if image["bytes"] is not None else read_file(Path(image["path"]))
