"""Queries against their own keys and a queue of earlier keys: KCL (ICLR 2021), TSC (CVPR 2022), SSD (ICCV 2021)."""

from __future__ import annotations

import torch
from torch import Tensor

from .precision import full_precision


@torch.no_grad()
def draw_positives(same: Tensor, k: int, entries: Tensor, shifts: Tensor) -> Tensor:
    """For each query `k` of the entries that are of its class (all, where they are fewer), without replacement: bool [B, M].

    `same`: bool [B, M], which entries are of which query's class. `entries`: float [M] and `shifts`: float [B], uniform
    in [0, 1). A query takes the entries that come first after its shift, round the circle: every set of `k` is equally
    likely, for M + B numbers drawn instead of M B. KCL's release takes whichever entries top-k finds first.
    """
    turns = (entries - shifts[:, None]).remainder(1.0)
    first = turns.masked_fill(~same, 2.0).topk(min(k, same.shape[1]), dim=1, largest=False).indices
    return torch.zeros_like(same).scatter_(1, first, True) & same


@full_precision
def queue_contrastive(
    queries: Tensor,
    keys: Tensor,
    entries: Tensor,
    positive: Tensor,
    tau: float,
    *,
    weights: Tensor | None = None,
    zeroed: Tensor | None = None,
    removed: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of each query with its own key and its positive entries, against all entries. A scalar.

    -(log p(own key) + sum over positives of `weights` log p) / (1 + number of positives), averaged over the batch; p is
    the softmax over the own key and the M entries of similarities over `tau`.
    `queries`, `keys`: float [B, D], unit vectors; `entries`: float [M, D]: what the queue holds, and TSC's targets after
    it. `positive`: bool [B, M]. `weights`: float [M] (None: 1). `zeroed`: bool [B, M], entries whose similarity is
    replaced by 0, which leaves exp(0) in the softmax (KCL's second form). `removed`: bool [B, M], entries that are not
    in the softmax (SSD: those of the query's class; or slots never filled).
    """
    own = (queries * keys).sum(1, keepdim=True) / tau
    others = queries @ entries.T / tau
    if zeroed is not None:
        others = others.masked_fill(zeroed, 0.0)
    if removed is not None:
        others = others.masked_fill(removed, -torch.inf)
    total = torch.cat((own, others), 1).logsumexp(1, keepdim=True)
    log_p = (others - total).masked_fill(~positive, 0.0)
    if weights is not None:
        log_p = log_p * weights
    return -(((own - total).squeeze(1) + log_p.sum(1)) / (1 + positive.sum(1))).mean()
