"""GLMC: cross-entropy on globally and locally mixed images, and consistency between the two (CVPR 2023)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .precision import full_precision


def conventional_share(epoch: int, epochs: int) -> float:
    """Weight of the conventional branch, 1 - (T / Tmax)^2: from 1 at the first epoch (0) down towards 0.

    >>> conventional_share(0, 200), conventional_share(100, 200)
    (1.0, 0.75)
    """
    return 1 - (epoch / epochs) ** 2


@full_precision
def mixed_cross_entropy(mixup_logits: Tensor, cutmix_logits: Tensor, target: Tensor) -> Tensor:
    """Sum over both mixed views of the cross-entropy of `logits` float [B, C] with the soft `target` float [B, C].

    Rows of `target` need not sum to 1: the rebalanced branch multiplies each label by its class's weight.
    """
    return F.cross_entropy(mixup_logits, target) + F.cross_entropy(cutmix_logits, target)


@full_precision
def consistency(
    mixup_prediction: Tensor, cutmix_prediction: Tensor, mixup_projection: Tensor, cutmix_projection: Tensor
) -> Tensor:
    """Minus the cosine of each view's prediction with the other view's projection, all float [B, D].

    Averaged over the batch, summed over the two views: in [-2, 2]. Projections receive no gradient.

    >>> import torch
    >>> consistency(torch.eye(2), torch.eye(2), torch.eye(2), torch.eye(2))
    tensor(-2.)
    """
    return -(
        F.cosine_similarity(mixup_prediction, cutmix_projection.detach()).mean()
        + F.cosine_similarity(cutmix_prediction, mixup_projection.detach()).mean()
    )
