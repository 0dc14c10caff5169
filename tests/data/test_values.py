"""Grey or in colour, and the range of deep pixels: every image of a set has its say."""

from __future__ import annotations

import io
import logging

import numpy as np
import pytest
from PIL import Image

from longtail.data import values
from longtail.data.images import ArraySet, ImageSet
from longtail.data.sources import open_source
from longtail.data.values import find_channels, find_range, settle_values
from longtail.errors import UsageError

rng = np.random.default_rng(0)


class Files(ImageSet):
    def __init__(self, files):
        super().__init__("photos", ("a",), [0] * len(files))
        self.files = files

    def key(self, i):
        return str(i)

    def read(self, i):
        return self.files[i]


def encoded(pixels, kind="PNG"):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


GREY = np.full((9, 9), 90, np.uint8)
RGB_OF_GREY = np.repeat(GREY[..., None], 3, axis=2)
RED = RGB_OF_GREY + np.array([90, 0, 0], np.uint8)


def test_few_coloured_images_among_many_grey_ones(tmp_path):
    """9 red and 9 blue ones between classes of 200: none of them at a place that is a multiple of anything."""
    for name, count, pixels in (("a", 200, GREY), ("m", 9, RED), ("n", 9, RED[..., ::-1]), ("z", 200, GREY)):
        (tmp_path / name).mkdir()
        for i in range(count):
            (tmp_path / name / f"{i}.png").write_bytes(encoded(pixels))
    images = open_source(str(tmp_path)).train
    assert find_channels(images) == (3, "m/0.png is in colour")
    assert find_channels(images.select(np.flatnonzero(images.labels % 3 == 0)))[0] == 1


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP"])
def test_images_stored_in_colour_that_are_grey(kind):
    assert find_channels(Files([encoded(RGB_OF_GREY, kind)] * 3))[0] == 1
    assert find_channels(Files([encoded(RGB_OF_GREY, kind)] * 3 + [encoded(RED, kind)])) == (3, "3 is in colour")


def test_so_many_grey_ones_stored_in_colour_that_not_all_are_decoded(monkeypatch):
    monkeypatch.setattr(values, "DECODED", 4)
    channels, reason = find_channels(Files([encoded(GREY)] * 9 + [encoded(RGB_OF_GREY)] * 5))
    assert channels == 3
    assert reason.startswith("4 images stored in colour turned out grey")
    assert find_channels(Files([encoded(GREY)] * 9 + [encoded(RGB_OF_GREY)] * 3))[0] == 1


def test_unreadable_images_are_passed_over():
    assert find_channels(Files([b"no image", encoded(GREY), encoded(RED)[:40], encoded(RED)]))[0] == 3
    assert find_range(Files([b"\x89PNG\r\n\x1a\n" + bytes(30), encoded(GREY)])) is None


def test_channels_of_arrays():
    grey = rng.integers(0, 256, (80, 4, 4, 1), dtype=np.uint8).repeat(3, axis=3)
    colour = grey.copy()
    colour[-2, 0, 0, 2] ^= 1
    assert find_channels(ArraySet("", ["a"], [0] * 80, grey[..., 0], ""))[0] == 1
    assert find_channels(ArraySet("", ["a"], [0] * 80, grey, ""))[0] == 1
    assert find_channels(ArraySet("", ["a"], [0] * 80, colour, "train")) == (3, "train#78 is in colour")


@pytest.mark.parametrize(
    ("kind", "dtype", "low", "high"),
    [
        ("PNG", np.uint16, 0, 4095),
        ("TIFF", np.uint16, 1000, 5000),
        ("TIFF", np.int32, -1024, 3071),
        ("TIFF", np.int32, 0, 10**6),
        ("TIFF", np.float32, 0, 1),
        ("TIFF", np.float32, -3.5, 1e5),
        ("array", np.uint16, 0, 1023),
        ("array", np.int64, -5, 5),
        ("array", np.float64, 0.25, 0.75),
        ("array", np.bool_, 0, 1),
    ],
)
@pytest.mark.parametrize("threads", [0, 3])
def test_deep_pixels_are_scaled_by_what_the_set_holds(kind, dtype, low, high, threads):
    """One image holds the least value, another the largest, most a ramp between; the last is the brightest."""
    ramp = np.linspace(low, high, 256).reshape(16, 16).astype(dtype)
    arrays = [ramp, *[ramp.T] * 4, np.full_like(ramp, high)]
    if kind == "array":
        images = ArraySet("arrays", ["a"], [0] * 6, np.stack(arrays), "train")
    else:
        images = Files([encoded(array, kind) for array in arrays])
    assert find_range(images, threads) == (float(dtype(low)), float(dtype(high)))
    settle_values(images, [], None, None, threads)
    shown = images.image(0, 1)[..., 0]
    expected = (ramp.astype(np.float64) - low) * 255 / (high - low)
    assert np.abs(shown - expected).max() <= 0.51
    assert (images.image(5, 3) == 255).all()


def test_a_few_values_that_stretch_the_range_are_warned_of(caplog):
    pixels = rng.integers(0, 4096, (40, 16, 16), dtype=np.uint16)
    pixels[7, 3, 3] = 65535
    images = ArraySet("scans", ["a"], [0] * 40, pixels, "train")
    with caplog.at_level(logging.WARNING, "longtail"):
        assert find_range(images) == (0, 65535)
    assert "scans: 99.9 % of the values of its pixels lie between" in caplog.text
    assert "data.value_range=[" in caplog.text


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_deep_colours_that_the_decoder_would_cut_to_nothing(kind, monkeypatch):
    """Files of 16-bit colour, made by hand: Pillow writes none."""
    raw = {"PNG": png_48, "TIFF": tiff_48}[kind]
    full = rng.integers(0, 65536, (8, 8, 3))
    assert find_range(Files([raw(full)] * 2)) is None
    assert (Files([raw(full)]).image(0, 3) == full >> 8).all()
    with pytest.raises(UsageError, match=r"2 16-bit colour images hold no value above 4,095 of 65,535.*16 levels"):
        find_range(Files([raw(full >> 4)] * 2 + [encoded(GREY)]))


def png_48(pixels):
    import struct
    import zlib

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff_48(pixels):
    import struct

    height, width, _ = pixels.shape
    data = pixels.astype("<u2").tobytes()
    tags = [
        (256, 3, 1, width), (257, 3, 1, height), (258, 3, 3, 8), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 14),
        (277, 3, 1, 3), (278, 3, 1, height), (279, 4, 1, len(data)), (284, 3, 1, 1),
    ]  # fmt: skip
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    return b"II*\0" + struct.pack("<I", 14 + len(data)) + struct.pack("<3H", 16, 16, 16) + data + directory


def test_ranges_of_held_out_images(caplog):
    deep, shallow = (Files([encoded(np.arange(0, 4096, 16, dtype=np.uint16).reshape(16, 16))]), Files([encoded(GREY)]))
    with pytest.raises(
        UsageError, match=r"has pixels of more than 8 bits, 0 to 4,080, and the training images have none"
    ):
        settle_values(shallow, [deep], None, None, 1)
    settle_values(shallow, [deep], None, (0, 4095), 1)
    assert deep.value_range == (0, 4095)
    brighter = Files([encoded(np.full((4, 4), 60000, np.uint16))])
    with caplog.at_level(logging.INFO, "longtail"):
        assert settle_values(deep, [brighter, shallow], None, None, 1) == 1
    assert "of pixels of more than 8 bits, 0 to 4,080 become black and white" in caplog.text
    assert "holds values 60,000 to 60,001, beyond the training images' 0 to 4,080" in caplog.text
    assert (brighter.image(0, 1) == 255).all()
    assert settle_values(shallow, [], 3, None, 1) == 3
