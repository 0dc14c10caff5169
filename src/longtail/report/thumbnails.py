"""Small pictures inside a page, bounded in number and bytes."""

from __future__ import annotations

import base64
import io

from PIL import Image

from ..data.decode import CorruptImage
from ..data.images import ImageSet

SIDE = 96  # pixels; shown at no more, sharp enough on a phone


class Thumbnails:
    """Makes pictures until they take `budget` bytes; from then on there are none."""

    def __init__(self, budget: int = 1_500_000) -> None:
        self.left = budget
        self._made: dict[tuple[int, int], str | None] = {}

    def uri(self, images: ImageSet, i: int) -> str | None:
        """Image `i` as a data URI of at most `SIDE` pixels; None where it cannot be read or the budget is spent."""
        place = (id(images), i)
        if place not in self._made:
            self._made[place] = self._make(images, i)
        return self._made[place]

    def _make(self, images: ImageSet, i: int) -> str | None:
        if self.left <= 0:
            return None
        try:
            picture = Image.fromarray(images.image(i, 3, at_least=(SIDE, SIDE)))
        except CorruptImage:
            return None
        picture.thumbnail((SIDE, SIDE))
        buffer = io.BytesIO()
        picture.save(buffer, "WEBP", quality=75)
        uri = "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
        self.left -= len(uri)
        return uri
