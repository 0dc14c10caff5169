"""Implicit semantic augmentation: the cross-entropy that Gaussian noise in feature space would give, in closed form.

ISDA (Wang et al., NeurIPS 2019), RISDA (Chen et al., AAAI 2022), MetaSAug (Li et al., CVPR 2021). Each class has a mean [D]
and a covariance, kept whole as [D, D] or as its diagonal [D]: `covariances` is float [C, D, D] or [C, D] throughout.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..distributed import all_gather_with_grad
from .precision import full_precision


@torch.no_grad()
def update_statistics(features: Tensor, labels: Tensor, means: Tensor, covariances: Tensor, counts: Tensor) -> None:
    """Take a batch into the running `means` [C, D], `covariances` and `counts` [C] of its classes, in place.

    `features`: float [B, D]. `labels`: int64 [B]. All images ever seen weigh the same. Under `torch.distributed` the batch is
    that of all processes. Source: ISDA, eqs. 11 to 13.
    """
    features, labels = all_gather_with_grad(features.detach()), all_gather_with_grad(labels)
    new = torch.zeros_like(counts).index_add_(0, labels, torch.ones_like(features[:, 0]))
    divisor = new.clamp(min=1)
    mean = torch.zeros_like(means).index_add_(0, labels, features) / divisor[:, None]
    whole = covariances.dim() == 3
    covariance = torch.zeros_like(covariances).index_add_(0, labels, _outer(features - mean[labels], whole))
    share = new / (new + counts).clamp(min=1)
    weight, column = share.view(-1, *[1] * (covariances.dim() - 1)), share[:, None]
    covariance = covariance / divisor.view_as(weight)
    covariances.add_(weight * (covariance - covariances + (1 - weight) * _outer(means - mean, whole)))
    means.add_(column * (mean - means))
    counts.add_(new)


def _outer(vectors: Tensor, whole: bool) -> Tensor:
    """x x' of each row [N, D], [N, D, D], or its diagonal [N, D]."""
    return vectors[:, :, None] * vectors[:, None, :] if whole else vectors.square()


@full_precision
def spread(rows: Tensor, labels: Tensor, covariances: Tensor) -> Tensor:
    """(w_j - w_y)' S_y (w_j - w_y) of each sample and class, float [B, C]: 0 for the label itself.

    `rows`: float [C, D], of the classifier. `labels`: int64 [B]. Half of it, times a strength, is added to the scores.

    >>> spread(torch.eye(2), torch.tensor([0]), torch.eye(2).expand(2, 2, 2))
    tensor([[0., 2.]])
    """
    own, covariance = rows[labels], covariances[labels]
    if covariances.dim() == 3:
        difference = rows - own[:, None]
        return (difference @ covariance * difference).sum(2)
    # Multiplied out, because [B, C, D] is large where only a diagonal is kept.
    cross = (covariance * own) @ rows.T
    return covariance @ rows.square().T - 2 * cross + (covariance * own.square()).sum(1, keepdim=True)


def confusion_graph(confusion: Tensor) -> Tensor:
    """RISDA's knowledge graph float32 [C, C] from counts [C, C] of true class (rows) and prediction: shares of each row,
    rounded to two decimals as released."""
    shares = confusion.double() / confusion.sum(1, keepdim=True).clamp(min=1)
    return ((100 * shares).round() / 100).float()


def prototype_shift(means: Tensor, graph: Tensor) -> Tensor:
    """Where a class's features are moved, float [C, D]: the means of what it is taken for, weighted by `graph` [C, C], less
    its own mean."""
    return graph @ means - means


@torch.no_grad()
def propagate(covariances: Tensor, graph: Tensor, tail: Tensor) -> None:
    """Replace, in place, the covariances of the classes in `tail` (bool [C]) by those of what they are taken for, weighted by
    `graph` [C, C]."""
    mixed = torch.tensordot(graph, covariances, 1)
    covariances.copy_(torch.where(tail.view(-1, *[1] * (covariances.dim() - 1)), mixed, covariances))
