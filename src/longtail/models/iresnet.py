"""IResNet (Duta et al., ICPR 2020, as used by ArcFace's code): the residual networks of face recognition."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UsageError
from .backbone import Backbone

IRESNETS = {  # name: blocks in each of the four stages
    "iresnet18": (2, 2, 2, 2),
    "iresnet34": (3, 4, 6, 3),
    "iresnet50": (3, 4, 14, 3),
    "iresnet100": (3, 13, 30, 3),
    "iresnet200": (3, 33, 60, 3),
}


class Block(nn.Module):
    """BN - 3x3 - BN - PReLU - 3x3 (strided) - BN, and a shortcut: 1x1 convolution and BN where the shape changes."""

    def __init__(self, dim_in: int, dim_out: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(dim_in),
            nn.Conv2d(dim_in, dim_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(dim_out),
            nn.PReLU(dim_out),
            nn.Conv2d(dim_out, dim_out, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(dim_out),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or dim_in != dim_out:
            self.shortcut = nn.Sequential(nn.Conv2d(dim_in, dim_out, 1, stride, bias=False), nn.BatchNorm2d(dim_out))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.shortcut(x)


class Embedding(nn.Module):
    """Feature map [B, C, S, S] -> float32 embedding [B, dim]: BN, dropout, a linear map, and a BN that only shifts."""

    def __init__(self, channels: int, size: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.size = size
        self.norm = nn.BatchNorm2d(channels)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(channels * size**2, dim)
        self.shift = nn.BatchNorm1d(dim)
        self.shift.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2:] != (self.size, self.size):
            raise UsageError(
                f"This IResNet was built for images of up to {16 * self.size}x{16 * self.size} pixels, which leave "
                f"{self.size}x{self.size} positions, and was given some that leave {x.shape[2]}x{x.shape[3]}. Resize "
                "the images, or build the network for their size."
            )
        with torch.autocast(x.device.type, enabled=False):
            return self.shift(self.linear(self.dropout(self.norm(x.float())).flatten(1)))


def iresnet(name: str, in_channels: int = 3, size: int = 112, dim: int = 512, dropout: float = 0.4) -> Backbone:
    """The network `name` of `IRESNETS` for square images of `size` pixels.

    Five stages: a 3x3 stem at full size, then 64, 128, 256 and 512 channels, each at half the size of the one before
    (rounded up).
    """
    stem = nn.Sequential(nn.Conv2d(in_channels, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.PReLU(64))
    stages: list[nn.Module] = [stem]
    dim_in = 64
    for dim_out, blocks in zip((64, 128, 256, 512), IRESNETS[name], strict=True):
        rest = [Block(dim_out, dim_out, 1) for _ in range(blocks - 1)]
        stages.append(nn.Sequential(Block(dim_in, dim_out, 2), *rest))
        dim_in = dim_out
    backbone = Backbone(stages, dim, Embedding(512, math.ceil(size / 16), dim, dropout))
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=0.1)
    return backbone


def start_kaiming(backbone: Backbone) -> None:
    """Start as in EPL's code: convolutions normal with variance 2 / fan-in (He et al., ICCV 2015), and the last norm of
    each block's branch at zero, so that a block is its shortcut. Raises `UsageError` where it is no new IResNet."""
    blocks = [module for module in backbone.modules() if isinstance(module, Block)]
    if not blocks or backbone.pretrained:
        raise UsageError("network_start=kaiming starts an IResNet that is trained from scratch: leave it out here.")
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
    for block in blocks:
        norm: Any = block.body[-1]
        nn.init.zeros_(norm.weight)


@torch.no_grad()
def clamp_prelu_slopes(module: nn.Module, low: float = 0.01) -> None:
    """Raise every PReLU slope below `low` to it, in place; EPL does so after each step. Keeps the units increasing."""
    for part in module.modules():
        if isinstance(part, nn.PReLU):
            part.weight.clamp_(min=low)
