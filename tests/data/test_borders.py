"""Black padding beside borders that are far from black is told of: before a training, and by `longtail data inspect`."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from longtail.data.augment import POLICIES
from longtail.data.borders import border, from_black, pads_black, warn_of_black_padding
from longtail.data.images import ArraySet, Splits
from longtail.data.inspect import inspect_source
from longtail.methods import METHODS, method_class

rng = np.random.default_rng(0)


def images(background: int, count: int = 100) -> ArraySet:
    """Squares of noise on a background that is a little noisy itself."""
    pixels = np.clip(rng.normal(background, 3, (count, 16, 16, 3)), 0, 255).astype(np.uint8)
    pixels[:, 4:12, 4:12] = rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    return ArraySet("squares", ("a", "b"), np.arange(count) % 2, pixels, "squares")


def test_a_border_is_the_outermost_pixels_each_once():
    pixels = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    mask = np.ones((5, 7), bool)
    mask[1:-1, 1:-1] = False
    np.testing.assert_allclose(border(pixels), pixels[mask].mean(0) / 255)
    assert border(np.full((1, 1, 1), 255, np.uint8)) == 1.0


def test_the_distance_is_that_of_the_median_image_in_deviations():
    borders = [np.array([0.0, 0.5]), np.array([0.4, 0.5]), np.array([1.0, 0.5])]
    assert from_black(borders, (0.1, 0.25)) == pytest.approx((4 + 2) / 2)


@pytest.mark.parametrize(
    ("background", "spec", "warned"),
    [
        (240, "crop:4,flip", True),
        (240, "crop:4:reflect,flip", False),
        (240, "crop:0", False),
        (0, "crop:4,flip", False),
        (60, "crop:4,flip", False),
        *((240, policy, False) for policy in POLICIES),
    ],
)
def test_a_training_warns_of_black_padding_where_borders_are_far_from_black(background, spec, warned, caplog):
    source = images(background)
    deviations = (source.images / 255).std(axis=(0, 1, 2))
    with caplog.at_level(logging.WARNING, logger="longtail"):
        warn_of_black_padding(source, 3, 16, deviations, ("flip", spec))
    assert ("pads with black" in caplog.text) == warned
    assert ("crop:N:reflect" in caplog.text) == warned


@pytest.mark.parametrize("method", METHODS)
def test_no_method_pads_with_black_by_default(method):
    cls = method_class(method)
    for stage in cls.stages(cls.Options()):
        for stream in stage.streams.values():
            assert not any(pads_black(view, 32) for view in stream.views)


def test_inspection_says_so_of_the_training_images(caplog):
    with caplog.at_level(logging.WARNING, logger="longtail"):
        light, dark = (inspect_source(Splits(images(level))) for level in (240, 10))
    assert light.train.border > 2.5 > dark.train.border
    assert "pad with black" in light.notes[-1]
    assert light.notes[-1] in caplog.text
    assert not dark.notes
