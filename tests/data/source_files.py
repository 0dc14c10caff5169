"""Small sources for several test files."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from longtail.data.images import ImageSet, Splits

rng = np.random.default_rng(0)


def png(array: np.ndarray | None = None) -> bytes:
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (6, 5, 3), dtype=np.uint8) if array is None else array).save(file, "PNG")
    return file.getvalue()


def write_images(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png())


def write_parquet(path: Path, labels: list, names: list[str] | None = None, **columns: list) -> None:
    """A picture for each label, the class names in the metadata, and further columns."""
    images = pa.array(
        [{"bytes": png(), "path": None} for _ in labels], pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    )
    table = pa.table(
        {"image": images, "label": labels if isinstance(labels, pa.Array) else pa.array(labels), **columns}
    )
    if names is not None:
        features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def classes_of(images: ImageSet | None) -> list[str]:
    """The class of each image, by name."""
    assert images is not None
    return [images.class_names[c] for c in images.labels]


def sizes(splits: Splits) -> dict[str, int]:
    return {role: len(images) for role, images in splits.named().items()}
