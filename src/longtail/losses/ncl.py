"""NCL: nested collaborative learning (Li et al., CVPR 2022), as released.

Several whole networks learn the same images and each other's answers, over all classes and over each image's hard ones.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .precision import full_precision


def hard_classes(logits: Tensor, labels: Tensor, count: int) -> Tensor:
    """Which classes are hard for each image: bool [B, C], its own and the `count` - 1 others with the highest logits.

    `logits`: float [B, C], one network's. `labels`: int64 [B].
    """
    own_first = logits.detach().scatter(1, labels[:, None], math.inf)
    chosen = own_first.topk(count, dim=1).indices
    return torch.zeros_like(logits, dtype=torch.bool).scatter(1, chosen, True)


@full_precision
def nested(expert_logits: Tensor, labels: Tensor, class_counts: Tensor, hard: int) -> Tensor:
    """Four terms, float [4]: `individual` and `mutual` over all classes, then both over each image's `hard` hardest.

    `expert_logits`: float [B, E, C], to which log n_c is added. `labels`: int64 [B]. `class_counts`: [C]. The first network's
    logits choose the hard classes for all. The other classes stay in the softmax with a logit of 0, as released; in the
    paper they leave it.

    >>> nested(torch.zeros(4, 3, 5), torch.tensor([0, 1, 2, 3]), torch.tensor([9, 5, 3, 2, 1]), hard=2).shape
    torch.Size([4])
    """
    mask = hard_classes(expert_logits[:, 0], labels, hard)
    adjusted = expert_logits + class_counts.to(expert_logits.dtype).log()
    hardest = adjusted * mask[:, None]
    return torch.stack([individual(adjusted, labels), mutual(adjusted), individual(hardest, labels), mutual(hardest)])


@full_precision
def individual(expert_logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each expert on its own, summed over experts. `expert_logits`: [B, E, C]. `labels`: int64 [B]."""
    experts = expert_logits.shape[1]
    return experts * F.cross_entropy(expert_logits.flatten(0, 1), labels.repeat_interleave(experts))


@full_precision
def mutual(expert_logits: Tensor) -> Tensor:
    """KL(p_j || p_i) over all pairs of experts j != i, divided by E - 1, averaged over the batch; both sides learn.

    `expert_logits`: [B, E, C]. p_i, inside the logarithm only, is raised by 1e-9, as released.
    """
    experts = expert_logits.shape[1]
    log_p = expert_logits.log_softmax(2)
    raised = torch.logaddexp(log_p, log_p.new_full((), math.log(1e-9)))
    others = raised.sum(1, keepdim=True) - raised
    return (log_p.exp() * (log_p - others / (experts - 1))).sum((1, 2)).mean()
