"""Binary cross-entropy over classes, in little memory.

BCE treats each class as its own yes/no question, so a batch costs B x C of them. The usual composition of elementwise
operations holds seven or more [B, C] tensors at its peak. Here it is one beside the logits, in each direction, and a
boolean one: see `benchmarks/loss_memory.py`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .precision import full_precision

# As in the released BCE3S code. It also keeps exp(logit) finite in float32, which allows softplus to be done in place.
LIMIT = 64.0


@full_precision
def bce_per_sample(
    logits: Tensor,
    labels: Tensor,
    weights: Tensor | None = None,
    class_mask: Tensor | None = None,
    negative_weight: float = 1.0,
) -> Tensor:
    """The BCE of each sample [B]: w softplus(-s) of its labels + `negative_weight` * softplus(s) of all other classes.

    `logits` s: float [B, C], clamped to +/-64; only they receive a gradient. `labels`: int64 [B], or [B, K] with
    `weights` w float [B, K] for mixed images: mixing y and y' gives labels (y, y') and weights (lambda, 1 - lambda). A
    label of weight 0 counts as another class. `class_mask`: bool [C], the classes summed over (None: all); a label
    outside it adds nothing. Source: BCE3S (AAAI 2026), joint loss.
    """
    if labels.dim() == 1:
        labels = labels[:, None]
    if weights is None:
        weights = torch.ones_like(labels, dtype=logits.dtype)
    return _BCE.apply(logits, labels, weights.to(logits.dtype), class_mask, negative_weight)


def bce(
    logits: Tensor,
    labels: Tensor,
    weights: Tensor | None = None,
    class_mask: Tensor | None = None,
    negative_weight: float = 1.0,
) -> Tensor:
    """`bce_per_sample` averaged over the batch: a scalar.

    >>> logits, labels = torch.tensor([[2.0, 0.0, 1.0], [0.0, 3.0, 0.0]]), torch.tensor([0, 1])
    >>> bce(logits, labels)
    tensor(1.7841)
    """
    return bce_per_sample(logits, labels, weights, class_mask, negative_weight).mean()


class _BCE(torch.autograd.Function):
    """Works in place on one [B, C] tensor in each direction."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, labels: Tensor, weights: Tensor, class_mask: Tensor | None, negative_weight: float
    ) -> Tensor:
        ctx.save_for_backward(logits, labels, weights, class_mask)
        ctx.negative_weight = negative_weight
        scores = logits.clamp(-LIMIT, LIMIT)
        positive = weights * F.softplus(-scores.gather(1, labels))
        if class_mask is not None:
            positive = positive * class_mask[labels]
        negative = _keep_negatives_(scores.exp_().log1p_(), labels, weights, class_mask)
        return positive.sum(1) + negative_weight * negative.sum(1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        logits, labels, weights, class_mask = ctx.saved_tensors
        scores = logits.clamp(-LIMIT, LIMIT)
        positive = -weights * torch.sigmoid(-scores.gather(1, labels))
        if class_mask is not None:
            positive = positive * class_mask[labels]
        negative = _keep_negatives_(scores.sigmoid_(), labels, weights, class_mask)
        result = negative.mul_(ctx.negative_weight).scatter_add_(1, labels, positive).mul_(grad[:, None])
        # The clamp stops the gradient. Two masks, one after the other, to hold one at a time.
        result.masked_fill_(logits > LIMIT, 0).masked_fill_(logits < -LIMIT, 0)
        return result, None, None, None, None


def _keep_negatives_(values: Tensor, labels: Tensor, weights: Tensor, class_mask: Tensor | None) -> Tensor:
    """Zero, in place, the positive `values` [B, C] of labels with weight and of classes outside the mask."""
    # A minimum, because a label may be listed twice, once with weight and once without.
    ceiling = torch.zeros_like(weights).masked_fill_(weights == 0, math.inf)
    values.scatter_reduce_(1, labels, ceiling, "amin")
    return values if class_mask is None else values.mul_(class_mask)
