"""SADE: self-supervised aggregation of diverse experts (Zhang et al., NeurIPS 2022).

Three experts on RIDE's network, each for another class distribution: the training set's, a uniform one, and the training
set's reversed. Their mean answers. Where the distribution of a test set is unknown, weights for the experts can be learned
from its unlabelled images: `longtail eval --aggregate`.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from ..classes import Classes
from ..losses.classifier import ClassifierLoss
from ..losses.sade import skill_shifts
from ..models.backbone import Backbone
from .experts import TrunkMethod, TrunkOptions


class SADEOptions(TrunkOptions):
    tau: float = Field(2.0, ge=0, description="how far the third expert leans towards rare classes")


class SADE(TrunkMethod):
    """See the module's text."""

    shifts: Tensor

    Options = SADEOptions
    main_weight = ("tau", (2.0, 1.5, 2.5))
    train_defaults = {"nesterov": True, "schedule": "step", "warmup_epochs": 5}

    def __init__(self, backbone: Backbone, classes: Classes, options: SADEOptions) -> None:
        super().__init__(backbone, classes, options, experts=3)
        self.criterion = ClassifierLoss("ce", self.counts)
        self.register_buffer("shifts", skill_shifts(self.counts, options.tau), persistent=False)

    def terms(self, features: Tensor, labels: Tensor, shares: Tensor | None) -> dict[str, Tensor]:
        """The experts' losses, by the distribution they are for, from their features [B, 3, D] and the (mixed) labels."""
        logits = self.expert_scores(features) + self.shifts
        experts = self.each_expert(self.criterion, logits, labels, shares)
        return dict(zip(("forward", "uniform", "backward"), experts.unbind(), strict=True))
