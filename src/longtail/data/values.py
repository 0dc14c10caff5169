"""What the pixels of a set are: grey or in colour, and from where to where the values of those deeper than 8 bits reach.

Every image is looked at, since what some of them show need not hold for the others: its header tells most, and only
pixels about which the header leaves a doubt are decoded.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import reduce
from typing import BinaryIO, NamedTuple

import numpy as np

from ..errors import UsageError
from .decode import Range, decode, is_deep, open_image
from .images import ImageSet

logger = logging.getLogger("longtail")

# So many images that are stored in colour and turn out grey are decoded before the set is taken to be in colour.
DECODED = 2_000
_CHUNK = 256  # images that one thread looks at together
_SAMPLES = 1_000_000  # values, of all images together, that show whether a few far away ones stretch the range
_GREY_MODES = ("1", "L", "LA", "La", "F")


def settle_values(
    train: ImageSet, held_out: Sequence[ImageSet], channels: int | None, value_range: Range | None, threads: int
) -> int:
    """The channels to read all the images with, and in place their `value_range`: those given, or what `train` holds.

    Logs both. Raises `UsageError` where held-out images have pixels of more than 8 bits and `train` has none.
    """
    if channels is None:
        channels, reason = find_channels(train)
        logger.info("%s: read as %s: %s", train.name, "grey" if channels == 1 else "RGB", reason)
    if value_range is None:
        value_range = find_range(train, threads)
        for images in held_out:
            _check_covered(images, find_range(images, threads), value_range)
    if value_range is not None:
        logger.info("of pixels of more than 8 bits, %s become black and white", told(value_range))
    for images in (train, *held_out):
        images.value_range = value_range
    return channels


def _check_covered(images: ImageSet, found: Range | None, value_range: Range | None) -> None:
    if found is None:
        return
    if value_range is None:
        raise UsageError(
            f"{images.name} has pixels of more than 8 bits, {told(found)}, and the training images have none. Convert "
            "either, or say what is to become black and white, for instance data.value_range=[0,65535]."
        )
    low, high = value_range
    if max(low - found[0], found[1] - high) > (high - low) / 16:
        logger.warning(
            "%s holds values %s, beyond the training images' %s: they are cut off.",
            images.name,
            told(found),
            told(value_range),
        )


def find_channels(images: ImageSet) -> tuple[int, str]:
    """1 if all images are grey, those stored as RGB of equal channels included, else 3; and the reason, for the log.

    Stops at the first image in colour. Unreadable images are passed over.
    """
    decoded = 0
    for i in range(len(images)):
        with suppress(Exception):  # Pillow's parsers meet damaged headers with errors of every type
            raw = images.file(i)
            if isinstance(raw, np.ndarray):
                pixels = raw[..., :3] if raw.ndim == 3 else raw[..., None]
            else:
                with raw, open_image(raw) as image:
                    if image.mode in _GREY_MODES or image.mode.startswith("I"):
                        continue
                    pixels = decode(images.read(i), 3, at_least=(32, 32))
                decoded += 1
            if (pixels != pixels[..., :1]).any():
                return 3, f"{images.key(i)} is in colour"
            if decoded == DECODED:
                return 3, (
                    f"{decoded:,} images stored in colour turned out grey, and no more were decoded; if all are grey, "
                    "data.channels=1 trains a smaller network"
                )
    return 1, f"none of the {len(images):,} images is in colour"


def find_range(images: ImageSet, threads: int = 1) -> Range | None:
    """The least and the largest value of the pixels of more than 8 bits; None where there are none.

    Decodes such images, and of the others reads the header. Unreadable images are passed over. Logs a warning where a few
    values far from all others stretch the range. Raises `UsageError` where 16-bit colour images, of which only the upper
    8 bits are read, hold so small values that these are almost empty.
    """
    share = max(_SAMPLES // len(images), 16)
    starts = range(0, len(images), _CHUNK)
    with ThreadPoolExecutor(max(threads, 1)) as pool:
        parts = pool.map(lambda start: _measure(images, range(start, min(start + _CHUNK, len(images))), share), starts)
        found = reduce(_Found.joined, parts)
    if found.cut and found.brightest < 128:
        raise UsageError(
            f"{images.name}: its {found.cut:,} 16-bit colour images hold no value above {256 * found.brightest + 255:,} of "
            f"65,535, and only the upper 8 bits of such pixels are read: {found.brightest + 1} levels would be left. "
            "Convert the images to 8 bits by the range that they hold."
        )
    if not found.samples:
        return None
    low, high = np.quantile(np.concatenate(found.samples), (0.0005, 0.9995)).tolist()
    if 16 * (high - low) < found.high - found.low:
        logger.warning(
            "%s: 99.9 %% of the values of its pixels lie between %s and %s, but a few stretch their range to %s, which leaves "
            "little contrast. Say what is to become black and white: data.value_range=[%g,%g].",
            images.name, f"{low:,g}", f"{high:,g}", told((found.low, found.high)), low, high,
        )  # fmt: skip
    return (found.low, found.high) if found.high > found.low else (found.low, found.low + 1)


def told(value_range: Range) -> str:
    """A range for people: "0 to 4,095"."""
    return " to ".join(f"{value:,.0f}" if value == round(value) else f"{value:,g}" for value in value_range)


class _Found(NamedTuple):
    """Of pixels of more than 8 bits: the extremes, and some of the values. Of colours cut to 8 bits: how many images, and
    the brightest value."""

    low: float = np.inf
    high: float = -np.inf
    samples: tuple[np.ndarray, ...] = ()
    cut: int = 0
    brightest: int = 0

    def joined(self, other: _Found) -> _Found:
        return _Found(
            min(self.low, other.low),
            max(self.high, other.high),
            self.samples + other.samples,
            self.cut + other.cut,
            max(self.brightest, other.brightest),
        )


def _measure(images: ImageSet, positions: range, share: int) -> _Found:
    """`share`: how many values of an image are kept as a sample."""
    found = _Found()
    for i in positions:
        with suppress(Exception):  # whoever needs the image will tell
            raw = images.file(i)
            if isinstance(raw, np.ndarray):
                values = raw if raw.dtype != np.uint8 else None
            else:
                with raw:
                    values = _deep_values(raw)
            if values is None:
                continue
            if values.dtype == np.uint8:
                found = found.joined(_Found(cut=1, brightest=int(values.max())))
            elif np.isfinite(values).all():
                sample = values.reshape(-1)[:: max(values.size // share, 1)][:share].astype(np.float32)
                found = found.joined(_Found(float(values.min()), float(values.max()), (sample,)))
    return found


def _deep_values(file: BinaryIO) -> np.ndarray | None:
    """Pixels of an image of more than 8 bits, as uint8 where the decoder cuts them to that; None for any other image."""
    if not _can_be_deep(file.read(32)):
        return None
    file.seek(0)
    image = open_image(file)
    return np.asarray(image) if is_deep(image) or ";16" in str(getattr(image, "tile", "")) else None


def _can_be_deep(start: bytes) -> bool:
    """Whether a file that starts so can hold pixels of more than 8 bits, by the commonest formats' signatures."""
    if start.startswith(b"\x89PNG\r\n\x1a\n") and len(start) >= 25:
        return start[24] == 16  # the bit depth
    return not start.startswith((b"\xff\xd8\xff", b"GIF8", b"BM", b"RIFF"))
