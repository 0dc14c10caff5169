"""The losses that class scores alone can be trained with, by name, in one shape: so that each can be weighted by class and
given the labels of mixed images."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..distributed import all_gather_with_grad
from .bce import bce_per_sample
from .class_balanced import sigmoid_focal_per_sample, softmax_bce_per_sample
from .precision import full_precision
from .softmax import focal_per_sample, ldam_margins

LossName = Literal["ce", "balanced_softmax", "logit_adjusted", "ldam", "focal", "bce", "sigmoid_focal", "softmax_bce"]
# Yes/no questions about each class, whose scores should start from the prior 1 / C.
SIGMOID: tuple[LossName, ...] = ("bce", "sigmoid_focal")
# Adjusted by the prior in training, so that the scores themselves are for balanced classes.
PRIOR: tuple[LossName, ...] = ("balanced_softmax", "logit_adjusted")


class ClassifierLoss(nn.Module):
    """One of these losses with what it needs to know of the classes.

    - ce: cross-entropy. focal: times (1 - p_y)^`gamma`.
    - logit_adjusted: cross-entropy after `tau` log(n_c / N) was added to the scores; balanced_softmax: the same with tau = 1.
    - ldam: cross-entropy after the label's score was lowered by `scale` * `max_margin` * (n_min / n_y)^(1/4), where `scale` is
      that of cosine scores, or 1.
    - bce, sigmoid_focal: binary cross-entropy summed over classes, and its focal form.
    - softmax_bce: binary cross-entropy of softmax probabilities averaged over classes, as in weight balancing.

    `over`: class-weighted losses are averaged over the "weights" of the batch, as `torch.nn.CrossEntropyLoss` does, or over the
    "batch".
    """

    shift: Tensor
    margins: Tensor

    def __init__(
        self,
        name: LossName,
        class_counts: Tensor,
        *,
        gamma: float = 1.0,
        tau: float = 1.0,
        max_margin: float = 0.5,
        scale: float = 1.0,
        over: Literal["weights", "batch"] = "weights",
    ) -> None:
        super().__init__()
        self.name, self.gamma, self.over = name, gamma, over
        prior = class_counts.float() / class_counts.sum()
        self.register_buffer("shift", (1.0 if name == "balanced_softmax" else tau) * prior.log(), persistent=False)
        self.register_buffer("margins", scale * ldam_margins(class_counts, max_margin), persistent=False)

    @full_precision
    def per_sample(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Logits float [B, C], labels int64 [B] -> the loss of each sample [B]."""
        if self.name == "focal":
            return focal_per_sample(logits, labels, self.gamma)
        if self.name == "bce":
            return bce_per_sample(logits, labels)
        if self.name == "sigmoid_focal":
            return sigmoid_focal_per_sample(logits, labels, self.gamma)
        if self.name == "softmax_bce":
            return softmax_bce_per_sample(logits, labels)
        if self.name in PRIOR:
            logits = logits + self.shift
        elif self.name == "ldam":
            logits = logits.scatter_add(1, labels[:, None], -self.margins[labels, None].to(logits.dtype))
        return F.cross_entropy(logits, labels, reduction="none")

    @full_precision
    def forward(
        self, logits: Tensor, labels: Tensor, shares: Tensor | None = None, class_weights: Tensor | None = None
    ) -> Tensor:
        """The mean over the batch, a scalar.

        `labels`: int64 [B], or [B, K] with `shares` float [B, K] for images mixed of K. `class_weights`: [C]; over the batch's
        weights each of the K label sets is averaged with its own.
        """
        labels = labels[:, None] if labels.dim() == 1 else labels
        losses = torch.stack([self.per_sample(logits, column) for column in labels.unbind(1)], 1)
        if class_weights is not None:
            weights = class_weights[labels].to(losses.dtype)
            if self.over == "weights":
                weights = weights / all_gather_with_grad(weights).mean(0)
            losses = weights * losses
        return (losses if shares is None else shares * losses).sum(1).mean()
