"""Opening a data source: a path, or `kind:path`.

| kind | what | classes |
|---|---|---|
| `folder:` | one sub-folder per class; `train/` and `test/` (or `val/`) as splits | folder names, sorted |
| `list:` | text file of `relative/path label` lines (ImageNet-LT, Places-LT, iNaturalist 2018) | numbers |
| `csv:` | header with `image` or `path`, and `label` | names sorted, or numbers |
| `parquet:` | Hugging Face image convention; a file, a pattern, or a folder | names in the schema, or numbers |
| `rec:` | InsightFace's RecordIO, a `.rec` with its `.idx` | the identities' numbers |
| `npz:` | arrays train_images, train_labels, test_images, test_labels, class_names | class_names, or numbers |
| `cifar10:`, `cifar100:` | the official python layout | names in the meta file |
| `hf:` | a data set of the Hugging Face hub, through `datasets` | names in its features |
| `fashion-mnist-lt` | the embedded set | |
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ...errors import UsageError, unknown_name
from ..images import ImageSet, Splits
from ..longtail import check_range
from ..recordio import RecordIO
from .arrays import EMBEDDED, open_embedded, open_npz
from .cifar import open_cifar10, open_cifar100
from .folder import open_folder
from .hub import open_hub
from .lists import open_csv, open_list
from .parquet import open_parquet

__all__ = ["KINDS", "find_source", "match_classes", "open_source"]

# a reader takes the location and the root given for relative paths
KINDS: dict[str, Callable[[str, str | None], Splits]] = {
    "cifar10": lambda location, _: open_cifar10(location),
    "cifar100": lambda location, _: open_cifar100(location),
    "csv": open_csv,
    "folder": lambda location, _: open_folder(location),
    "hf": lambda location, _: open_hub(location),
    "list": open_list,
    "npz": lambda location, _: open_npz(location),
    "parquet": lambda location, _: open_parquet(location),
    "rec": lambda location, _: Splits(RecordIO(Path(location))),
    EMBEDDED: lambda location, _: open_embedded(),
}
_SUFFIXES = {".csv": "csv", ".txt": "list", ".parquet": "parquet", ".npz": "npz", ".rec": "rec"}


def open_source(spec: str, *, test: str | None = None, root: str | None = None) -> Splits:
    """The training set and, where there is one, the test set of `spec`: a path, `kind:path`, or `fashion-mnist-lt`.

    `test` takes the test set from another source (its test split, or all of it where it has none). Its classes are
    matched to the training classes by name. `root` is the folder that paths in `list:` and `csv:` files are relative to
    (default: the file's own folder).

    Pixels are not decoded yet. Raises `UsageError` for an unknown kind, a missing, malformed or empty file, a label out
    of range, and test classes that are not training classes. Whether a classifier can be trained on the classes is for
    `check_labels` to say.
    """
    if root is not None and not {find_source(s)[0] for s in (spec, test) if s} & {"csv", "list"}:
        raise UsageError(f"A root is for the paths of list: and csv: sources; '{spec}' is neither.")
    splits = _open(spec, root)
    if test is not None:
        other = _open(test, root)
        splits = Splits(splits.train, other.test or other.train)
    check_range(splits.train)
    if splits.test is not None:
        check_range(splits.test)
        match_classes(splits.test, splits.train.class_names, splits.train.name)
    return splits


def _open(spec: str, root: str | None) -> Splits:
    kind, location = find_source(spec)
    splits = KINDS[kind](location, root)
    for images in (splits.train, splits.test):
        if images is not None and not len(images):
            raise UsageError(f"{images.name} holds no images. Expected at least one.")
    return splits


def find_source(spec: str) -> tuple[str, str]:
    """Kind and location of a source, the kind detected where it is not written, ~ written out. Raises `UsageError`."""
    kind, colon, location = spec.partition(":")
    if spec == EMBEDDED or (colon and kind in KINDS):
        return kind, os.path.expanduser(location)
    path = Path(spec).expanduser()
    if path.is_dir():
        return _kind_of_folder(path), str(path)
    if path.suffix in _SUFFIXES and (path.is_file() or "*" in spec):
        return _SUFFIXES[path.suffix], str(path)
    if path.is_file():
        raise UsageError(
            f"Cannot tell what kind of source {path} is. Write kind:{path} with one of {', '.join(sorted(KINDS))}."
        )
    if colon and "/" not in kind:
        raise unknown_name("source kind", kind, KINDS)
    near = difflib.get_close_matches(spec, [EMBEDDED], cutoff=0.5)
    hint = f"Did you mean '{EMBEDDED}'?" if near else f"Give a path, kind:path, or {EMBEDDED}."
    raise UsageError(f"Source '{spec}' is neither a file nor a folder. {hint}")


def _kind_of_folder(path: Path) -> str:
    if (path / "data_batch_1").is_file():
        return "cifar10"
    if (path / "train").is_file() and (path / "meta").is_file():
        return "cifar100"
    if any(path.glob("*.parquet")) or any(path.glob("data/*.parquet")):
        return "parquet"
    return "folder"


def match_classes(images: ImageSet, class_names: tuple[str, ...], whose: str) -> None:
    """Renumber, in place, the labels of `images` by the order of `class_names`, which belong to `whose` ("photos (train)").

    Raises `UsageError` where the images have a class that is not among them.
    """
    if images.class_names == class_names:
        return
    position = {name: c for c, name in enumerate(class_names)}
    unknown = [name for name in images.class_names if name not in position]
    if unknown:
        raise UsageError(
            f"Class '{unknown[0]}' of {images.name} is not a class of {whose} ({len(unknown):,} of "
            f"{len(images.class_names):,} classes are not). Both need the same class names."
        )
    images.labels = np.array([position[name] for name in images.class_names], dtype=np.int64)[images.labels]
    images.class_names = class_names
