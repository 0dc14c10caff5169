"""PaCo (Cui et al., ICCV 2021) and GPaCo (TPAMI 2023): a classifier's logits and contrasts in one softmax."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..distributed import all_gather_with_grad, world
from .precision import full_precision


@full_precision
def paco(
    anchors: Tensor,
    labels: Tensor,
    entries: Tensor,
    entry_labels: Tensor,
    logits: Tensor,
    class_counts: Tensor,
    tau: float,
    alpha: float,
    *,
    beta: float = 1.0,
    gamma: float = 1.0,
    supervised_tau: float = 1.0,
    smoothing: float = 0.0,
) -> Tensor:
    """Parametric contrastive loss: each anchor against the class centres, the other anchors and the entries. A scalar.

    In one softmax stand the C centres, with the logit (`logits` + log prior) / `supervised_tau`, and, each counted `gamma`
    times, the other anchors and the entries, with their similarity over `tau`. The loss is the mean of -log p over the
    anchor's positives: its class's centre with weight `beta`, everything else of its class with weight `alpha`.
    `anchors`: float [A, D], unit vectors with `labels` int64 [A]: PaCo's queries, or both of GPaCo's views. `entries`:
    float [M, D], keys and queue, with `entry_labels` int64 [M], those of label -1 taking no part. `logits`: float [A, C].
    `class_counts`: [C]. `smoothing`: the share of the centre's weight that goes to the other classes' centres. Under
    `torch.distributed` the anchors are contrasted with those of all processes (equal A on each).
    """
    others, other_labels = all_gather_with_grad(anchors), all_gather_with_grad(labels)
    position = torch.arange(len(anchors), device=labels.device) + world()[0] * len(anchors)
    itself = position[:, None] == torch.arange(len(others) + len(entries), device=labels.device)
    others, other_labels = torch.cat((others, entries)), torch.cat((other_labels, entry_labels))
    positive = (labels[:, None] == other_labels) & ~itself
    contrasts = anchors @ others.T / tau

    prior = class_counts.to(logits.dtype) / class_counts.sum()
    centres = (logits + (prior + 1e-9).log()) / supervised_tau
    negligible = torch.finfo(
        logits.dtype
    ).min  # not -inf, of which log-sum-exp has no gradient where nothing else is left
    counted = contrasts.masked_fill(itself | (other_labels < 0), negligible).logsumexp(1) + math.log(gamma)
    total = torch.logaddexp(centres.logsumexp(1), counted)[:, None]

    spread = smoothing / (logits.shape[1] - 1)
    centre_log_p = (centres - total) * spread
    own = (centres.gather(1, labels[:, None]) - total) * (1 - smoothing - spread)
    centre_term = beta * (centre_log_p.sum(1) + own.squeeze(1))
    contrast_term = alpha * ((contrasts - total) * positive).sum(1)
    return -((centre_term + contrast_term) / (beta + alpha * positive.sum(1))).mean()
