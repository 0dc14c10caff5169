"""Depthwise convolutions that learn on a CPU in float32, where the rest of the network computes in bf16.

oneDNN has no fast backward pass for them in bf16: with it, EfficientNets train at half the speed that float32 has.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn


class _InFloat32(nn.Module):
    """Before a convolution's class: its forward pass in float32 where gradients are wanted and a CPU computes in bf16."""

    def forward(self, x: Tensor) -> Tensor:
        if not (torch.is_grad_enabled() and x.device.type == "cpu" and torch.is_autocast_enabled("cpu")):
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.float()).to(torch.get_autocast_dtype("cpu"))


@cache
def _in_float32(kind: Any) -> Any:
    return type(f"Float32{kind.__name__}", (_InFloat32, kind), {})


def learn_depthwise_in_float32(network: nn.Module) -> None:
    """Turn the depthwise convolutions within `network` into ones that learn in float32 on a CPU, parameters and all."""
    for module in network.modules():
        depthwise = isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1
        if depthwise and not isinstance(module, _InFloat32):
            kind: Any = type(module)
            module.__class__ = _in_float32(kind)
