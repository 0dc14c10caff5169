"""From the bytes of an image file to uint8 pixels, whatever the file holds."""

from __future__ import annotations

import io
from typing import BinaryIO

import numpy as np
import simplejpeg
from PIL import Image

from ..errors import LongtailError
from . import heic

# What is opened, and nothing else that Pillow knows: some of its formats start other programs (EPS calls Ghostscript).
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")

Range = tuple[float, float]

_ORIENTATION = 0x0112  # EXIF's tag
_Turn = Image.Transpose
# what to do to the stored pixels, by EXIF orientation
_UPRIGHT = {
    2: _Turn.FLIP_LEFT_RIGHT,
    3: _Turn.ROTATE_180,
    4: _Turn.FLIP_TOP_BOTTOM,
    5: _Turn.TRANSPOSE,
    6: _Turn.ROTATE_270,
    7: _Turn.TRANSVERSE,
    8: _Turn.ROTATE_90,
}


class CorruptImage(LongtailError):  # noqa: N818
    """An image that cannot be read or decoded."""


def decode(
    raw: bytes | np.ndarray | Image.Image,
    channels: int,
    at_least: tuple[int, int] | None = None,
    value_range: Range | None = None,
) -> np.ndarray:
    """Pixels of an encoded file, an array or a Pillow image, as uint8 [H, W, channels]. `channels` is 1 (grey) or 3 (RGB).

    Upright by its EXIF orientation; first frame of an animation; transparent parts over white; CMYK, palette and any
    other mode converted. Of pixels of more than 8 bits, the values of `value_range` become 0 and 255, those outside it
    the nearer of these; without one, 16-bit values count as 0..65535, and others, or such as leave it black, are refused.

    `at_least` (height, width) lets a JPEG be decoded at 1/2, 1/4 or 1/8 of its size, which is several times faster, as
    long as neither side falls below it. Other formats are decoded whole.

    Raises `CorruptImage` for bytes that are no image, truncated files, pixels of unknown range, and images so large
    that they would exhaust memory.
    """
    if isinstance(raw, np.ndarray) and raw.dtype == np.uint8 and raw.ndim == 3 and raw.shape[2] == channels:
        return raw
    if isinstance(raw, np.ndarray) and raw.dtype != np.uint8:
        raw = to_8_bits(raw, value_range)
    if isinstance(raw, bytes) and (pixels := _plain_jpeg(raw, channels, at_least)) is not None:
        return pixels
    try:
        with _open(raw) as image:
            if at_least is not None:
                height, width = at_least[::-1] if _is_on_its_side(image) else at_least
                image.draft(None, (width, height))  # None keeps the colour mode
            image.load()
            return _pixels(image, channels, value_range)
    except CorruptImage:
        raise
    # Pillow's parsers meet damaged headers with errors of every type, struct.error and KeyError among them
    except Exception as error:
        raise CorruptImage(_reason(error)) from error


def image_size(raw: bytes | np.ndarray) -> tuple[int, int]:
    """Height and width that `decode` gives, from the header alone. Raises `CorruptImage`."""
    if isinstance(raw, np.ndarray):
        return raw.shape[0], raw.shape[1]
    try:
        with _open(raw) as image:
            width, height = image.size
            return (width, height) if _is_on_its_side(image) else (height, width)
    except CorruptImage:
        raise
    except Exception as error:
        raise CorruptImage(_reason(error)) from error


def open_image(file: BinaryIO) -> Image.Image:
    """An image whose header has been read. Raises `CorruptImage` for one too large to decode, other errors as Pillow does."""
    image = Image.open(file, formats=(*FORMATS, "HEIF") if heic.is_read() else FORMATS)
    width, height = image.size
    if _is_too_large(height, width):
        raise CorruptImage(
            f"{width} x {height} pixels, more than the {Image.MAX_IMAGE_PIXELS:,} that are decoded; shrink it first"
        )
    return image


def _open(raw: bytes | np.ndarray | Image.Image) -> Image.Image:
    if isinstance(raw, Image.Image):
        return raw.copy()  # the caller's stays open
    if isinstance(raw, np.ndarray):
        return Image.fromarray(raw[..., 0] if raw.ndim == 3 and raw.shape[2] == 1 else raw)
    return open_image(io.BytesIO(raw))


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image in a known format"
    if isinstance(error, Image.DecompressionBombError):
        return f"more than the {Image.MAX_IMAGE_PIXELS:,} pixels that are decoded; shrink it first"
    return str(error) or type(error).__name__


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a damaged EXIF block does not spoil the pixels
        return 1


def _is_on_its_side(image: Image.Image) -> bool:
    """Whether the size in the header is that of an image to be turned by a quarter."""
    if _ORIENTATION in getattr(image, "tag_v2", ()):  # a TIFF, whose size Pillow gives upright
        return False
    return _orientation(image) in (5, 6, 7, 8)


def _plain_jpeg(raw: bytes, channels: int, at_least: tuple[int, int] | None) -> np.ndarray | None:
    """The same pixels as Pillow's, from the same libjpeg-turbo, without Pillow's overhead: in a quarter of the time for
    a small image, three quarters for a large one.

    None for a file that is out of the ordinary in any way, damage included, or that can be scaled: Pillow's to judge.
    """
    if not _is_plain_jpeg(raw):
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(raw)
        if colours not in {1: ("Gray",), 3: ("YCbCr", "RGB")}[channels] or _is_too_large(height, width):
            return None
        if at_least is not None and height >= 2 * at_least[0] and width >= 2 * at_least[1]:
            return None
        return simplejpeg.decode_jpeg(raw, "GRAY" if channels == 1 else "RGB")
    except ValueError:
        return None


# Markers of segments that hold what the pixels need, and those that hold remarks: application data but for APP1, where
# EXIF and XMP say how the image is to be turned.
_PLAIN_SEGMENTS = {0xC0, 0xC1, 0xC2, 0xC4, 0xDB, 0xDD, 0xFE, 0xE0, *range(0xE2, 0xF0)}
_START_OF_SCAN = 0xDA


def _is_plain_jpeg(raw: bytes) -> bool:
    """Whether a JPEG's segments up to its first scan follow each other without a gap and none can turn the image."""
    if not raw.startswith(b"\xff\xd8"):
        return False
    at = 2
    while raw[at : at + 1] == b"\xff" and at + 4 <= len(raw):
        marker, length = raw[at + 1], int.from_bytes(raw[at + 2 : at + 4], "big")
        if marker == _START_OF_SCAN:
            return True
        if marker not in _PLAIN_SEGMENTS or length < 2:
            return False
        at += 2 + length
    return False


def _is_too_large(height: int, width: int) -> bool:
    return Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS


def _pixels(image: Image.Image, channels: int, value_range: Range | None) -> np.ndarray:
    turn = _UPRIGHT.get(_orientation(image))
    if turn is not None:
        image = image.transpose(turn)
    if is_deep(image):
        image = Image.fromarray(to_8_bits(np.asarray(image), value_range))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("L" if channels == 1 else "RGB")
    return np.array(image).reshape(image.height, image.width, channels)


def is_deep(image: Image.Image) -> bool:
    """Whether pixels have more than 8 bits, which Pillow gives as they are: grey ones do. It cuts those of colours off."""
    return image.mode == "F" or image.mode.startswith("I")


def to_8_bits(values: np.ndarray, value_range: Range | None) -> np.ndarray:
    """Numbers of any type as uint8, see `decode`. Raises `CorruptImage` for values that are not finite or of unknown range."""
    if not np.isfinite(values).all():
        raise CorruptImage("pixels that are not finite numbers")
    if value_range is None:
        if values.dtype.kind == "f" or values.min() < 0 or values.max() > 65535:
            raise CorruptImage(
                f"{'floating-point' if values.dtype.kind == 'f' else '32-bit'} pixels, whose range is unknown; "
                "convert it to 8 or 16 bits first"
            )
        if 0 < values.max() < 4096:  # what is left would be 16 levels, or fewer
            raise CorruptImage(
                f"16-bit pixels that reach only {values.max():,} of 65,535, so that it would come out black; "
                "is it 12-bit data? Convert it to 8 bits by its own range first"
            )
        value_range = (0, 65535)
    low, high = value_range
    return np.rint((np.clip(values.astype(np.float64), low, high) - low) * (255 / (high - low))).astype(np.uint8)
