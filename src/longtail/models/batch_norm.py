"""Batch normalisation in a form that `torch.compile` turns into fast loops on a CPU.

PyTorch's own form compiles to Welford's algorithm, in which every pixel waits for the one before, and to a backward pass
whose sums one thread adds up alone. Here each image is summed by itself, and then the images.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class FusableBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d`, and the same up to rounding: for bf16 batches in training from sums of the values and of their squares.

    In float32 the difference of the two loses digits where a channel's mean is far larger than its deviation, but never
    as many as rounding such values to bf16 has lost. What is left takes PyTorch's form.
    """

    weight: nn.Parameter
    bias: nn.Parameter
    momentum: float
    num_batches_tracked: Tensor
    running_mean: Tensor
    running_var: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """bf16 [B, C, H, W] -> the same."""
        images, channels = x.shape[:2]
        if not self.training or x.dtype != torch.bfloat16 or x.numel() == channels:
            return super().forward(x)
        share = channels / x.numel()  # of one pixel in a channel's mean
        values = x.float()
        mean = values.sum((2, 3)).sum(0) * share
        variance = (values * values).sum((2, 3)).sum(0) * share - mean * mean
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance / (1 - share), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        shift = self.bias - mean * scale
        # One copy for each image, so that the gradients are summed for each image first as well.
        scale, shift = (v.expand(images, channels)[:, :, None, None] for v in (scale, shift))
        return (values * scale + shift).to(x.dtype)


def make_fusable(network: nn.Module) -> None:
    """Turn the ordinary batch norms within `network` into `FusableBatchNorm2d`, with the parameters and buffers they have."""
    for norm in network.modules():
        if type(norm) is nn.BatchNorm2d and norm.affine and norm.track_running_stats and norm.momentum is not None:
            norm.__class__ = FusableBatchNorm2d
