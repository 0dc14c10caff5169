"""Copies are found however they were changed, and other images are not."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from longtail.data.images import ArraySet
from longtail.data.near_duplicates import ALIKE, near_duplicates, small_copies
from longtail.data.sources import open_source


@pytest.fixture(scope="module")
def photographs():
    """Twelve smooth colour images, as unlike as photographs."""
    draw = np.random.default_rng(0)
    small = draw.integers(0, 256, (12, 6, 6, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(p).resize((64, 64), Image.Resampling.BICUBIC)) for p in small])


def as_set(images):
    return ArraySet("set", ("a",), np.zeros(len(images), int), np.stack(images), "set")


def changed(pixels, kind):
    image = Image.fromarray(pixels)
    if kind == "jpeg":
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=40)
        return np.asarray(Image.open(buffer))
    if kind == "resized":
        return np.asarray(image.resize((40, 40)).resize((64, 64)))
    return (pixels * 0.6 + 40).astype(np.uint8)


@pytest.mark.parametrize("kind", ["jpeg", "resized", "contrast"])
def test_a_changed_copy_is_found(photographs, kind):
    copies = as_set([changed(photographs[k], kind) for k in (7, 3)])
    pairs, likeness = near_duplicates(small_copies(copies, range(2)), small_copies(as_set(photographs), range(12)))
    assert {tuple(pair) for pair in pairs.tolist()} == {(0, 7), (1, 3)}
    assert (likeness >= ALIKE).all()


def test_other_images_are_not(photographs):
    pairs, _ = near_duplicates(
        small_copies(as_set(photographs[:6]), range(6)), small_copies(as_set(photographs[6:]), range(6))
    )
    assert len(pairs) == 0


def test_likeness_is_numpys_correlation(photographs):
    copies = small_copies(as_set(photographs), range(12))
    expected = np.corrcoef(copies.astype(np.float64))
    assert copies @ copies.T == pytest.approx(expected, abs=1e-5)


def test_flat_and_unreadable_images_are_like_none(photographs):
    flat = as_set(np.full((2, 64, 64, 3), 7, np.uint8))
    assert not small_copies(flat, range(2)).any()
    assert len(near_duplicates(small_copies(flat, range(2)), small_copies(flat, range(2)))[0]) == 0


def test_the_embedded_set_has_hardly_any():
    splits = open_source("fashion-mnist-lt")
    copies = [small_copies(images, range(len(images))) for images in (splits.test, splits.train)]
    assert len(near_duplicates(*copies)[0]) < 5
