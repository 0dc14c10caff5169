"""An image folder: one sub-folder per class."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ...errors import UsageError
from ..images import FileSet, Splits
from .names import test_split

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


def open_folder(location: str) -> Splits:
    """Classes are the sub-folders, sorted; images may lie deeper. Other files, and hidden ones, are passed over."""
    root = Path(location)
    if not root.is_dir():
        raise UsageError(f"Folder {root} does not exist.")
    splits = [folder.name for folder in _subfolders(root) if _subfolders(folder)]
    if "train" not in splits:
        return Splits(_read(root, root, "train"))
    test = test_split(splits)
    return Splits(_read(root, root / "train", "train"), _read(root, root / test, "test") if test else None)


def _subfolders(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _read(root: Path, folder: Path, split: str) -> FileSet:
    classes = _subfolders(folder)
    paths, labels = [], []
    for label, class_folder in enumerate(classes):
        found = sorted(images_under(class_folder))
        paths += [str(path.relative_to(root)) for path in found]
        labels += [label] * len(found)
    if not paths:
        raise UsageError(
            f"No images in {folder}: expected one sub-folder per class, with files named {', '.join(SUFFIXES)}."
        )
    return FileSet(f"folder:{root} ({split})", [c.name for c in classes], labels, root, paths)


def images_under(folder: Path) -> Iterator[Path]:
    """Image files in `folder` and below, by their suffix, in a fixed order, but for hidden ones. Links are followed."""
    seen = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        place = os.path.realpath(parent)
        if place in seen:  # a link may lead in a circle
            folders.clear()
            continue
        seen.add(place)
        folders.sort()
        for name in sorted(names):
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                yield Path(parent, name)
