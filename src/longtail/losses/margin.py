"""Margin losses of face recognition: one positive cosine per row, lowered by a margin, against the row's negatives.

CosFace (Wang et al., CVPR 2018), ArcFace (Deng et al., CVPR 2019), UniFace (Zhou et al., ICCV 2023).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ..distributed import all_gather_with_grad

Variant = Literal["cosface", "arcface", "uniface"]
AngularGradient = Literal["cosface", "exact"]


def unit(vectors: Tensor) -> Tensor:
    """Rows of `vectors` [..., D] at unit length. A zero row stays zero and gets no gradient."""
    norms = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors / norms.masked_fill(norms < 1e-12, math.inf)


def lower(positive: Tensor, variant: Variant, margin: float, angular_gradient: AngularGradient = "cosface") -> Tensor:
    """Positive cosines [B] made harder by `margin`: subtracted, or for ArcFace added to the angle (in radians).

    `angular_gradient`: "cosface" gives ArcFace's value with the gradient of a plain cosine ("characteristic gradient
    detachment", as EPL's code was released); "exact" is the derivative of cos(angle + margin).
    """
    if variant != "arcface":
        return positive - margin
    # The sine is kept off zero by float32's resolution: its derivative is infinite there.
    sine = (1 - positive.square()).clamp(min=1e-7).sqrt()
    value = positive * math.cos(margin) - sine * math.sin(margin)
    return value if angular_gradient == "exact" else positive + (value - positive).detach()


def softmax_rows(positive: Tensor, negatives: Tensor) -> Tensor:
    """log(1 + sum_j exp(n_j - p)) for each row: positive logits [B], negative logits [B, C] -> [B].

    Taken through log-sum-exp, so that it stays finite where the formula itself overflows. Where the identities are
    sharded, `negatives` holds this process's identities and the sum runs over all of them.
    """
    total = all_gather_with_grad(negatives.logsumexp(1)[None]).logsumexp(0)
    return F.softplus(total - positive)


def sigmoid_rows(positive: Tensor, negatives: Tensor, bias: Tensor, limit: float) -> Tensor:
    """UniFace's binary cross-entropy with the learned threshold `bias` [1], summed over a row's identities.

    Positive logits [B], negative logits [B, C] -> [B]. Logits less the threshold are clamped to +/- `limit`, as
    released: beyond it a row's term gives no gradient. Sharding as in `softmax_rows`.
    """
    total = all_gather_with_grad(F.softplus((negatives - bias).clamp(-limit, limit)).sum(1)[None]).sum(0)
    return total + F.softplus(-(positive - bias).clamp(-limit, limit))
