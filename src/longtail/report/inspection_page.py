"""`longtail data inspect --out`: what the terminal shows as a page, with images of the classes and of what is alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..classes import SHOT_MEANINGS, SHOTS
from ..data.images import ImageSet, spread
from ..data.inspect import EXAMPLES, Example, Inspection, SplitInspection
from .figures import training_counts
from .inspection import summary
from .page import write_page
from .thumbnails import Thumbnails
from .verdict import listing

SHOWN = (60, 20)  # classes with pictures, the rarest and the most frequent, where there are more
SAMPLES = 5  # pictures of a class
# Bytes of pictures, of which a photograph takes about 3,000: first those that are alike, then the classes, rarest first.
BUDGET = 2_500_000
PARTS = {
    "summary": "Splits",
    "classes": "Classes",
    "samples": "Images of classes",
    "alike": "Duplicates",
    "unreadable": "Unreadable",
}


def write_inspection(inspection: Inspection, sets: Mapping[str, ImageSet], source: str, path: Path) -> None:
    """Write the page to `path`. `sets`: the inspected images by split; `source`: what the user calls them."""
    thumbnails = Thumbnails(BUDGET)
    splits, classes = inspection.splits(), inspection.classes
    pictures = list(_alike(inspection, sets, thumbnails))
    chosen = _rarest_and_commonest(inspection)
    write_page(
        path,
        "inspection.html",
        {"counts": training_counts(classes)},
        {"classes": _class_rows(inspection)},
        title=f"What is in {source}",
        subtitle=f"{len(classes):,} classes; {listing([f'{s.images:,} {name}' for name, s in splits.items()])} images",
        parts=list(PARTS.items()),
        notes=inspection.notes,
        names=[(name, split.name) for name, split in splits.items()],
        summary={
            "columns": ("", *splits),
            "rows": summary(inspection),
            "caption": "Every image was read and decoded once.",
        },
        shots=_shots(inspection),
        samples=[_samples(c, inspection, sets["train"], thumbnails) for c in chosen],
        all_shown=len(chosen) == len(classes),
        shown=SHOWN,
        most=SAMPLES,
        alike=pictures,
        examples=EXAMPLES,
        unreadable=[(name, text) for name, split in splits.items() for text in split.unreadable_examples],
        unreadable_count=sum(split.unreadable for split in splits.values()),
    )


def _rarest_and_commonest(inspection: Inspection) -> list[int]:
    """The classes whose images are shown, the rarest first: all, or `SHOWN` of both ends."""
    order = np.argsort(inspection.train.counts, kind="stable").tolist()
    rarest, commonest = SHOWN
    return order if len(order) <= sum(SHOWN) else [*order[:rarest], *order[-commonest:]]


def _samples(c: int, inspection: Inspection, images: ImageSet, thumbnails: Thumbnails) -> dict[str, Any]:
    """Training images of class `c`, evenly from its first to its last."""
    members = np.flatnonzero(images.labels == c)
    places = spread(len(members), SAMPLES)
    uris = [thumbnails.uri(images, int(i)) for i in members[places]] if len(members) else []
    return {
        "name": inspection.class_names[c],
        "shot": inspection.classes.shots[c],
        "images": f"{len(members):,}",
        "uris": [uri for uri in uris if uri],
    }


def _class_rows(inspection: Inspection) -> dict[str, Any]:
    """The table of classes, rarest first."""
    classes, splits = inspection.classes, inspection.splits()
    columns = [("class", "text"), ("shots", "text"), *((f"{name} images", "number") for name in splits)]
    rows = [
        [classes.names[c], str(classes.shots[c]), *(split.counts[c] for split in splits.values())]
        for c in np.argsort(classes.counts, kind="stable").tolist()
    ]
    return {"columns": [{"name": name, "kind": kind} for name, kind in columns], "rows": rows}


def _shots(inspection: Inspection) -> dict[str, Any]:
    rows = []
    for shot in SHOTS:
        classes, images = inspection.shots[shot]
        rows.append((f"{shot} ({SHOT_MEANINGS[shot]} training images)", f"{classes:,}", f"{images:,}"))
    return {
        "columns": ("", "classes", "training images"),
        "rows": rows,
        "caption": "Groups of classes by training images.",
    }


def _alike(inspection: Inspection, sets: Mapping[str, ImageSet], thumbnails: Thumbnails) -> Iterator[dict[str, Any]]:
    """Of each kind that was found its examples: within each split, and between two."""
    for name, split in inspection.splits().items():
        if split.duplicate_examples:
            pictures = _pairs(split.duplicate_examples, sets[name], sets[name], thumbnails)
            yield {"name": f"Within {name}", "about": _within(split), "pictures": pictures}
    for overlap in inspection.overlaps:
        if overlap.examples:
            yield {
                "name": f"Between {overlap.first} and {overlap.second}",
                "about": f"{overlap.same:,} {overlap.second} images are {overlap.first} images byte for byte, "
                f"{overlap.similar:,} look like one. What is in both makes the accuracy on "
                f"{overlap.second} look better than it is.",
                "pictures": _pairs(overlap.examples, sets[overlap.first], sets[overlap.second], thumbnails),
            }


def _within(split: SplitInspection) -> str:
    contradictions = f" ({split.contradictions:,} with another label)" if split.contradictions else ""
    return (
        f"{split.duplicates:,} repeat an earlier image byte for byte{contradictions}, {split.similar:,} look like one."
    )


def _pairs(examples: list[Example], first: ImageSet, second: ImageSet, thumbnails: Thumbnails) -> list[dict[str, Any]]:
    ours, theirs = _places(first, {a for a, _, _ in examples}), _places(second, {b for _, b, _ in examples})
    pictures = []
    for a, b, how in examples:
        labels = first.class_names[first.labels[ours[a]]], second.class_names[second.labels[theirs[b]]]
        pictures.append(
            {
                "uris": [thumbnails.uri(second, theirs[b]), thumbnails.uri(first, ours[a])],
                "alt": f"{b} or {a}",
                "lines": [
                    labels[0] if labels[0] == labels[1] else f"{labels[1]}, the other {labels[0]}",
                    b,
                    f"{how} {a}",
                ],
            }
        )
    return pictures


def _places(images: ImageSet, keys: set[str]) -> dict[str, int]:
    return {key: i for i in range(len(images)) if (key := images.key(i)) in keys}
