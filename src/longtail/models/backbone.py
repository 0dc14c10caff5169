"""What the project calls a backbone: stages in order, then a pooled feature vector."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .batch_norm import make_fusable


class Backbone(nn.Module):
    """Stages applied in order, then pooling to one float32 feature vector per image.

    `stages` is a `ModuleList`, so that a method can share the early ones and own copies of the late ones. `dim` is
    the feature width D. `precision` is the autocast type of the stages (None: float32, no autocast); the pooling and
    what comes after the backbone always see float32.
    """

    def __init__(self, stages: Iterable[nn.Module], dim: int, pool: nn.Module | None = None) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.dim = dim
        self.pool = pool if pool is not None else nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.precision: torch.dtype | None = None

    def forward(self, images: Tensor) -> Tensor:
        """Images float [B, C_in, H, W] -> features float32 [B, D]."""
        with torch.autocast(images.device.type, self.precision, enabled=self.precision is not None):
            x = images
            for stage in self.stages:
                x = stage(x)
        return self.pool(x.float())

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """As `nn.Module.compile`, with what makes it pay on a CPU where the backbone is on one."""
        if next(self.parameters()).device.type == "cpu":
            make_fusable(self)
            # Where vectors are half full, as with 16 channels, loops that write over their input are far slower.
            kwargs = {"options": {"inplace_buffers": False}, **kwargs}
        super().compile(*args, **kwargs)
