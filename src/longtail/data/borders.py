"""How far images' borders are from black, which is what crops that pad as the papers' do put beside them.

On images with a white border, five standard deviations from black, such padding halved the accuracy: what is seen at the
edge in training is never seen in a test.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

import numpy as np

from .augment import Crop, parse
from .decode import CorruptImage
from .images import ImageSet, spread

logger = logging.getLogger("longtail")

LOOKED_AT = 64  # images, at the start of a training
FAR = 2.5  # standard deviations; photographs' borders are about 2 from black


def border(pixels: np.ndarray) -> np.ndarray:
    """The mean of the outermost pixels of an image, uint8 [H, W, C], in 0..1: float64 [C]."""
    frame = (pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1])
    return np.concatenate(frame).mean(axis=0) / 255


def from_black(borders: Sequence[np.ndarray], deviations: Sequence[float]) -> float:
    """How far the median of the images' `borders` is from black, in the channels' standard `deviations`, their mean."""
    levels = np.median(np.stack(borders), axis=0)
    return float(np.mean(levels / np.maximum(deviations, 1e-3)))


def warn_of_black_padding(
    images: ImageSet, channels: int, size: int, deviations: Sequence[float], specs: Iterable[str]
) -> None:
    """Log a warning where one of the augmentations `specs` of `size` pixels pads with black and the borders of `images`, of
    which `LOOKED_AT` are read, are far from it."""
    padding = [spec for spec in dict.fromkeys(specs) if pads_black(spec, size)]
    if not padding:
        return
    borders = []
    for i in spread(len(images), LOOKED_AT):
        try:
            borders.append(border(images.image(int(i), channels)))
        except CorruptImage:  # whoever needs it will tell
            continue
    if borders and (distance := from_black(borders, deviations)) > FAR:
        logger.warning(
            "Augmentation '%s' pads with black, and the borders of the images are %.1f standard deviations from black (median "
            "of %d): this has halved accuracy on such images. Have it mirror them: crop:N:reflect in place of crop:N.",
            padding[0], distance, len(borders),
        )  # fmt: skip


def pads_black(spec: str, size: int) -> bool:
    """Whether the augmentation `spec` of images of `size` pixels pads them with black."""
    return any(isinstance(op, Crop) and op.padding > 0 and op.fill == "black" for op in parse(spec, size))
