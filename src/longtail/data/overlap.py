"""Images that are in two sets, or twice in one: byte for byte, or to the eye (saved anew, resized, a little brighter)."""

from __future__ import annotations

import hashlib

import numpy as np
from PIL import Image

SIDE = 16  # pixels of a thumbnail
# Two images look the same where their thumbnails correlate by at least ALIKE and the one is far closer than most others
# are: no further off than NEARER times the tenth nearest. Photographs saved anew, halved or a little brighter are found so,
# and others of the same scene; in sets whose images all look much alike (small garments on black), a few others too.
# Where there are fewer, the furthest takes the place of the tenth.
ALIKE, NEARER, NEIGHBOURS = 0.95, 0.1, 10
_BLOCK = 1024


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


def look_alikes(first: np.ndarray, second: np.ndarray | None = None, nearer: float = NEARER) -> np.ndarray:
    """Positions [K, 2]: each image of `second` and the one of `first` that looks the same; within `first`, in its order,
    where there is no `second`. Both are thumbnails, float32 [N, 256]."""
    pairs = [np.zeros((0, 2), np.int64)]
    others = first if second is None else second
    rank = min(NEIGHBOURS, len(first) - 1)
    for start in range(0, len(others), _BLOCK):
        block = others[start : start + _BLOCK]
        rows = np.arange(len(block))
        likeness = block @ first.T
        if second is None:
            likeness[rows, start + rows] = 0
        nearest = likeness.argmax(axis=1)
        best = likeness[rows, nearest]
        tenth = np.zeros(len(block), np.float32)
        if rank > 0:
            tenth = np.maximum(-np.partition(-likeness, rank, axis=1)[:, rank], 0)
        found = np.flatnonzero((best >= ALIKE) & (1 - best <= nearer * (1 - tenth)))
        pairs.append(np.stack([nearest[found], start + found], axis=1))
    joined = np.concatenate(pairs)
    return joined if second is not None else joined[joined[:, 0] < joined[:, 1]]
