"""Opening a data source: a path, or `kind:path`.

| kind | what | classes |
|---|---|---|
| `folder:` | one sub-folder per class; folders named for training, validation and testing are splits | folder names, sorted |
| `list:` | text file of `relative/path label` lines (ImageNet-LT, Places-LT, iNaturalist 2018) | numbers |
| `csv:` | header with `image` or `path`, and `label` | names sorted, or numbers |
| `coco:` | JSON annotations of COCO, iNaturalist, camera traps: one category for each image | names in `categories` |
| `parquet:` | Hugging Face image convention; a file, a pattern, or a folder | names in the schema, or numbers |
| `tar:` | WebDataset's shards, `key.jpg` and `key.cls`; or class folders in a tar file | names sorted, or numbers |
| `zip:` | class folders in a zip file | folder names, sorted |
| `rec:` | InsightFace's RecordIO, a `.rec` with its `.idx` | the identities' numbers |
| `npz:` | arrays train_images, train_labels, test_images, test_labels, class_names | class_names, or numbers |
| `cifar10:`, `cifar100:` | the official python layout | names in the meta file |
| `hf:` | a data set of the Hugging Face hub, through `datasets` | names in its features |
| `fashion-mnist-lt` | the embedded set | |

A reader finds images, labels and splits; `open_source` then settles the classes, the same for all.
"""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...errors import UsageError, unknown_name
from ..images import ImageSet, Splits
from ..recordio import RecordIO
from .annotations import open_coco
from .archives import open_tar, open_zip
from .arrays import EMBEDDED, open_embedded, open_npz
from .cifar import open_cifar10, open_cifar100
from .folder import open_folder
from .given import open_given
from .hub import open_hub
from .labels import match_classes, settle
from .lists import open_csv, open_list
from .parquet import open_parquet
from .splits import Reading, role_of

__all__ = ["KINDS", "absolute", "find_source", "match_classes", "open_source"]

logger = logging.getLogger("longtail")

# a reader takes the location and how to read it, and gives the images of each role: "train" alone where there are no splits
KINDS: dict[str, Callable[[str, Reading], Mapping[str, ImageSet]]] = {
    "cifar10": lambda location, _: open_cifar10(location),
    "cifar100": lambda location, _: open_cifar100(location),
    "coco": open_coco,
    "csv": open_csv,
    "folder": open_folder,
    "hf": open_hub,
    "given": open_given,
    "list": open_list,
    "npz": open_npz,
    "parquet": open_parquet,
    "tar": open_tar,
    "zip": open_zip,
    "rec": lambda location, _: {"train": RecordIO(Path(location))},
    EMBEDDED: lambda location, _: open_embedded(),
}
# which kinds an option is for
OPTIONS: dict[str, tuple[str, ...]] = {
    "root": ("coco", "csv", "list"),
    "image_column": ("csv", "hf", "parquet"),
    "label_column": ("csv", "hf", "parquet"),
    "suffix": ("coco", "csv", "list"),
    "classes_at": ("folder", "tar", "zip"),
    "splits": ("coco", "csv", "folder", "hf", "list", "parquet", "tar", "zip"),
}
_SUFFIXES = {
    ".csv": "csv", ".tsv": "csv", ".txt": "list", ".json": "coco", ".parquet": "parquet", ".npz": "npz", ".rec": "rec",
    ".tar": "tar", ".zip": "zip",
}  # fmt: skip


def open_source(spec: str, *, test: str | None = None, **options: Any) -> Splits:
    """The training set of `spec` and, where there are such, its validation and test set: a path, `kind:path`, or
    `fashion-mnist-lt`.

    `test` takes the test set from another source (its test split, or all of it where it has none). Classes of all are
    matched to the training classes by name. `options` are the fields of `Reading`, None where not given: `root` for
    instance is the folder that paths in `list:` and `csv:` files are relative to (default: the file's own folder).

    Pixels are not decoded yet. What was found where is logged, and what was guessed or left out (`Splits.notes`). Raises
    `UsageError` for an unknown kind, an option that is not for it, a missing, malformed or empty file, labels that are none
    or out of range, and classes that are not training classes. Whether a classifier can be trained on the classes is for
    `check_labels` to say.
    """
    how = Reading(**options)
    _check_options(how, [s for s in (spec, test) if s is not None])
    parts = dict(_open(spec, how))
    train = settle(parts.pop("train"), how)
    if test is not None:
        if "test" in parts:
            how.tell(f"{parts['test'].name} is left aside for {test}.")
        other = _open(test, how)
        parts["test"] = other.get("test") or other.get("val") or other["train"]
    held = {}
    for role, images in parts.items():
        if (images.labels >= 0).any():
            held[role] = match_classes(images, train.class_names, train.name, how)
        else:
            how.tell(f"{images.name}: its {len(images):,} images have no labels and are left out.")
    splits = Splits(train, held.get("test"), held.get("val"), tuple(how.notes))
    _log(splits)
    return splits


def _log(splits: Splits) -> None:
    for note in splits.notes:
        logger.warning("%s", note)
    found = [f"{role} {len(images):,} images of {images.name}" for role, images in splits.named().items()]
    absent = [role for role in ("val", "test") if role not in splits.named()]
    logger.info("data: %s", "; ".join(found + ([f"no {' and no '.join(absent)} split"] if absent else [])))


def _open(spec: str, how: Reading) -> Mapping[str, ImageSet]:
    kind, location = find_source(spec)
    parts = KINDS[kind](location, how)
    for images in parts.values():
        if not len(images):
            raise UsageError(f"{images.name} holds no images. Expected at least one.")
    return parts


def _check_options(how: Reading, specs: list[str]) -> None:
    """Raise `UsageError` for an option that none of the sources' kinds takes."""
    kinds = {find_source(spec)[0] for spec in specs}
    for name in how.given():
        if not kinds & {*OPTIONS[name]}:
            of = " and ".join(f"{kind}:" for kind in OPTIONS[name])
            raise UsageError(f"--{name.replace('_', '-')} is for {of} sources; '{specs[0]}' is none of these.")


def absolute(spec: str) -> str:
    """A source's name that means the same in any working folder: its path absolute, where it is one.

    A name of no source stays as it is, for whoever opens it to refuse.
    """
    try:
        kind, location = find_source(spec)
    except UsageError:
        return spec
    if kind in (EMBEDDED, "given"):
        return spec
    path = os.path.abspath(location)
    return spec if kind == "hf" and not os.path.exists(path) else f"{kind}:{path}"


def find_source(spec: str) -> tuple[str, str]:
    """Kind and location of a source, the kind detected where it is not written, ~ written out. Raises `UsageError`."""
    kind, colon, location = spec.partition(":")
    if spec == EMBEDDED or (colon and kind in KINDS):
        return kind, os.path.expanduser(location)
    path = Path(spec).expanduser()
    if path.is_dir():
        return _kind_of_folder(path), str(path)
    if path.suffix.lower() in _SUFFIXES and (path.is_file() or "*" in spec):
        return _SUFFIXES[path.suffix.lower()], str(path)
    if path.is_file() and path.suffix.lower() in (".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar"):
        raise UsageError(f"{path} is compressed: unpack it, and give what was in it.")
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
    below = [path, path / "data", *(child for child in path.iterdir() if role_of(child.name) and child.is_dir())]
    for kind in ("parquet", "tar"):
        if any(any(folder.glob(f"*.{kind}")) for folder in below):
            return kind
    return "folder"
