"""How pixels become a network's input."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ..config import Section


class Preprocessing(Section):
    """How pixels become a network's input."""

    resize: int = Field(gt=0, le=10_000, description="the shorter side is resized to this, and the middle square kept")
    image_size: int = Field(gt=0, le=10_000, description="the middle of that square which the network sees")
    channels: int
    mean: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(strict=False)  # JSON has lists
    std: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(strict=False)
    value_range: tuple[float, float] | None = Field(None, strict=False)  # of pixels of more than 8 bits, see `decode`
