"""Empirical prototypes (EPL): one unit vector per identity, moved by its samples and never by the optimiser."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from .margin import unit

Gate = Literal["softsign", "sigmoid"]
Repeats = Literal["each", "last"]
_GATES = {"softsign": F.softsign, "sigmoid": torch.sigmoid}


def _turns(labels: Tensor) -> tuple[Tensor, ...]:
    """Positions 0..B-1 in groups: each label's first sample, each label's second, and so on.

    No group holds a label twice, so a group can be updated at once. The number of groups is read on the host.
    """
    sorted_labels, order = labels.sort(stable=True)
    turn = torch.arange(len(labels), device=labels.device) - torch.searchsorted(sorted_labels, sorted_labels)
    return order[turn.argsort(stable=True)].split(turn.bincount().tolist())


def _last_of_each(labels: Tensor, classes: int) -> Tensor:
    """For each sample the position, int64 [B], of the last one with its label."""
    last = labels.new_zeros(classes)
    last.scatter_reduce_(0, labels, torch.arange(len(labels), device=labels.device), "amax")
    return last[labels]


@torch.no_grad()
def update_prototypes(
    prototypes: Tensor, embeddings: Tensor, labels: Tensor, gate: Gate = "softsign", repeats: Repeats = "each"
) -> None:
    """Move prototypes [C, D] towards their samples, in place: P_y <- normalise(a P_y + (1 - a) x).

    `embeddings` [B, D] are unit vectors, `labels` int64 [B] in 0..C-1, and a = gate(x . P_y): "softsign" as released,
    "sigmoid" as in the paper. An identity with several samples is updated once for "each", in batch order, or by the
    "last" alone, as released. A zero embedding moves nothing.
    """
    if repeats == "last":
        embeddings = embeddings[_last_of_each(labels, len(prototypes))]  # samples of one label all write the same
    for turn in _turns(labels) if repeats == "each" else (slice(None),):
        rows, x = labels[turn], embeddings[turn]
        old = prototypes[rows]
        a = _GATES[gate]((x * old).sum(1, keepdim=True))
        new = torch.where(x.any(1, keepdim=True), unit(a * old + (1 - a) * x), old)
        prototypes.index_copy_(0, rows, new)
