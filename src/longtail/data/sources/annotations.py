"""COCO's JSON annotations, which iNaturalist and the camera-trap sets use too."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import UsageError, brief
from ..images import FileSet, ImageSet
from .columns import in_folders, in_splits
from .labels import UNLABELLED, check_repeats, from_numbers, rows_named, tidy
from .splits import NONE, Reading
from .text import located, read_text


def open_coco(location: str, how: Reading) -> dict[str, ImageSet]:
    """A JSON file of `images` (id, file_name), `annotations` (image_id, category_id) and `categories` (id, name).

    An image's class is the category of its annotations; without `categories` classes are their numbers. Raises
    `UsageError` where an image has several, which is no classification.
    """
    import pyarrow as pa

    file = Path(location)
    content = _load(file)
    images, annotations = _table(content, "images", file), _table(content, "annotations", file)
    categories = _table(content, "categories", file) if "categories" in content else []
    where = f"coco:{file}"
    names = {_field(category, "id", file, int): _field(category, "name", file, str) for category in categories}
    if len(names) < len(categories):
        raise UsageError(f"{file}: two of its categories have the same id.")
    number = {_field(image, "id", file, (int, str)): k for k, image in enumerate(images)}
    if len(number) < len(images):
        raise UsageError(f"{file}: two of its images have the same id.")
    labels = np.full(len(images), UNLABELLED, np.int64)
    several = []
    for annotation in annotations:
        image = number.get(_field(annotation, "image_id", file, (int, str)))
        category = _field(annotation, "category_id", file, int)
        if image is None:
            raise UsageError(
                f"{file}: an annotation is of image {brief(str(annotation['image_id']))}, which is not in 'images'."
            )
        if names and category not in names:
            raise UsageError(f"{file}: an annotation has category {category}, which is not in 'categories'.")
        if not 0 <= category < 2**62:
            raise UsageError(f"{file}: an annotation has category {category}, which is no class number.")
        if labels[image] not in (UNLABELLED, category):
            several.append(image)
        labels[image] = category
    paths = [_field(image, "file_name", file, str) for image in images]
    if several:
        raise UsageError(
            f"{file}: {len(set(several)):,} images are of several categories, first {brief(paths[several[0]])}. Multi-label data "
            "and detection are not supported: give each image one class, for instance by cutting its objects out."
        )
    if names:
        order = sorted(names)
        class_names = [tidy(names[category]) for category in order]
        position = {category: c for c, category in enumerate(order)} | {UNLABELLED: UNLABELLED}
        distinct, inverse = np.unique(labels, return_inverse=True)
        labels = np.array([position[int(category)] for category in distinct], np.int64)[inverse.reshape(-1)]
    else:
        labels, found = from_numbers(labels, where, rows_named(lambda row: paths[row]))
        class_names = list(found)
    root, there = located(file, how, pa.array(paths, pa.large_string()))
    found_images = FileSet(where, class_names, labels, root, there)
    check_repeats(found_images, how)
    if images and all(isinstance(image.get("split"), str) for image in images):
        values = pa.array([image["split"] for image in images], pa.large_string())
        return in_splits(found_images, None if how.splits == NONE else "split", values, where, how)
    return in_folders(found_images, there.array, where, how)


def _load(file: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(read_text(file))
    except (ValueError, RecursionError, MemoryError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{file} is not valid JSON: {brief(str(error), 120)}.") from error
    if not isinstance(content, dict):
        raise UsageError(f"{file} holds a {type(content).__name__}; expected COCO's 'images' and 'annotations'.")
    return content


def _table(content: Mapping[str, Any], name: str, file: Path) -> list[dict[str, Any]]:
    rows = content.get(name)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UsageError(f"{file}: expected a list '{name}' of records, as COCO's annotations have.")
    return rows


def _field(row: Mapping[str, Any], name: str, file: Path, kind: type | tuple[type, ...]) -> Any:
    value = row.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise UsageError(
            f"{file}: a record has {name} {brief(repr(value))}; expected {_words(kind)}: {brief(str(row), 120)}"
        )
    if isinstance(value, str) and not value.isprintable() and "\0" in value:
        raise UsageError(f"{file}: a NUL character in {name} {brief(repr(value))}.")
    return value


def _words(kind: type | tuple[type, ...]) -> str:
    words = {int: "a whole number", str: "a text"}
    return " or ".join(words[k] for k in (kind if isinstance(kind, tuple) else (kind,)))
