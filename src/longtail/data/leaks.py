"""What a training says at its start of held-out images that are training images too, byte for byte or to the eye."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ..hardware import cores
from .decode import CorruptImage
from .images import ImageSet, spread
from .overlap import SIDE, content_hash, look_alikes, shared, thumbnail

logger = logging.getLogger("longtail")

# What is compared byte for byte, of each held-out set and of the training images: enough to see that something is wrong
# with a split, in seconds.
SAMPLE, CANDIDATES, BYTES = 2_000, 200_000, 256 * 2**20

# What is compared to the eye, which takes decoding: so many held-out images of a class with the training images of that
# class, a class after the other, since copies are mostly of one class, for so long.
OF_CLASS, SECONDS = 200, 2.0
# Stricter than `data inspect`, whose findings are for someone to look at; and a share of the held-out images from which it
# is a warning. Of CIFAR-10's test images 0.3 % look so much like training images, of the embedded garments none.
NEARER, SHARE = 0.05, 0.01
_CHUNK = 32  # images decoded between two looks at the clock


def warn_of_overlap(train: ImageSet, held_out: Mapping[str, ImageSet], channels: int) -> None:
    """Log how many held-out images are training images too, byte for byte and to the eye, and of how many each was found
    out. `channels`: what images are decoded to, 1 (grey) or 3."""
    for name, images in held_out.items():
        same = _same(train, name, images)
        _tell_of_looks(train, name, images, channels, same)


def _same(train: ImageSet, name: str, images: ImageSet) -> set[int]:
    """Positions of held-out images that are training images byte for byte, which is logged.

    Looks at `SAMPLE` held-out images, spread over the set, and at those of up to `CANDIDATES` training images that have as
    many bytes as one of them, until `BYTES` were read.
    """
    chosen = spread(len(images), SAMPLE)
    theirs = _Hashes(images, chosen)
    candidates = spread(len(train), CANDIDATES)
    sizes = train.sizes(candidates)
    if sizes is not None:
        candidates = candidates[np.isin(sizes, theirs.sizes)]
    ours = _Hashes(train, candidates)
    compared = len(spread(len(train), CANDIDATES)) if ours.complete else len(ours.positions)
    pairs = shared(ours.hashes, theirs.hashes)
    looked = f"{len(theirs.positions):,} of {len(images):,} {name} images compared with {compared:,} of {len(train):,}"
    if not len(pairs):
        logger.info("no %s image is a training image too, byte for byte (%s)", name, looked)
        return set()
    our_key, their_key = (
        train.key(int(ours.positions[pairs[0, 0]])),
        images.key(int(theirs.positions[pairs[0, 1]])),
    )
    logger.warning(
        "%s: %s of its images are training images too, byte for byte (%s), first %s, which is %s. Accuracy on these says "
        "nothing about new images: take them out of one of the splits. `longtail data inspect` names them.",
        images.name, f"{len(pairs):,}", looked, their_key, our_key,
    )  # fmt: skip
    return set(theirs.positions[pairs[:, 1]].tolist())


def _tell_of_looks(train: ImageSet, name: str, images: ImageSet, channels: int, same: set[int]) -> None:
    """Log how many held-out images, but for those that are the `same`, look like a training image."""
    ours, theirs = _looks(train, images, channels)
    looked = f"{len(theirs):,} of {len(images):,} {name} images compared with {len(ours):,} of {len(train):,}"
    if not ours or not theirs:
        return
    pairs = look_alikes(np.stack(list(ours.values())), np.stack(list(theirs.values())), NEARER)
    our_positions, their_positions = list(ours), list(theirs)
    found = [(our_positions[a], their_positions[b]) for a, b in pairs.tolist() if their_positions[b] not in same]
    if not found:
        logger.info("no %s image looks like a training image (%s)", name, looked)
        return
    warn = len(found) >= SHARE * len(theirs)
    logger.log(
        logging.WARNING if warn else logging.INFO,
        "%s: %s of its images look%s like training images (%s), first %s and %s.%s `longtail data inspect` shows them.",
        images.name, f"{len(found):,}", "s" * (len(found) == 1), looked, images.key(found[0][1]), train.key(found[0][0]),
        " Where these are copies (saved anew, resized, of one scene), accuracy on them says little about new images." * warn,
    )  # fmt: skip


def _looks(train: ImageSet, held_out: ImageSet, channels: int) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
    """Thumbnails of training and of held-out images by their positions, of one class after the other, in `SECONDS`."""
    end = time.monotonic() + SECONDS
    random = np.random.default_rng(0)
    ours, theirs = _by_class(train, random), _by_class(held_out, random)
    seen: tuple[dict[int, np.ndarray], dict[int, np.ndarray]] = {}, {}

    def look(images: ImageSet, i: int) -> np.ndarray | None:
        try:
            return thumbnail(images.image(i, channels, at_least=(2 * SIDE, 2 * SIDE)))
        except CorruptImage:  # whoever needs it will tell
            return None

    with ThreadPoolExecutor(cores()) as pool:
        for c in random.permutation(len(train.class_names)).tolist():
            if not len(theirs[c]):
                continue
            for images, positions, thumbnails in (
                (held_out, theirs[c][:OF_CLASS].tolist(), seen[1]),
                (train, ours[c].tolist(), seen[0]),
            ):
                for start in range(0, len(positions), _CHUNK):
                    if time.monotonic() > end:
                        return seen
                    chunk = positions[start : start + _CHUNK]
                    made = pool.map(lambda i, images=images: look(images, i), chunk)
                    thumbnails |= {i: small for i, small in zip(chunk, made, strict=True) if small is not None}
    return seen


def _by_class(images: ImageSet, random: np.random.Generator) -> list[np.ndarray]:
    """The positions of each class's images, in random order."""
    order = random.permutation(len(images))
    counts = np.bincount(images.labels, minlength=len(images.class_names))
    return np.split(order[np.argsort(images.labels[order], kind="stable")], np.cumsum(counts)[:-1])


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
