import io

import numpy as np
import pytest
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from longtail.data.decode import CorruptImage, decode, image_size
from longtail.data.images import ArraySet

rng = np.random.default_rng(0)


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def smooth(height: int, width: int) -> Image.Image:
    """An RGB image without sharp edges, so that JPEG and scaled decoding keep it closely."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    return Image.fromarray((np.stack([x, y, (x + y) / 2], axis=-1) * 200 + 20).astype(np.uint8))


def test_png_pixels_are_exact_and_grey_follows_the_luma_formula() -> None:
    pixels = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    raw = encode(Image.fromarray(pixels), "PNG")
    np.testing.assert_array_equal(decode(raw, 3), pixels)
    luma = pixels @ np.array([0.299, 0.587, 0.114])
    assert decode(raw, 1).shape == (5, 7, 1)
    assert np.abs(decode(raw, 1)[..., 0] - luma).max() <= 1


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_not_clipped(kind: str) -> None:
    values = np.array([[0, 128, 257, 32768], [65535, 65300, 1000, 60000]], dtype=np.uint16)
    expected = np.round(values / 257).astype(np.uint8)
    np.testing.assert_array_equal(decode(encode(Image.fromarray(values), kind), 1)[..., 0], expected)
    np.testing.assert_array_equal(decode(values, 3), np.repeat(expected[..., None], 3, axis=2))


def test_pixels_of_unknown_range_are_refused() -> None:
    with pytest.raises(CorruptImage, match="floating-point"):
        decode(encode(Image.fromarray(np.ones((2, 2), np.float32)), "TIFF"), 1)
    with pytest.raises(CorruptImage, match="32-bit"):
        decode(encode(Image.fromarray(np.full((2, 2), 70000, np.int32)), "TIFF"), 1)


def test_transparent_parts_show_white() -> None:
    rgba = np.zeros((1, 3, 4), dtype=np.uint8)
    rgba[0, :, 0] = 200
    rgba[0, :, 3] = (0, 255, 51)
    expected = [[255, 255, 255], [200, 0, 0], [255 * 0.8 + 200 * 0.2, 255 * 0.8, 255 * 0.8]]
    assert np.abs(decode(encode(Image.fromarray(rgba), "PNG"), 3)[0] - np.array(expected)).max() <= 1
    np.testing.assert_array_equal(decode(rgba, 3), decode(encode(Image.fromarray(rgba), "PNG"), 3))


def test_palette_with_transparency() -> None:
    image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8)).convert("P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    raw = encode(image, "PNG", transparency=1)
    np.testing.assert_array_equal(decode(raw, 3)[0], [[10, 20, 30], [255, 255, 255]])


def test_cmyk_jpeg() -> None:
    red = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    assert np.abs(decode(encode(red, "JPEG", quality=95), 3).astype(int) - [255, 0, 0]).max() <= 3


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_the_first_frame_of_an_animation(kind: str) -> None:
    frames = [Image.new("RGB", (6, 4), colour) for colour in ("red", "blue")]
    raw = encode(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
    assert Image.open(io.BytesIO(raw)).n_frames == 2
    assert (decode(raw, 3) == [255, 0, 0]).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    raw = encode(smooth(16, 40), kind, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(raw)))
    np.testing.assert_array_equal(decode(raw, 3), np.asarray(upright))
    assert image_size(raw) == decode(raw, 3).shape[:2]


@pytest.mark.parametrize(("size", "at_least", "scale"), [((480, 640), (60, 100), 4), ((480, 640), (240, 320), 2)])
def test_scaled_jpeg_decoding_is_close_to_decoding_whole_and_averaging(size, at_least, scale) -> None:
    raw = encode(smooth(*size), "JPEG", quality=90)
    small = decode(raw, 3, at_least)
    assert small.shape == (size[0] // scale, size[1] // scale, 3)
    reference = Image.fromarray(decode(raw, 3)).reduce(scale)
    assert np.abs(small.astype(int) - np.asarray(reference)).max() <= 4


def test_scaled_decoding_keeps_both_sides_of_a_turned_image() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    raw = encode(smooth(400, 800), "JPEG", exif=exif)  # 800 x 400 once upright
    assert decode(raw, 3, (400, 100)).shape == (400, 200, 3)
    assert decode(raw, 3, (400, 250)).shape == (800, 400, 3)


def test_at_least_larger_than_the_image_decodes_it_whole() -> None:
    assert decode(encode(smooth(30, 30), "JPEG"), 3, (224, 224)).shape == (30, 30, 3)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"progressive": True}, {"quality": 30}])
def test_jpeg_pixels_are_those_of_pillow(mode, options) -> None:
    raw = encode(smooth(53, 37).convert(mode), "JPEG", **options)
    expected = np.asarray(Image.open(io.BytesIO(raw)))
    channels = {"RGB": 3, "L": 1}[mode]
    assert np.array_equal(decode(raw, channels).squeeze(), expected)
    damaged = raw[: len(raw) // 2] + b"\0\0" + raw[len(raw) // 2 + 2 :]  # libjpeg warns, and goes on
    assert np.array_equal(decode(damaged, channels).squeeze(), np.asarray(Image.open(io.BytesIO(damaged))))


def test_truncated_jpeg() -> None:
    raw = encode(Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)), "JPEG")
    with pytest.raises(CorruptImage, match="truncated"):
        decode(raw[: len(raw) // 2], 3)


@pytest.mark.parametrize("raw", [b"", b"not an image", b"\x89PNG\r\n\x1a\n" + bytes(20)])
def test_bytes_that_are_no_image(raw: bytes) -> None:
    with pytest.raises(CorruptImage):
        decode(raw, 3)
    with pytest.raises(CorruptImage):
        image_size(raw)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_files_never_raise_anything_else() -> None:
    refused = 0
    for kind in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"):
        raw = np.frombuffer(encode(smooth(20, 20), kind), dtype=np.uint8)
        for _ in range(60):
            damaged = raw.copy()
            damaged[rng.integers(0, len(raw), 8)] = rng.integers(0, 256, 8)
            try:
                decode(damaged.tobytes(), 3)
            except CorruptImage:
                refused += 1
    assert refused > 20


def test_an_image_that_would_exhaust_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = encode(Image.new("L", (300, 200)), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50_000)
    with pytest.warns(Image.DecompressionBombWarning), pytest.raises(CorruptImage, match=r"300 x 200 .* 50,000"):
        decode(raw, 1)


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1), (4, 5, 3)])
@pytest.mark.parametrize("channels", [1, 3])
def test_arrays(shape: tuple[int, ...], channels: int) -> None:
    pixels = rng.integers(0, 256, shape, dtype=np.uint8)
    out = decode(pixels, channels)
    assert out.shape == (4, 5, channels)
    assert out.dtype == np.uint8
    if shape[-1] != 3:
        np.testing.assert_array_equal(out, np.repeat(pixels.reshape(4, 5, 1), channels, axis=2))
    elif channels == 1:
        np.testing.assert_array_equal(out[..., 0], np.asarray(Image.fromarray(pixels).convert("L")))
    assert image_size(pixels) == (4, 5)


def test_the_message_names_the_set_and_the_image() -> None:
    images = ArraySet("my set (train)", ["a", "b"], [0, 1], np.zeros((2, 3, 3), np.float64), "train")
    with pytest.raises(CorruptImage, match=r"my set \(train\): cannot read image train#1: floating-point"):
        images.image(1, 3)


# JPEG segments that may stand before a scan: marker and content
APP1, COMMENT = 0xE1, 0xFE
EXIF = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0%c\0\0\0\0\0\0"
XMP = b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>'
REMARKS = [
    (COMMENT, b"a\xff\xdab"),  # looks as if the scan began
    (COMMENT, b"Exif\0\0"),
    (0xED, b"Photoshop 3.0\x008BIM\x04\x0c\0\0\0\0\0\x08\xff\xd8\xff\xda\xff\xd9\0\0"),  # a thumbnail
    (0xE0, b"JFXX\0\x10\xff\xd8\xff\xe1\xff\xda\xff\xd9"),
    (0xE2, b"ICC_PROFILE\0\x01\x01" + bytes(20)),
    (0xEC, b"Ducky\0\x01\0\x04\0\0\0\x3c\0\0"),
]


def segment(marker: int, content: bytes) -> bytes:
    return bytes((0xFF, marker)) + (len(content) + 2).to_bytes(2, "big") + content


def as_pillow_turns_it(raw: bytes) -> np.ndarray:
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(raw))).convert("RGB"))


@pytest.mark.parametrize("seed", range(60))
def test_every_path_turns_a_jpeg_as_pillow_does(seed: int) -> None:
    """Whatever segments stand before the one that says how, and on either side of the size that can be scaled."""
    random = np.random.default_rng(seed)
    orientation = int(random.integers(1, 9))
    segments = [segment(*REMARKS[i]) for i in random.choice(len(REMARKS), random.integers(0, 5), replace=False)]
    for content in (EXIF, XMP):
        if random.random() < 0.5:
            segments.insert(random.integers(0, len(segments) + 1), segment(APP1, content % orientation))
    padding = b"\xff" * int(random.integers(0, 3)) if random.random() < 0.3 else b""  # fill bytes, which are allowed
    plain = encode(smooth(40, 48), "JPEG")
    raw = plain[:2] + padding + b"".join(segments) + plain[2:]
    expected = as_pillow_turns_it(raw)
    turned = expected.shape != (40, 48, 3)
    for at_least in (None, (40, 40), (21, 21)):
        np.testing.assert_array_equal(decode(raw, 3, at_least), expected)
    assert decode(raw, 3, (20, 20)).shape == ((24, 20, 3) if turned else (20, 24, 3))
    assert decode(Image.open(io.BytesIO(raw)), 3).shape == expected.shape
    assert image_size(raw) == expected.shape[:2]


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "TIFF lzw", "AVIF", "JPEG2000", "GIF"])
@pytest.mark.parametrize("said_in", ["exif", "xmp", "both"])
@pytest.mark.parametrize("orientation", [1, 3, 5, 6, 8])
def test_every_format_is_turned_as_pillow_does(kind: str, said_in: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"exif": exif} if said_in != "xmp" else {}
    kind, _, compression = kind.partition(" ")
    if said_in != "exif":
        packet = XMP.split(b"\0", 1)[1] % orientation
        if kind == "PNG":
            text = PngInfo()
            text.add_itxt("XML:com.adobe.xmp", packet.decode())
            options["pnginfo"] = text
        elif kind == "TIFF":
            options["tiffinfo"] = {700: packet}
        else:
            options["xmp"] = packet
    raw = encode(smooth(16, 40), kind, **options, **({"compression": "tiff_lzw"} if compression else {}))
    expected = as_pillow_turns_it(raw)
    np.testing.assert_array_equal(decode(raw, 3), expected)
    np.testing.assert_array_equal(decode(Image.open(io.BytesIO(raw)), 3), expected)
    assert image_size(raw) == expected.shape[:2]


@pytest.mark.parametrize(
    "start", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"8BPS\0\x01", b"/* XPM */\n", b"P7 332"]
)
def test_formats_that_are_not_named_are_not_opened(start: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PostScript file, whatever it is called, would start Ghostscript."""
    monkeypatch.setattr("subprocess.Popen", None)
    for call in (lambda raw: decode(raw, 3), image_size):
        with pytest.raises(CorruptImage, match="not an image in a known format"):
            call(start + bytes(200))


def test_pixels_that_are_no_numbers_and_dark_ones_are_refused() -> None:
    with pytest.raises(CorruptImage, match="not finite"):
        decode(np.array([[0, np.nan]]), 1, value_range=(0, 1))
    with pytest.raises(CorruptImage, match="reach only 4,095 of 65,535"):
        decode(np.array([[0, 4095]], np.uint16), 1)
    assert decode(np.array([[0, 4095, 5000]], np.uint16), 1, value_range=(0, 4095)).ravel().tolist() == [0, 255, 255]
