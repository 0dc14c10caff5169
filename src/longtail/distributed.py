"""Seeing the whole when several processes hold parts of it: of a batch, or of a table of identities."""

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


def part(count: int, rank: int | None = None) -> tuple[int, int]:
    """Where `count` rows are divided: the first that process `rank` (None: this one) holds, and the first after them."""
    own, size = world()
    rank = own if rank is None else rank
    return count * rank // size, count * (rank + 1) // size


@torch.no_grad()
def gather_rows(own: Tensor, count: int) -> Tensor:
    """The `count` rows [count, ...] of which every process holds its `part` `own`. Every process must call it."""
    size = world()[1]
    if size == 1:
        return own
    padded = own.new_zeros(-(-count // size), *own.shape[1:])
    padded[: len(own)] = own
    shards = all_gather_with_grad(padded).chunk(size)
    parts = (part(count, rank) for rank in range(size))
    return torch.cat([shard[: last - first] for shard, (first, last) in zip(shards, parts, strict=True)])


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
