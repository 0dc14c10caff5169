"""From an image of any size to the square that augmentation and evaluation start from."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ..errors import LongtailError, UsageError
from .augment import ResizedCrop
from .decode import CorruptImage, image_size
from .images import ImageSet


def stored_size(size: int) -> int:
    """Side of the square kept for a network input of `size` pixels: a little more from 160 pixels on (256 for 224)."""
    return round(size * 8 / 7) if size >= 160 else size


def to_square(pixels: np.ndarray, side: int) -> np.ndarray:
    """The middle of uint8 [H, W, C], its shorter side resized to `side`: uint8 [C, side, side].

    Antialiased bilinear, and nothing at all where the size is right already.
    """
    height, width = pixels.shape[:2]
    if height == width == side:
        return pixels.transpose(2, 0, 1)
    short = min(height, width)
    return _resized(pixels, [((height - short) / 2, (width - short) / 2)], short, side)[0]


def five_crops(pixels: np.ndarray, size: int, margin: int) -> np.ndarray:
    """Corners and middle of uint8 [H, W, C], its shorter side resized to `size` + `margin`: uint8 [5, C, size, size]."""
    height, width = pixels.shape[:2]
    length = min(height, width) * size / (size + margin)
    down, right = height - length, width - length
    places = [(0.0, 0.0), (0.0, right), (down, 0.0), (down, right), (down / 2, right / 2)]
    return _resized(pixels, places, length, size)


def _resized(pixels: np.ndarray, places: Sequence[tuple[float, float]], length: float, side: int) -> np.ndarray:
    """The squares of `length` pixels whose top and left are `places`, resized to uint8 [N, C, side, side]."""
    channels = pixels.shape[2]
    image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    boxes = [(left, top, left + length, top + length) for top, left in places]
    resized = np.stack([np.asarray(image.resize((side, side), Image.Resampling.BILINEAR, box)) for box in boxes])
    return resized.reshape(len(places), side, side, channels).transpose(0, 3, 1, 2)


def squares(images: Tensor, side: int) -> Tensor:
    """`to_square` for a batch in PyTorch: uint8 [B, C, H, W] -> levels, not rounded, as float32 [B, C, side, side].

    Pillow rounds after each of its two passes: the two differ by less than one and a half levels. Height and width may vary in
    an exported graph, and TorchScript can compile it.
    """
    height, width = images.shape[-2:]
    if torch.jit.is_scripting():
        short = min(height, width)
        reach = max(short / side, 1.0)
    else:
        short = torch.sym_min(height, width)
        reach = torch.sym_max(short / side, 1.0)
    rows = _triangles((height - short) / 2, short / side, reach, height, side, images.device)
    columns = _triangles((width - short) / 2, short / side, reach, width, side, images.device)
    return rows @ images.float() @ columns.mT


def _triangles(start: float, scale: float, reach: float, pixels: int, side: int, device: torch.device) -> Tensor:
    """Weights [side, pixels] that resample `side` x `scale` pixels from `start` on, each from those up to `reach` away."""
    centre = start + (torch.arange(side, device=device) + 0.5) * scale
    distance = (torch.arange(pixels, device=device) + 0.5 - centre[:, None]).abs()
    weights = (1 - distance / reach).clamp(min=0)
    return weights / weights.sum(1, keepdim=True)


class SquareReader:
    """Reads the images of a set as squares of one size.

    `image_size` is the network's input size; None takes the images as they are, which must then all be squares of one
    size. `size` is the input size, `side` that of the squares, which is larger where resizing leaves a margin to crop.
    """

    def __init__(self, images: ImageSet, channels: int, image_size: int | None) -> None:
        """Raises `UsageError` where the images need an `image_size` and there is none."""
        self.images, self.channels = images, channels
        self.resizes = image_size is not None
        self.size = self._native_size() if image_size is None else image_size
        self.side = stored_size(self.size) if self.resizes else self.size

    def _native_size(self) -> int:
        for i in range(len(self.images)):
            try:
                height, width = image_size(self.images.read(i))
            except CorruptImage:
                continue
            if height != width:
                raise self._needs_size(i, (height, width), "squares")
            return height
        raise LongtailError(f"{self.images.name}: none of its {len(self.images):,} images can be read.")

    def _needs_size(self, i: int, shape: tuple[int, ...], expected: str) -> UsageError:
        height, width = shape
        return UsageError(
            f"{self.images.name}: image {self.images.key(i)} has {height} x {width} pixels, expected {expected}. "
            "Say what to resize the images to, for example --image-size 224."
        )

    def square(self, i: int) -> np.ndarray:
        """Image `i` as uint8 [C, side, side].

        Raises `CorruptImage`, and `UsageError` where sizes differ and none was given.
        """
        return self._square(i, self._decode(i, self.side))

    def five_crops(self, i: int, margin: int) -> np.ndarray:
        """Image `i` as uint8 [5, C, size, size]: see `five_crops`."""
        return five_crops(self._decode(i, self.size + margin), self.size, margin)

    def _decode(self, i: int, least: int) -> np.ndarray:
        # a native size must be seen as it is, not at a scale that happens to fit
        return self.images.image(i, self.channels, at_least=(least, least) if self.resizes else None)

    def _square(self, i: int, pixels: np.ndarray) -> np.ndarray:
        if not self.resizes and pixels.shape[:2] != (self.side, self.side):
            raise self._needs_size(i, pixels.shape[:2], f"{self.side} x {self.side} like the first")
        return to_square(pixels, self.side)

    def views(self, i: int, crops: Sequence[ResizedCrop | None], draws: Sequence[Tensor | None]) -> list[np.ndarray]:
        """Image `i`, decoded once, and for each of `crops` the crop uint8 [C, size, size] that was drawn, or for None the
        square. `draws`: what each crop drew for this image, float64 [10, 4].

        A JPEG is decoded at the smallest scale at which each crop's first candidate keeps `size` pixels.
        """
        least = max(self.side if draw is None else self._least(*draw[0, :2].tolist()) for draw in draws)
        pixels = self._decode(i, least)
        return [
            self._square(i, pixels) if crop is None or draw is None else self._crop(pixels, crop, draw)
            for crop, draw in zip(crops, draws, strict=True)
        ]

    def _least(self, area: float, ratio: float) -> int:
        return math.ceil(self.size / math.sqrt(area * min(ratio, 1 / ratio)))

    def _crop(self, pixels: np.ndarray, crop: ResizedCrop, draw: Tensor) -> np.ndarray:
        top, left, height, width = crop.boxes(draw[None], *pixels.shape[:2])[0].tolist()
        box = torch.from_numpy(pixels[top : top + height, left : left + width]).permute(2, 0, 1)
        # Pillow's filter, to the level, in half the time
        size = (self.size, self.size)
        return nn.functional.interpolate(box[None], size, mode="bilinear", antialias=True)[0].numpy()
