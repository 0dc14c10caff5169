"""BalPoE: balanced product of calibrated experts (Aimar et al., CVPR 2023)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .softmax import logit_adjusted_cross_entropy


def expert_logit_adjustment(
    expert_logits: Tensor, target: Tensor, class_counts: Tensor, taus: Sequence[float]
) -> Tensor:
    """Mean over experts k of the cross-entropy on logits_k + `taus`[k] log(class prior).

    `expert_logits`: float [B, E, C]. `target`: int64 [B] or soft float [B, C]. `class_counts`: [C]. The experts' mean logits
    are those of balanced classes where the mean of `taus` is 1.
    """
    return torch.stack(
        [
            logit_adjusted_cross_entropy(logits, target, class_counts, tau)
            for logits, tau in zip(expert_logits.unbind(1), taus, strict=True)
        ]
    ).mean()
