"""Images that are in two sets, or twice in one: byte for byte, or to the eye (saved anew, resized, a little brighter)."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping

import numpy as np
from PIL import Image

from .decode import CorruptImage
from .images import ImageSet

logger = logging.getLogger("longtail")

SIDE = 16  # pixels of a thumbnail
# Two images look the same where their thumbnails correlate by at least ALIKE and the one is far closer than most others
# are: no further off than NEARER times the tenth nearest. Photographs saved anew, halved or a little brighter are found so,
# and others of the same scene; in sets whose images all look much alike (small garments on black), a few others too.
ALIKE, NEARER, NEIGHBOURS = 0.95, 0.1, 10
_BLOCK = 1024

# What is looked at before a training starts, of each held-out set and of the training images: enough to see that something
# is wrong with a split, in seconds.
SAMPLE, CANDIDATES, BYTES = 2_000, 200_000, 256 * 2**20


def content_hash(raw: bytes | np.ndarray) -> int:
    """64 bits that tell millions of images apart; never 0."""
    content = raw if isinstance(raw, bytes) else repr(raw.shape).encode() + raw.tobytes()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little", signed=True) or 1


def repeats(hashes: np.ndarray) -> np.ndarray:
    """Positions [K, 2]: the first image of a hash, and each later one of the same hash. 0 stands for no image."""
    _, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    earlier = first[inverse]
    repeated = np.flatnonzero((earlier != np.arange(len(hashes))) & (hashes != 0))
    return np.stack([earlier[repeated], repeated], axis=1)


def shared(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Positions [K, 2] of images of `second` whose hash an image of `first` has too, which comes first."""
    pairs = repeats(np.concatenate([first, second])) - [0, len(first)]
    return pairs[(pairs[:, 0] < len(first)) & (pairs[:, 1] >= 0)]


def thumbnail(pixels: np.ndarray) -> np.ndarray:
    """What an image, uint8 [H, W, C], is recognised by: float32 [256] of length 1, without mean; zeros for a blank one."""
    image = Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[..., 0]).convert("L")
    large = min(image.size) >= 2 * SIDE
    small = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX if large else Image.Resampling.BILINEAR))
    centred = small.astype(np.float32).ravel() - np.float32(small.mean())
    return centred / max(float(np.linalg.norm(centred)), 1e-6)


def look_alikes(first: np.ndarray, second: np.ndarray | None = None) -> np.ndarray:
    """Positions [K, 2]: each image of `second` and the one of `first` that looks the same; within `first`, in its order,
    where there is no `second`. Both are thumbnails, float32 [N, 256]."""
    pairs = [np.zeros((0, 2), np.int64)]
    others = first if second is None else second
    for start in range(0, len(others), _BLOCK):
        block = others[start : start + _BLOCK]
        rows = np.arange(len(block))
        likeness = block @ first.T
        if second is None:
            likeness[rows, start + rows] = 0
        nearest = likeness.argmax(axis=1)
        best = likeness[rows, nearest]
        tenth = np.zeros(len(block), np.float32)
        if likeness.shape[1] > NEIGHBOURS:
            tenth = np.maximum(-np.partition(-likeness, NEIGHBOURS, axis=1)[:, NEIGHBOURS], 0)
        found = np.flatnonzero((best >= ALIKE) & (1 - best <= NEARER * (1 - tenth)))
        pairs.append(np.stack([nearest[found], start + found], axis=1))
    joined = np.concatenate(pairs)
    return joined if second is not None else joined[joined[:, 0] < joined[:, 1]]


def warn_of_overlap(train: ImageSet, held_out: Mapping[str, ImageSet]) -> None:
    """Log how many held-out images are training images too, byte for byte, and of how many that was found out.

    Looks at `SAMPLE` images of a held-out set, spread over it, and at those of up to `CANDIDATES` training images that have
    as many bytes as one of them, until `BYTES` were read.
    """
    for name, images in held_out.items():
        chosen = _spread(len(images), SAMPLE)
        theirs = _Hashes(images, chosen)
        candidates = _spread(len(train), CANDIDATES)
        sizes = train.sizes(candidates)
        if sizes is not None:
            candidates = candidates[np.isin(sizes, theirs.sizes)]
        ours = _Hashes(train, candidates)
        compared = len(_spread(len(train), CANDIDATES)) if ours.complete else len(ours.positions)
        pairs = shared(ours.hashes, theirs.hashes)
        looked = (
            f"{len(theirs.positions):,} of {len(images):,} {name} images compared with {compared:,} of {len(train):,}"
        )
        if not len(pairs):
            logger.info("no %s image is a training image too, byte for byte (%s)", name, looked)
            continue
        ours_key, their_key = (
            train.key(int(ours.positions[pairs[0, 0]])),
            images.key(int(theirs.positions[pairs[0, 1]])),
        )
        logger.warning(
            "%s: %s of its images are training images too, byte for byte (%s), first %s, which is %s. Accuracy on these "
            "says nothing about new images: take them out of one of the splits. `longtail data inspect` also finds copies "
            "that were saved anew.",
            images.name, f"{len(pairs):,}", looked, their_key, ours_key,
        )  # fmt: skip


class _Hashes:
    """Hashes and sizes in bytes of a set's images at `positions`, until `BYTES` were read, those of all alike."""

    def __init__(self, images: ImageSet, positions: np.ndarray) -> None:
        hashes, sizes, read = [], [], 0
        order = np.random.default_rng(0).permutation(positions)
        for i in order:
            if read >= BYTES:
                break
            try:
                raw = images.read(int(i))
            except CorruptImage:  # whoever needs it will tell
                raw = b""
            sizes.append(len(raw) if isinstance(raw, bytes) else raw.nbytes)
            hashes.append(content_hash(raw) if sizes[-1] else 0)
            read += sizes[-1]
        ascending = np.argsort(order[: len(hashes)])
        self.positions, self.complete = order[ascending], len(hashes) == len(positions)
        self.hashes, self.sizes = np.array(hashes, np.int64)[ascending], np.array(sizes, np.int64)[ascending]


def _spread(count: int, most: int) -> np.ndarray:
    """Up to `most` positions, evenly over 0 to count - 1."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64)) if count else np.zeros(0, np.int64)
