"""SADE: self-supervised aggregation of diverse experts (Zhang et al., NeurIPS 2022), as released.

Three experts learn for three class distributions: the training set's, a uniform one, and the reverse of the training set's.
At test time, weights of the experts can be learned from unlabelled test images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from .precision import full_precision


def inverse_prior(class_counts: Tensor) -> Tensor:
    """The class prior float32 [C] with its values in reversed order of rank: the rarest class gets the largest share.

    `class_counts`: [C]. Among equal counts the class with the lower number counts as the rarer.

    >>> inverse_prior(torch.tensor([90, 9, 1]))
    tensor([0.0100, 0.0900, 0.9000])
    """
    prior = class_counts.float() / class_counts.sum()
    ascending, order = prior.sort(stable=True)
    return torch.empty_like(prior).scatter_(0, order, ascending.flip(0))


def skill_shifts(class_counts: Tensor, tau: float = 2.0) -> Tensor:
    """What is added to the three experts' logits before their cross-entropies, float32 [3, C].

    Nothing; the log prior; and the log prior less `tau` times the log of the inverse prior. `class_counts`: [C].
    """
    prior = (class_counts.float() / class_counts.sum()).log()
    return torch.stack([torch.zeros_like(prior), prior, prior - tau * inverse_prior(class_counts).log()])


def aggregate(expert_logits: Tensor, shares: Tensor) -> Tensor:
    """Expert logits [..., E, C] and shares [E] -> the weighted sum [..., C].

    >>> aggregate(torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]), torch.tensor([0.75, 0.25]))
    tensor([[0.7500, 0.2500]])
    """
    return torch.einsum("...ec,e->...c", expert_logits, shares.to(expert_logits))


@full_precision
def view_disagreement(weights: Tensor, two_view_logits: Tensor) -> Tensor:
    """Minus the mean cosine between the aggregated probabilities of two views of the same images.

    `weights`: float [E], whose softmax shares the experts. `two_view_logits`: float [2, B, E, C].
    """
    first, second = aggregate(two_view_logits, weights.softmax(0)).softmax(-1)
    return -F.cosine_similarity(first, second, dim=1, eps=1e-6).mean()


def learn_shares(
    epoch: Callable[[], Iterable[Tensor]],
    experts: int,
    epochs: int = 5,
    lr: float = 0.1,
    weight_decay: float = 5e-4,
    stop_below: float = 0.05,
) -> Tensor:
    """The experts' shares [E], summing to 1, with which two views of unlabelled test images agree best.

    `epoch`: called once an epoch, gives batches of logits [2, B, E, C] of two freshly augmented views. SGD with Nesterov's
    momentum 0.9 on weights that start equal; stops after an epoch in which a share, rounded to hundredths, falls below
    `stop_below`. Transductive: it looks at the whole test set, though not at its labels.
    """
    weights = torch.full((experts,), 1 / experts, requires_grad=True)
    optimizer = torch.optim.SGD([weights], lr=lr, momentum=0.9, weight_decay=weight_decay, nesterov=True)
    with torch.enable_grad():
        for _ in range(epochs):
            for two_view_logits in epoch():
                optimizer.zero_grad()
                view_disagreement(weights, two_view_logits.cpu()).backward()
                optimizer.step()
            if weights.detach().softmax(0).mul(100).round().min() < 100 * stop_below:
                break
    return weights.detach().softmax(0)
