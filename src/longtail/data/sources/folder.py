"""An image folder: one sub-folder per class, perhaps in one folder for each split; on disk, or in a zip file."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from ...errors import UsageError
from .. import heic
from ..images import FileSet, ImageSet, Strings
from .splits import Reading, listing, titled
from .tree import Path_, place

SUFFIXES = (
    ".apng", ".avif", ".avifs", ".bmp", ".gif", ".j2c", ".j2k", ".jfif", ".jp2", ".jpc", ".jpe", ".jpeg", ".jpf", ".jpg",
    ".jpx", ".mpo", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp",
)  # fmt: skip

Make = Callable[[str, Sequence[str], np.ndarray, Strings], ImageSet]
Files = Mapping[Path_, Sequence[str]]


def open_folder(location: str, how: Reading) -> dict[str, ImageSet]:
    """Classes are the sub-folders, sorted; images may lie deeper. Other files, and hidden ones, are passed over."""
    root = Path(location)
    if not root.is_dir():
        raise UsageError(f"Folder {root} does not exist.")
    passed: Counter[str] = Counter()
    files: dict[Path_, list[str]] = {}
    bare: list[Path_] = []
    for parent, names in _image_names(root, passed):
        path = () if parent == "." else tuple(parent.split(os.sep))
        if names:
            files[path] = names
        else:
            bare.append(path)
    return read_tree(
        files,
        passed,
        how,
        f"folder:{root}",
        lambda name, classes, labels, paths: FileSet(name, classes, labels, root, paths),
        bare,
    )


def read_tree(
    files: Files, passed: Counter[str], how: Reading, where: str, make: Make, bare: Iterable[Path_] = ()
) -> dict[str, ImageSet]:
    """The splits of images in folders. `files`: names of the images directly in each; `passed`: how many files of each
    suffix are none; `bare`: folders without an image directly in them. Raises `UsageError` where there is no image."""
    if passed:
        left = [f"{n:,} {suffix or 'without suffix'}" for suffix, n in passed.most_common()]
        hint = (
            " (the extra `heic` reads these: pip install 'longtail[heic]')" if set(passed) & set(heic.SUFFIXES) else ""
        )
        how.tell(f"{where}: {sum(passed.values()):,} files are no images by their names and were passed over: "
                 f"{listing(left, 8)}{hint}.")  # fmt: skip
    above = {path[:depth] for path in files for depth in range(len(path))}
    if files and (empty := sorted("/".join(path) for path in set(bare) - above)):
        how.tell(f"{where}: folders that hold no image are no classes: {listing(empty)}.")
    parts = {}
    for role, placed in place({path: len(names) for path, names in files.items()}, how, where).items():
        by_class: dict[str, list[Path_]] = {}
        for folder, class_name in placed.classes.items():
            by_class.setdefault(class_name, []).append(folder)
        class_names = sorted(by_class)
        paths: list[str] = []
        counts: list[int] = []
        for class_name in class_names:
            found = ["/".join((*folder, name)) for folder in sorted(by_class[class_name]) for name in files[folder]]
            if len(by_class[class_name]) > 1:
                found.sort(key=lambda path: path.split("/"))
            paths += found
            counts.append(len(found))
        if not paths:
            others = f" {how.notes[-1]}" if passed else ""
            raise UsageError(
                f"No images in {where}: expected one sub-folder per class, with files named {', '.join(SUFFIXES)}.{others}"
            )
        name = titled(where, role, placed.names)
        labels = np.repeat(np.arange(len(class_names)), counts)
        parts[role] = make(name, class_names, labels, Strings.of(paths))
    return parts


def images_under(folder: Path) -> Iterator[Path]:
    """Image files in `folder` and below, by their suffix, in a fixed order, but for hidden ones. Links are followed."""
    for parent, names in _image_names(folder, Counter()):
        for name in names:
            yield folder / parent / name


def suffixes() -> tuple[str, ...]:
    """Suffixes of the files that are read, those of HEIC where the extra is there."""
    return SUFFIXES + heic.SUFFIXES if heic.is_read() else SUFFIXES


def _image_names(root: Path, passed: Counter[str]) -> Iterator[tuple[str, list[str]]]:
    """Each folder, relative to `root`, and the names of the images in it, all in a fixed order."""
    seen = set()
    known = suffixes()
    for parent, folders, names in os.walk(root, followlinks=True):
        place = os.path.realpath(parent)
        if place in seen:  # a link may lead in a circle
            folders.clear()
            continue
        seen.add(place)
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        shown = sorted(name for name in names if not name.startswith("."))
        images = [name for name in shown if name.lower().endswith(known)]
        if len(images) < len(shown):
            passed.update(Path(name).suffix.lower() for name in shown if not name.lower().endswith(known))
        yield os.path.relpath(parent, root), images


def is_hidden(folder: str) -> bool:
    """Whether a folder is one that systems make for themselves, and people do not see."""
    return folder.startswith(".") or folder in ("__MACOSX", "@eaDir")
