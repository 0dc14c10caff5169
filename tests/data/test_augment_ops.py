"""Every operation against Pillow's on the same images and parameters."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from longtail.data import ops

GREY = (128, 128, 128)
NEAREST = Image.Resampling.NEAREST


def some_images(batch=12, channels=3, height=31, width=32):
    """Smooth, noisy, low-contrast, flat and two-coloured pictures, so that every histogram has its odd cases."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    images = rng.integers(0, 256, (batch, channels, height, width))
    images[0] = (x * 7 + y) % 256
    images[1] = 90 + images[1] // 16
    images[2] = 77
    images[3] = np.where(x > y, 200, 20)
    images[4, 0] = 0
    images[5] = np.clip(128 + 40 * np.sin(x / 5 + y / 9), 0, 255)
    return torch.from_numpy(images.astype(np.uint8))


def to_pil(image):
    array = image.permute(1, 2, 0).numpy()
    return Image.fromarray(array if array.shape[2] == 3 else array[..., 0])


def from_pil(image):
    array = np.array(image)
    return torch.from_numpy(array if array.ndim == 3 else array[..., None]).permute(2, 0, 1)


def fill(image):
    return GREY[: len(image.getbands())] if image.mode == "RGB" else GREY[0]


def transform(image, *matrix, filter=NEAREST):
    return image.transform(image.size, Image.Transform.AFFINE, matrix, filter, fillcolor=fill(image))


def solarize_add(image, level):
    pixels = np.array(image).astype(int)
    return Image.fromarray(np.where(pixels < 128, np.minimum(pixels + int(level), 255), pixels).astype(np.uint8))


FACTORS = (0.0, 0.1, 0.37, 0.9, 1.0, 1.0, 1.3, 1.45, 1.9, 1.9, 0.5, 1.7)
SLOPES = (-0.3, -0.21, 0.0, 0.05, 0.1, 1 / 3, 0.3, 0.27, -0.13, 0.2, -0.02, 0.16)
PIXELS = (-14.0, -9.0, -1.0, 0.0, 1.0, 2.0, 5.0, 31.0, 40.0, 3.0, 14.0, -40.0)
# of AutoAugment as released: parts of a pixel, at 32 and 28 pixels
PARTS = tuple(sign * 150 / 331 * side * m / 9 for m in (1, 3, 8) for side in (32, 28) for sign in (1, -1))
NO_VALUES = (0.0,) * 12
CUBIC = Image.Resampling.BICUBIC

REFERENCES = {
    "shear_x_cubic": (SLOPES, lambda image, v: transform(image, 1, v, 0, 0, 1, 0, filter=CUBIC)),
    "shear_y_cubic": (SLOPES, lambda image, v: transform(image, 1, 0, 0, v, 1, 0, filter=CUBIC)),
    "solarize_add": ((0.0, 1, 20, 55, 77, 100, 110, 3, 50, 90, 128, 254), solarize_add),
    "shear_x": (SLOPES, lambda image, v: transform(image, 1, v, 0, 0, 1, 0)),
    "shear_y": (SLOPES, lambda image, v: transform(image, 1, 0, 0, v, 1, 0)),
    "translate_x": (PIXELS, lambda image, v: transform(image, 1, 0, v, 0, 1, 0)),
    "translate_y": (PIXELS, lambda image, v: transform(image, 1, 0, 0, 0, 1, v)),
    "rotate": (
        (-30.0, -7.0, 0.0, 1.0, 3.3, 10.0, 20.0, 30.0, 45.0, 6.7, -13.3, 26.7),
        lambda image, v: image.rotate(v, NEAREST, fillcolor=fill(image)),
    ),
    "brightness": (FACTORS, lambda image, v: ImageEnhance.Brightness(image).enhance(v)),
    "contrast": (FACTORS, lambda image, v: ImageEnhance.Contrast(image).enhance(v)),
    "colour": (FACTORS, lambda image, v: ImageEnhance.Color(image).enhance(v)),
    "sharpness": (FACTORS, lambda image, v: ImageEnhance.Sharpness(image).enhance(v)),
    "posterize": ((1.0, 2, 3, 4, 5, 6, 7, 8, 4, 4, 5, 6), lambda image, v: ImageOps.posterize(image, int(v))),
    "solarize": ((0.0, 1, 20, 77, 78, 90, 128, 170.7, 200, 255, 256, 113.8), ImageOps.solarize),
    "autocontrast": (NO_VALUES, lambda image, v: ImageOps.autocontrast(image)),
    "equalize": (NO_VALUES, lambda image, v: ImageOps.equalize(image)),
    "invert": (NO_VALUES, lambda image, v: ImageOps.invert(image)),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", REFERENCES)
def test_pixels_are_pillows(name, channels):
    values, reference = REFERENCES[name]
    images = some_images(channels=channels)
    result = getattr(ops, name)(images, torch.tensor(values, dtype=torch.float64))
    expected = torch.stack([from_pil(reference(to_pil(i), v)) for i, v in zip(images, values, strict=True)])
    assert result.dtype == torch.uint8
    assert torch.equal(result, expected)


@pytest.mark.parametrize("axis", ["x", "y"])
def test_shifts_by_parts_of_a_pixel_are_pillows(axis):
    images = some_images()
    result = getattr(ops, f"translate_{axis}")(images, torch.tensor(PARTS, dtype=torch.float64))
    matrices = [(1, 0, v, 0, 1, 0) if axis == "x" else (1, 0, 0, 0, 1, v) for v in PARTS]
    expected = [from_pil(transform(to_pil(image), *matrix)) for image, matrix in zip(images, matrices, strict=True)]
    assert torch.equal(result, torch.stack(expected))


def test_what_a_rotation_leaves_open_is_filled_as_asked():
    images = some_images()
    result = ops.rotate(images, torch.full((len(images),), 15.0), fill=0)
    expected = torch.stack([from_pil(to_pil(image).rotate(15, NEAREST, fillcolor=0)) for image in images])
    assert torch.equal(result, expected)


def test_equalize_of_tiny_and_of_large_images():
    for side in (3, 17, 80):
        images = some_images(height=side, width=side)
        expected = torch.stack([from_pil(ImageOps.equalize(to_pil(image))) for image in images])
        assert torch.equal(ops.equalize(images, torch.zeros(len(images))), expected)


def test_hue_turns_as_in_hsv():
    images = some_images(height=5, width=6)
    turns = torch.linspace(-0.5, 0.5, len(images), dtype=torch.float64)
    result = ops.hue(images, turns)
    for image, turned, turn in zip(images, result, turns.tolist(), strict=True):
        for before, after in zip(image.flatten(1).T.tolist(), turned.flatten(1).T.tolist(), strict=True):
            hue, saturation, value = colorsys.rgb_to_hsv(*(level / 255 for level in before))
            expected = np.array(colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)) * 255
            assert np.abs(expected - after).max() <= 0.501  # rounding to a level, and no more


@pytest.mark.parametrize("box", [(0, 0, 31, 32), (3, 5, 20, 11), (30, 0, 1, 1), (0, 20, 31, 12), (7, 7, 16, 16)])
@pytest.mark.parametrize("size", [16, 32, 47])
def test_resized_crop_is_crop_then_resize(box, size):
    images = some_images()
    top, left, height, width = box
    result = ops.resized_crop(images, torch.tensor(box).repeat(len(images), 1), size)
    for image, resized in zip(images, result, strict=True):
        window = to_pil(image).crop((left, top, left + width, top + height))
        expected = from_pil(window.resize((size, size), Image.Resampling.BILINEAR))
        assert (resized.int() - expected.int()).abs().max() <= 1  # Pillow rounds twice


def test_each_image_has_its_own_crop_and_flip():
    images = some_images()[:4]
    top, left = torch.tensor([0, 1, 2, 3]), torch.tensor([5, 0, 3, 2])
    windows = ops.crop(images, top, left, 20)
    mirrored = ops.flip(windows, torch.tensor([True, False, True, False]))
    for i in range(4):
        box = (left[i].item(), top[i].item(), left[i].item() + 20, top[i].item() + 20)
        expected = to_pil(images[i]).crop(box)
        assert torch.equal(windows[i], from_pil(expected))
        assert torch.equal(mirrored[i], from_pil(ImageOps.mirror(expected) if i % 2 == 0 else expected))


def test_blur_is_a_gaussian():
    impulse = torch.zeros(3, 3, 33, 33, dtype=torch.uint8)
    impulse[:, :, 16, 16] = 255
    sigmas = torch.tensor([0.4, 1.0, 2.0], dtype=torch.float64)
    result = ops.gaussian_blur(impulse, sigmas, 8)
    square = (torch.arange(33) - 16) ** 2
    for blurred, sigma in zip(result, sigmas, strict=True):
        density = torch.exp(-(square[:, None] + square) / (2 * sigma**2))
        assert (blurred - 255 * density / density.sum()).abs().max() <= 0.51


def test_blur_is_near_pillows_and_keeps_flat_borders():
    images = some_images()
    result = ops.gaussian_blur(images, torch.full((len(images),), 1.5), 6)
    expected = torch.stack([from_pil(to_pil(i).filter(ImageFilter.GaussianBlur(1.5))) for i in images])
    assert (result.int() - expected.int()).abs().float().mean() < 2  # Pillow's is three box filters
    assert torch.equal(result[2], images[2])


def test_cutout_is_a_clipped_square():
    images = torch.ones(3, 3, 32, 32)
    cut = ops.cutout(images, torch.tensor([[16, 10], [0, 31], [31, 0]]), 16)
    assert cut[0].sum() == 3 * (32 * 32 - 16 * 16)
    assert cut[0, :, 8:24, 2:18].sum() == 0
    assert cut[1, :, :8, 23:].sum() == 0
    assert cut[1].sum() == 3 * (32 * 32 - 8 * 9)
    assert cut[2, :, 23:, :8].sum() == 0
