"""Seeing the whole batch when several processes hold parts of it."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world() -> tuple[int, int]:
    """This process's rank and the number of processes: (0, 1) where `torch.distributed` is not running."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def all_gather_with_grad(x: Tensor) -> Tensor:
    """Every process's `x` [B, ...] in rank order, [world * B, ...]; `x` itself where there is one process.

    All processes must pass the same shape and type. The gradient of `x` is the sum over all processes' losses, so that
    averaging parameter gradients, as DDP does, gives the gradient of the mean of those losses.
    """
    return x if world()[1] == 1 else _AllGather.apply(x)


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = x.new_empty(world()[1] * x.shape[0], *x.shape[1:])
        dist.all_gather_into_tensor(parts, x.contiguous())
        return parts

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        rank, size = world()
        # Not reduce_scatter: gloo, and so the CPU, lacks it in some torch versions.
        total = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.chunk(size)[rank]
