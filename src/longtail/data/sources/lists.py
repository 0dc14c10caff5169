"""Text files that name images and their labels: the official long-tail lists, and CSV."""

from __future__ import annotations

import csv
from pathlib import Path

from ...errors import UsageError
from ..images import FileSet, Splits
from .names import from_strings, numbered


def open_list(location: str, root: str | None) -> Splits:
    """Lines of `relative/path label`. The label is the last word, a class number from 0; paths may contain spaces."""
    file = Path(location)
    paths, labels = [], []
    for number, line in enumerate(_text(file).splitlines(), 1):
        if not line.strip():
            continue
        path, _, label = line.strip().replace("\t", " ").rpartition(" ")
        if not path or not label.lstrip("-").isdecimal():
            raise UsageError(f"{file} line {number}: no label in '{line.strip()}'; expected 'relative/path label'.")
        if int(label) < 0:
            raise UsageError(f"{file} line {number}: label {label} is out of range; class numbers start at 0.")
        paths.append(path.rstrip())
        labels.append(int(label))
    name = f"list:{file}"
    return Splits(FileSet(name, numbered(labels, name), labels, _root(file, root, paths), paths))


def open_csv(location: str, root: str | None) -> Splits:
    """A header with a column `image` or `path` and a column `label`, which holds class numbers or class names."""
    file = Path(location)
    rows = csv.DictReader(_text(file).splitlines())
    header = list(rows.fieldnames or [])
    image = next((column for column in ("image", "path") if column in header), None)
    if image is None or "label" not in header:
        raise UsageError(
            f"{file}: expected columns 'image' (or 'path') and 'label'; found {', '.join(header) or 'none'}."
        )
    paths, values = [], []
    for row in rows:
        if not row[image] or not row["label"]:
            raise UsageError(f"{file} line {rows.line_num}: no {'label' if row[image] else image} in this row.")
        paths.append(row[image])
        values.append(row["label"].strip())
    name = f"csv:{file}"
    labels, class_names = from_strings(values, name)
    return Splits(FileSet(name, class_names, labels, _root(file, root, paths), paths))


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"Cannot read {file}: {getattr(error, 'strerror', None) or 'it is not UTF-8 text'}."
        ) from error


def _root(file: Path, root: str | None, paths: list[str]) -> Path:
    """The folder that `paths` are relative to. Only the first is looked for: a list can have millions."""
    if not paths:
        raise UsageError(f"{file} names no image.")
    folder = Path(root).expanduser() if root else file.parent
    if not (folder / paths[0]).is_file():
        raise UsageError(
            f"{file}: its first image {paths[0]} is not under {folder}. Give the images' folder as --root."
        )
    return folder
