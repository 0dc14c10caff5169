"""What BCE3S (AAAI 2026) adds to BCE: a class subset, a memory of one feature per class, two more uses of the loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..distributed import all_gather_with_grad
from .bce import bce
from .precision import full_precision

Subset = Literal["present", "released"]
BLOCK = 2**26  # cosines at a time: 256 MB


@torch.no_grad()
def draw_class_mask(labels: Tensor, r: float, scores: Tensor, subset: Subset = "present") -> Tensor:
    """The classes that take part in a step: those in the batch, and random others up to floor(r C) in all.

    `labels`: int64 [B]. `scores`: float [2, C], uniform in [0, 1), the same on every process. Returns bool [C], the same
    on every process: the batch is that of all of them. Where it has more than floor(r C) classes, they are the subset
    ("present"), or floor(r C) of them at random, so that images of the others have no positive term ("released").

    The released code also gives one random class that is not in the batch the rank of those that are.
    """
    everyone = all_gather_with_grad(labels)
    order, ties = scores
    if subset == "released":
        ranks = order.argsort().argsort().to(scores).index_fill(0, everyone, 0.0)
        return torch.zeros_like(ties, dtype=torch.bool).index_fill_(0, _smallest(ranks + ties, r), True)
    drawn = _smallest(order.index_fill(0, everyone, -1.0), r)
    return torch.zeros_like(order, dtype=torch.bool).index_fill_(0, drawn, True).index_fill_(0, everyone, True)


def _smallest(values: Tensor, share: float) -> Tensor:
    return values.topk(int(share * len(values)), largest=False).indices


@torch.no_grad()
def update_class_memory(memory: Tensor, seen: Tensor, features: Tensor, labels: Tensor) -> None:
    """Overwrite, in place, each class's feature with that of its last sample in the batch, and mark the class as seen.

    `memory`: float [C, D]. `seen`: bool [C]. `features`: float [B, D]. `labels`: int64 [B]. Under `torch.distributed`
    the batch is that of all processes, in rank order, and every process ends with the same memory.
    """
    features, labels = all_gather_with_grad(features), all_gather_with_grad(labels)
    last = torch.zeros_like(seen, dtype=torch.int64)
    last.scatter_reduce_(0, labels, torch.arange(len(labels), device=labels.device), "amax")
    # Samples of one class all write the same row, so the order of the writes does not matter.
    memory.index_copy_(0, labels, features[last[labels]].to(memory.dtype))
    seen.index_fill_(0, labels, True)


@full_precision
def prototype_loss(
    features: Tensor,
    memory: Tensor,
    seen: Tensor,
    labels: Tensor,
    weights: Tensor,
    tau: float = 1.0,
    loss: Callable[..., Tensor] = bce,
) -> Tensor:
    """The contrastive term of one mixed view: `loss` on the cosines of its features with the class memory, over `tau`.

    `features`: float [B, D]. `memory`, `seen`: see `update_class_memory`; classes not seen yet take no part. `labels`:
    int64 [B, K] and `weights`: float [B, K], see `bce.bce_per_sample`. `loss`: `bce`, or `softmax.cross_entropy` for
    the paper's ablation.

    >>> memory, seen = torch.eye(3), torch.ones(3, dtype=torch.bool)
    >>> labels, shares = torch.tensor([[0, 1]]), torch.tensor([[0.7, 0.3]])  # a mixture of classes 0 and 1
    >>> prototype_loss(torch.tensor([[1.0, 0.5, 0.0]]), memory, seen, labels, shares)
    tensor(1.0814)
    """
    cosines = F.normalize(features) @ F.normalize(memory).T
    # A copy: the memory may be updated before the backward pass reads the mask.
    return loss(cosines / tau, labels, weights, class_mask=seen.clone())


@full_precision
def uniform_loss(rows: Tensor, loss: Callable[..., Tensor] = bce, block: int = BLOCK) -> Tensor:
    """The uniform term: `loss` on the cosines between classifier `rows` float [C, D], each a sample of its own class.

    `loss`: `bce`, or `softmax.cross_entropy` for the paper's ablation. Time grows with C^2, as the term is defined;
    memory does not: where there are more than `block` cosines, they are computed in parts, and again for the gradient.

    >>> uniform_loss(torch.eye(3)) < uniform_loss(torch.ones(3, 3))  # rows far apart are better
    tensor(True)
    """
    unit, classes = F.normalize(rows), torch.arange(len(rows), device=rows.device)
    if len(rows) ** 2 <= block:
        return loss(unit @ unit.T, classes)

    def part(samples: Tensor, labels: Tensor) -> Tensor:
        return loss(samples @ unit.T, labels) * len(labels)

    size = max(1, block // len(rows))
    parts = zip(unit.split(size), classes.split(size), strict=True)
    return torch.stack([checkpoint(part, *pair, use_reentrant=False) for pair in parts]).sum() / len(rows)
