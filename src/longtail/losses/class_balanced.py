"""Class-balanced losses: each sample weighted by its class's effective number of samples (Cui et al., CVPR 2019)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .bce import bce_per_sample
from .precision import full_precision


@full_precision
def class_balanced_bce(
    logits: Tensor, labels: Tensor, class_weights: Tensor, class_mask: Tensor | None = None
) -> Tensor:
    """BCE summed over classes, weighted by each sample's class, averaged over the batch.

    `logits`: float [B, C], clamped to +/-64. `labels`: int64 [B]. `class_weights`: [C], see `effective_number_weights`.
    `class_mask`: bool [C], the classes summed over (None: all). With a mask it is the loss of BCE3S's second stage.

    >>> logits, labels = torch.tensor([[2.0, 0.0, 1.0], [0.0, 3.0, 0.0]]), torch.tensor([0, 1])
    >>> from longtail.losses import effective_number_weights
    >>> class_balanced_bce(logits, labels, effective_number_weights(torch.tensor([90, 9, 1]), beta=0.99))
    tensor(0.2672)
    """
    return (class_weights[labels] * bce_per_sample(logits, labels, class_mask=class_mask)).mean()


def class_balanced_sigmoid(logits: Tensor, labels: Tensor, class_weights: Tensor) -> Tensor:
    """`class_balanced_bce` averaged over the C classes instead of summed.

    >>> logits, labels = torch.tensor([[2.0, 0.0, 1.0], [0.0, 3.0, 0.0]]), torch.tensor([0, 1])
    >>> class_balanced_sigmoid(logits, labels, torch.ones(3))
    tensor(0.5947)
    """
    return class_balanced_bce(logits, labels, class_weights) / logits.shape[1]


@full_precision
def softmax_bce_per_sample(logits: Tensor, labels: Tensor) -> Tensor:
    """BCE on softmax probabilities, averaged over the classes, of each sample [B]. Shapes as in `class_balanced_bce`."""
    target = torch.zeros_like(logits).scatter_(1, labels[:, None], 1)
    return F.binary_cross_entropy(logits.softmax(1), target, reduction="none").mean(1)


def class_balanced_softmax(logits: Tensor, labels: Tensor, class_weights: Tensor) -> Tensor:
    """`softmax_bce_per_sample` weighted by each sample's class, averaged over the batch.

    A widely used port of the paper's code, and weight balancing with it, has this; the paper's own code has
    cross-entropy weighted by class and averaged over the batch.

    >>> logits, labels = torch.tensor([[2.0, 0.0, 1.0], [0.0, 3.0, 0.0]]), torch.tensor([0, 1])
    >>> class_balanced_softmax(logits, labels, torch.ones(3))
    tensor(0.1617)
    """
    return (class_weights[labels] * softmax_bce_per_sample(logits, labels)).mean()


@full_precision
def sigmoid_focal_per_sample(logits: Tensor, labels: Tensor, gamma: float) -> Tensor:
    """Focal loss of each class's yes/no question, summed over classes, of each sample [B].

    Each class's BCE is multiplied by (1 - p)^gamma, p the probability of the right answer. Shapes as in
    `class_balanced_bce`.
    """
    wrong = logits.scatter(1, labels[:, None], -logits.gather(1, labels[:, None]))  # the logit of the wrong answer
    return (torch.exp(gamma * F.logsigmoid(wrong)) * F.softplus(wrong)).sum(1)


def class_balanced_focal(logits: Tensor, labels: Tensor, class_weights: Tensor, gamma: float = 2.0) -> Tensor:
    """`sigmoid_focal_per_sample` weighted by each sample's class, averaged over the batch.

    >>> logits, labels = torch.tensor([[2.0, 0.0, 1.0], [0.0, 3.0, 0.0]]), torch.tensor([0, 1])
    >>> class_balanced_focal(logits, labels, torch.ones(3), gamma=1.0)
    tensor(1.0086)
    """
    return (class_weights[labels] * sigmoid_focal_per_sample(logits, labels, gamma)).mean()
