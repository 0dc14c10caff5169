"""Images of one split that are nearly images of another: copies that were re-encoded, resized or retouched."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from PIL import Image

from .decode import CorruptImage
from .images import ImageSet

SIDE = 16  # pixels of the small grey copy that stands for an image
ALIKE = 0.995  # correlation of two copies from which on they are taken for one picture
_CHUNK = 1024


def small_copies(images: ImageSet, rows: Iterable[int]) -> np.ndarray:
    """The images at `rows` as grey copies of `SIDE` x `SIDE` pixels, each with mean 0 and length 1: float32 [N, SIDE^2].

    Brightness and contrast do not matter then. An image that cannot be read or is of one grey all over is all zeros, and
    like no other.
    """
    rows = list(rows)
    copies = np.zeros((len(rows), SIDE * SIDE), np.float32)
    for place, row in enumerate(rows):
        try:
            pixels = images.image(row, 1, at_least=(SIDE, SIDE))[..., 0]
        except CorruptImage:
            continue
        small = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        copies[place] = np.asarray(small, np.float32).ravel()
    copies -= copies.mean(1, keepdims=True)
    lengths = np.linalg.norm(copies, axis=1, keepdims=True)
    return np.divide(copies, lengths, out=np.zeros_like(copies), where=lengths > 1e-3)


def near_duplicates(copies: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each of `copies` [N, P] that is nearly one of `others` [M, P]: both positions, int64 [K, 2], and how alike the
    two are, float32 [K], at most 1; the most alike first."""
    pairs, likeness = [np.zeros((0, 2), np.int64)], [np.zeros(0, np.float32)]
    for start in range(0, len(copies) if len(others) else 0, _CHUNK):
        similar = copies[start : start + _CHUNK] @ others.T
        nearest = similar.argmax(1)
        best = similar[np.arange(len(nearest)), nearest]
        found = np.flatnonzero(best >= ALIKE)
        pairs.append(np.stack([found + start, nearest[found]], axis=1))
        likeness.append(best[found])
    found_pairs, found_likeness = np.concatenate(pairs), np.concatenate(likeness)
    order = np.argsort(-found_likeness, kind="stable")
    return found_pairs[order], found_likeness[order]
