"""Cross-entropy on a softmax, and its forms for imbalanced classes.

Plain soft-target cross-entropy is `torch.nn.functional.cross_entropy`, which takes targets [B, C] as they are.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .precision import full_precision


@full_precision
def cross_entropy(
    logits: Tensor, labels: Tensor, weights: Tensor | None = None, class_mask: Tensor | None = None
) -> Tensor:
    """Cross-entropy with the arguments of `bce.bce`, to put one in the place of the other.

    `logits`: float [B, C]. `labels`: int64 [B], or [B, K] with `weights` float [B, K] for mixed images. `class_mask`:
    bool [C], the classes in the softmax (None: all); a label outside it adds nothing. Returns the mean over the batch.

    >>> logits, labels = torch.tensor([[2.0, 0.0, 1.0], [0.0, 3.0, 0.0]]), torch.tensor([0, 1])
    >>> cross_entropy(logits, labels)
    tensor(0.2513)
    """
    if labels.dim() == 1:
        labels = labels[:, None]
    if weights is None:
        weights = torch.ones_like(labels, dtype=logits.dtype)
    if class_mask is not None:
        # The lowest finite number rather than -inf, which would make 0 * inf = nan of a label outside the mask.
        logits = logits.masked_fill(~class_mask, torch.finfo(logits.dtype).min)
        weights = weights * class_mask[labels]
    return -(weights * logits.log_softmax(1).gather(1, labels)).sum(1).mean()


@full_precision
def logit_adjusted_cross_entropy(logits: Tensor, target: Tensor, class_counts: Tensor, tau: float = 1.0) -> Tensor:
    """Cross-entropy of logits + tau log(class prior).

    `logits`: float [B, C]. `target`: int64 [B] or soft float [B, C]. `class_counts`: [C], images of each class.
    Source: Menon et al., ICLR 2021, eq. 10; with tau = 1 it is Balanced Softmax (Ren et al., NeurIPS 2020).

    >>> logits, labels = torch.tensor([[2.0, 0.0, 1.0], [0.0, 3.0, 0.0]]), torch.tensor([0, 1])
    >>> logit_adjusted_cross_entropy(logits, labels, torch.tensor([90, 9, 1]))
    tensor(0.2126)
    """
    prior = class_counts.to(logits.dtype) / class_counts.sum()
    return F.cross_entropy(logits + tau * prior.log(), target)


def adjust_logits(logits: Tensor, class_counts: Tensor, tau: float | Tensor = 1.0) -> Tensor:
    """Logits less tau log(class prior), for predictions of a network trained with plain cross-entropy.

    `logits`: float [B, C]. `class_counts`: [C]. Source: Menon et al., ICLR 2021, eq. 9, with their code's epsilon.

    >>> adjust_logits(torch.zeros(1, 3), torch.tensor([90, 9, 1])).argmax(1)  # the rarest
    tensor([2])
    """
    prior = class_counts.to(logits.dtype) / class_counts.sum()
    return logits - (prior**tau + 1e-12).log()


@full_precision
def focal_per_sample(logits: Tensor, labels: Tensor, gamma: float) -> Tensor:
    """(1 - p_y)^gamma * -log p_y of each sample [B]. `logits`: float [B, C]. `labels`: int64 [B].

    Source: Lin et al., ICCV 2017, eq. 4.
    """
    log_p = -F.cross_entropy(logits, labels, reduction="none")
    # expm1 keeps 1 - p accurate where p is almost 1; the clamp keeps its power's derivative finite where p is 1.
    return -((-log_p.expm1()).clamp(min=1e-12) ** gamma * log_p)


def focal(logits: Tensor, labels: Tensor, gamma: float) -> Tensor:
    """`focal_per_sample` averaged over the batch: a scalar.

    >>> logits, labels = torch.tensor([[2.0, 0.0, 1.0], [0.0, 3.0, 0.0]]), torch.tensor([0, 1])
    >>> focal(logits, labels, gamma=1.0)
    tensor(0.0725)
    """
    return focal_per_sample(logits, labels, gamma).mean()


def ldam_margins(class_counts: Tensor, max_margin: float) -> Tensor:
    """Margins float32 [C], proportional to n_c^(-1/4), the rarest class's being `max_margin` (Cao et al., NeurIPS 2019).

    >>> ldam_margins(torch.tensor([1296, 16, 1]), max_margin=0.6)
    tensor([0.1000, 0.3000, 0.6000])
    """
    return max_margin * (class_counts.min() / class_counts.float()) ** 0.25


@full_precision
def ldam(
    cosines: Tensor,
    labels: Tensor,
    class_counts: Tensor,
    max_margin: float = 0.5,
    scale: float = 30.0,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of scaled cosines after lowering the label's by a margin that is larger for rarer classes.

    `cosines`: float [B, C]. `labels`: int64 [B]. `class_counts`: [C]; margins are proportional to n_c^(-1/4), the
    largest being `max_margin`. `class_weights`: [C], for the deferred re-weighting of the last epochs. Source: Cao et
    al., NeurIPS 2019.

    >>> cosines, labels = torch.tensor([[0.9, 0.1, 0.0]]), torch.tensor([0])
    >>> ldam(cosines, labels, torch.tensor([90, 9, 1]))
    tensor(0.)
    """
    margins = ldam_margins(class_counts, max_margin).to(cosines.dtype)
    lowered = cosines.scatter_add(1, labels[:, None], -margins[labels, None])
    return F.cross_entropy(scale * lowered, labels, weight=class_weights)
