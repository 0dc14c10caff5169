"""RIDE: routing diverse distribution-aware experts (Wang et al., ICLR 2021), as released.

Several experts score each image: `expert_logits` is float [B, E, C]. Each learns the labels (under LDAM, see `classifier`),
and they are pushed apart; routers then learn how many of them an image needs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .precision import full_precision


def class_temperatures(class_counts: Tensor, share: float) -> Tensor:
    """Temperatures float32 [C], in (0, 1] and lower for rarer classes, with which re-weighting divides the logits.

    t_c = `share` C n_c / n + 1 - `share`, over its maximum. `class_counts`: [C].

    >>> class_temperatures(torch.tensor([90, 9, 1]), share=0.5)
    tensor([1.0000, 0.3432, 0.2784])
    """
    counts = class_counts.float()
    temperatures = share * counts / counts.mean() + 1 - share
    return temperatures / temperatures.max()


@full_precision
def diversity(expert_logits: Tensor, temperatures: Tensor | None = None) -> Tensor:
    """KL divergence of each expert from the experts' mean logits, summed over experts, averaged over the batch.

    The mean gets no gradient. `temperatures`: [C], see `class_temperatures` (None: 1); the result is multiplied by their
    squared mean. RIDE adds it with a negative weight. In the paper experts are compared in pairs; the release compares
    with the mean.

    >>> diversity(torch.ones(4, 3, 5))  # experts that agree
    tensor(0.)
    """
    mean = expert_logits.mean(1, keepdim=True).detach()
    if temperatures is None:
        temperatures = expert_logits.new_ones(())
    experts, mean = ((logits / temperatures).log_softmax(2) for logits in (expert_logits, mean))
    return temperatures.mean().square() * _divergence(mean, experts).sum(1).mean()


@full_precision
def distillation(expert_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.5) -> Tensor:
    """KL divergence of the experts' mean logits from the teacher's, times the squared temperature.

    `teacher_logits`: float [B, C], without gradient. Averaged over the batch.
    """
    student = (expert_logits.mean(1) / temperature).log_softmax(1)
    teacher = (teacher_logits.detach() / temperature).log_softmax(1)
    return temperature**2 * _divergence(teacher, student).mean()


def _divergence(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) over the last dimension, from log-probabilities."""
    return F.kl_div(q, p, reduction="none", log_target=True).sum(-1)


def first_means(expert_logits: Tensor) -> Tensor:
    """Logits [B, E, C] -> [B, E, C]: at i the mean of the first i + 1 experts."""
    counts = torch.arange(1, expert_logits.shape[1] + 1, device=expert_logits.device)
    return expert_logits.cumsum(1) / counts[:, None]


def helps_to_go_on(expert_logits: Tensor, labels: Tensor) -> Tensor:
    """What routers learn to say: bool [B, E - 1], at i whether the first i + 1 experts are wrong and some more are right."""
    right = first_means(expert_logits).argmax(2) == labels[:, None]
    later = right.flip(1).cummax(1).values.flip(1)  # whether this many experts or more are right
    return ~right[:, :-1] & later[:, 1:]


@full_precision
def routing_loss(router_logits: Tensor, expert_logits: Tensor, labels: Tensor, positive_weight: float) -> Tensor:
    """Binary cross-entropy of the routers' answers, averaged over routers and the batch.

    `router_logits`: float [B, E - 1], positive to go on after the first i + 1 experts. `positive_weight` multiplies the
    terms of images for which going on helps.
    """
    target = helps_to_go_on(expert_logits, labels).to(router_logits.dtype)
    weight = router_logits.new_full((), positive_weight)
    return F.binary_cross_entropy_with_logits(router_logits, target, pos_weight=weight)


def experts_used(router_logits: Tensor) -> Tensor:
    """How many experts each image is seen by: int64 [B], from router logits [B, E - 1]. Who stopped never goes on."""
    stopped = (router_logits <= 0).cumsum(1)
    return 1 + (stopped == 0).sum(1)


def mean_of_first(expert_logits: Tensor, used: Tensor) -> Tensor:
    """The mean logits [B, C] of the first `used` [B] experts of each image.

    All experts are computed and the rest left out, so that nothing depends on the data but numbers.
    """
    last = (used - 1)[:, None, None].expand(-1, 1, expert_logits.shape[2])
    return first_means(expert_logits).gather(1, last).squeeze(1)
