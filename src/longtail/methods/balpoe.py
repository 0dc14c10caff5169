"""BalPoE: balanced product of calibrated experts (Aimar et al., CVPR 2023).

Experts on RIDE's network at full width, each with a logit adjustment of its own strength, learn images mixed by MixUp, which
calibrates them. Their mean answers, and is balanced where the strengths average 1.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from ..classes import Classes
from ..losses.classifier import ClassifierLoss
from ..models.backbone import Backbone
from .experts import TrunkMethod, TrunkOptions
from .options import with_defaults


class BalPoEOptions(with_defaults(TrunkOptions, width=1.0, mix="mixup", mix_alpha=0.4)):  # type: ignore[misc]
    taus: tuple[float, ...] = Field(
        (0.0, 1.0, 2.0), strict=False, min_length=2, max_length=6, description="each expert's logit adjustment"
    )


class BalPoE(TrunkMethod):
    """See the module's text."""

    shifts: Tensor

    Options = BalPoEOptions
    train_defaults = {"nesterov": True, "schedule": "step", "warmup_epochs": 5}

    def __init__(self, backbone: Backbone, classes: Classes, options: BalPoEOptions) -> None:
        super().__init__(backbone, classes, options, experts=len(options.taus))
        self.criterion = ClassifierLoss("ce", self.counts)
        prior = self.counts.float() / self.counts.sum()
        self.register_buffer("shifts", torch.outer(torch.tensor(options.taus), prior.log()), persistent=False)

    def prior_exponent(self) -> float:
        return 1 - sum(self.hp.taus) / len(self.hp.taus)

    def terms(self, features: Tensor, labels: Tensor, shares: Tensor | None) -> dict[str, Tensor]:
        """The experts' mean loss from their features [B, E, D] and the (mixed) labels."""
        logits = self.expert_scores(features) + self.shifts
        return {"ce": self.each_expert(self.criterion, logits, labels, shares).mean()}
