"""Carving a long tail out of a balanced set, holding out a validation split, and checking labels."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

from ..errors import UsageError, unknown_name
from .images import ImageSet

PROFILES = ("exp", "step")
RULES = ("ldam", "first", "random")


def profile_counts(n_max: int, num_classes: int, imbalance: float, profile: str = "exp") -> np.ndarray:
    """Images to keep of each class, int64 [num_classes], in label order.

    "exp": n_c = floor(n_max * (1 / imbalance)^(c / (C - 1))). "step": n_max for the first half of the classes (the
    smaller half where C is odd), floor(n_max / imbalance) for the rest. Cao et al., NeurIPS 2019, section 4.

    Raises `UsageError` for an unknown profile, an imbalance below 1, fewer than two classes, and an imbalance so large
    that a class would be left with no image.
    """
    if profile not in PROFILES:
        raise unknown_name("profile", profile, PROFILES)
    if not 1 <= imbalance < float("inf"):
        raise UsageError(f"Imbalance factor {imbalance:g} is impossible: give 1 (balanced) or more.")
    if num_classes < 2:
        raise UsageError(f"A long tail needs at least two classes; found {num_classes}.")
    c = np.arange(num_classes)
    exponent = c / (num_classes - 1) if profile == "exp" else c >= num_classes // 2
    # the small term: 49 * (1 / 49) is 0.99.. in floating point and means 1
    counts = np.floor(n_max * (1 / imbalance) ** exponent + 1e-9).astype(np.int64)
    if counts[-1] < 1:
        raise UsageError(
            f"Imbalance factor {imbalance:g} leaves class {num_classes - 1} with no image: the largest class has "
            f"{n_max:,}, so the factor can be at most {n_max:,}."
        )
    return counts


def carve(
    labels: np.ndarray,
    num_classes: int,
    imbalance: float,
    profile: str = "exp",
    rule: str = "ldam",
    seed: int = 0,
    n_max: int | None = None,
) -> np.ndarray:
    """Positions of the images to keep of a balanced set, int64, ascending.

    `labels`: int64 [N]. Class sizes follow `profile_counts`, the largest being `n_max` (default: all it has). Which images
    of a class stay: "ldam": numpy's `RandomState(0)` shuffles each class in turn, the first n_c stay (LDAM's released code;
    `seed` has no part in it); "first": the first n_c in the set's order (BCE3S's); "random": drawn without replacement with
    `seed` (GLMC's after its 2023 fix).

    Raises `UsageError` for an unknown rule, whatever `profile_counts` refuses, and a class with fewer images than the
    profile asks for.
    """
    if rule not in RULES:
        raise unknown_name("subset rule", rule, RULES)
    available = np.bincount(labels, minlength=num_classes)
    wanted = profile_counts(n_max or int(available.max()), num_classes, imbalance, profile)
    short = np.flatnonzero(available < wanted)
    if len(short):
        c = short[0]
        raise UsageError(
            f"Cannot carve imbalance {imbalance:g}: class {c} has {available[c]:,} images and the profile asks for "
            f"{wanted[c]:,}. The set is already imbalanced: leave --imbalance out to take it as it is."
        )
    ldam, seeded = np.random.RandomState(0), np.random.default_rng(seed)
    kept = []
    for members, n in zip(_by_class(labels, num_classes), wanted, strict=True):
        if rule == "ldam":
            ldam.shuffle(members)
        elif rule == "random":
            seeded.shuffle(members)
        kept.append(members[:n])
    return np.sort(np.concatenate(kept))


def _by_class(labels: np.ndarray, num_classes: int) -> list[np.ndarray]:
    """The positions of each class, ascending."""
    ends = np.cumsum(np.bincount(labels, minlength=num_classes))
    return np.split(np.argsort(labels, kind="stable"), ends[:-1])


def subset_hash(indices: np.ndarray) -> str:
    """Twelve hexadecimal digits that name a subset: SHA-256 of its sorted positions as little-endian int64."""
    return hashlib.sha256(np.sort(indices).astype("<i8").tobytes()).hexdigest()[:12]


def labels_hash(class_names: Sequence[str], splits: Iterable[np.ndarray]) -> str:
    """As `subset_hash`, of the names of the classes and the labels, int64 [N] each, of the splits' images in order."""
    digest = hashlib.sha256("\n".join(class_names).encode())
    for labels in splits:
        digest.update(labels.astype("<i8").tobytes())
    return digest.hexdigest()[:12]


def holdout(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split positions into training and validation, int64 each, ascending; stratified and drawn with `seed`.

    A class of n images gives round(n * fraction), but never its last one: classes of one image stay in training whole,
    and the smallest classes may have none in validation.

    Raises `UsageError` for a fraction outside (0, 1), or one so small that no image is held out.
    """
    if not 0 < fraction < 1:
        raise UsageError(f"Validation share {fraction:g} is impossible: give a number between 0 and 1.")
    rng = np.random.default_rng(seed)
    held = np.zeros(len(labels), dtype=bool)
    for members in _by_class(labels, 0):
        size = min(int(len(members) * fraction + 0.5), max(len(members) - 1, 0))
        held[rng.permutation(members)[:size]] = True
    if not held.any():
        raise UsageError(f"Validation share {fraction:g} holds out no image of {len(labels):,}: give a larger one.")
    return np.flatnonzero(~held), np.flatnonzero(held)


def check_range(images: ImageSet) -> None:
    """Raise `UsageError`, naming the first such image, unless every label is in 0..C-1."""
    num_classes = len(images.class_names)
    outside = np.flatnonzero((images.labels < 0) | (images.labels >= num_classes))
    if len(outside):
        i = int(outside[0])
        raise UsageError(
            f"{images.name}: label {images.labels[i]} of image {images.key(i)} is out of range; expected 0 to "
            f"{num_classes - 1} (images with such a label: {len(outside):,})."
        )


def check_labels(images: ImageSet) -> None:
    """Raise `UsageError` unless a classifier can be trained on these: labels in range, two classes or more, an image of
    each."""
    if len(images.class_names) < 2:
        raise UsageError(
            f"{images.name} has one class only ('{''.join(images.class_names)}'): a classifier needs at least two."
        )
    check_range(images)
    empty = np.flatnonzero(np.bincount(images.labels, minlength=len(images.class_names)) == 0)
    if len(empty):
        raise UsageError(
            f"{images.name}: class {empty[0]} ('{images.class_names[empty[0]]}') has no training image "
            f"({len(empty):,} of {len(images.class_names):,} classes). Add images or remove the class."
        )
