"""Supervised contrastive losses over the whole batch, whichever process holds its parts."""

from __future__ import annotations

import torch
from torch import Tensor

from ..distributed import all_gather_with_grad, world
from .precision import full_precision


@full_precision
def supcon(features: Tensor, labels: Tensor, tau: float) -> Tensor:
    """Supervised contrastive loss: each view against all others, its class's being positives. A scalar.

    `features`: float [B, V, D], V views of each image, unit vectors. `labels`: int64 [B]. `tau`: temperature. An anchor
    without positives adds nothing. Under `torch.distributed` the anchors are this process's views, contrasted with
    those of all processes (equal B on each). Source: Khosla et al., NeurIPS 2020, eq. 2.

    >>> views = torch.nn.functional.normalize(torch.ones(4, 2, 8), dim=2)  # 4 images, 2 views of each
    >>> supcon(views, torch.tensor([0, 0, 1, 1]), tau=0.1)  # all alike: log 7
    tensor(1.9459)
    """
    logits, positive, other, _ = _pairs(features, labels, tau)
    log_p = logits - logits.masked_fill(~other, -torch.inf).logsumexp(1, keepdim=True)
    return _mean_over_positives(log_p, positive)


@full_precision
def balanced_contrastive(features: Tensor, labels: Tensor, centres: Tensor, tau: float) -> Tensor:
    """`supcon` in which every class is in the denominator, through its centre at least, and weighs the same.

    `features`, `labels`, `tau`: as in `supcon`. `centres`: float [C, D], unit vectors, the same on every process; they
    are contrasted with, but are no anchors. Source: BCL (Zhu et al., CVPR 2022).

    >>> views, centres = torch.nn.functional.normalize(torch.ones(4, 2, 8), dim=2), torch.eye(3, 8)
    >>> balanced_contrastive(views, torch.tensor([0, 0, 1, 1]), centres, tau=0.1).isfinite()
    tensor(True)
    """
    logits, positive, other, other_labels = _pairs(features, labels, tau, centres)
    members = torch.zeros_like(centres[:, 0]).index_add(0, other_labels, torch.ones_like(logits[0]))
    # The mean over a class of exp(s) is a sum of exp(s - log of its members), the anchor itself not being one.
    averaged = logits - (members[other_labels] - positive.to(members.dtype)).log()
    log_p = logits - averaged.masked_fill(~other, -torch.inf).logsumexp(1, keepdim=True)
    return _mean_over_positives(log_p, positive)


def _pairs(
    features: Tensor, labels: Tensor, tau: float, centres: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Similarities over `tau` of this process's B V anchors with all processes' views, then the centres: [B V, M].

    Then, of the same shape, which pairs are positives (same class, not itself), which are not the anchor with itself,
    and last the labels [M] of what the anchors are paired with.
    """
    views = features.shape[1]
    anchors, anchor_labels = features.flatten(0, 1), labels.repeat_interleave(views)
    others, other_labels = all_gather_with_grad(anchors), all_gather_with_grad(anchor_labels)
    if centres is not None:
        others = torch.cat((others, centres))
        other_labels = torch.cat((other_labels, torch.arange(len(centres), device=labels.device)))
    position = torch.arange(len(anchors), device=labels.device) + world()[0] * len(anchors)
    other = position[:, None] != torch.arange(len(others), device=labels.device)
    positive = (anchor_labels[:, None] == other_labels) & other
    return anchors @ others.T / tau, positive, other, other_labels


def _mean_over_positives(log_p: Tensor, positive: Tensor) -> Tensor:
    """Minus the mean of `log_p` over each anchor's positives, then over anchors."""
    return -((log_p * positive).sum(1) / positive.sum(1).clamp(min=1)).mean()
