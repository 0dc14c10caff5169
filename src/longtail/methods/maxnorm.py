"""MaxNorm, a second stage: Alshammari et al., Long-tailed recognition via weight balancing, CVPR 2022."""

from __future__ import annotations

import logging
from typing import Any

import torch
from pydantic import Field

from ..losses.classifier import LossName
from ..losses.norm import maxnorm_radius, project_rows_
from ..models.heads import LinearClassifier
from .base import Passes
from .retraining import Retrain

logger = logging.getLogger("longtail")


class MaxNorm(Retrain):
    """The classifier goes on; rows longer than a radius, which is set as the stage starts, are scaled back to it after each
    epoch. The bias is left alone. Defaults: the authors'."""

    name = "maxnorm"

    lr: float = Field(0.01, gt=0, description="learning rate at its peak")
    weight_decay: float = Field(0.1, ge=0, description="on what learns")
    loss: LossName = Field("softmax_bce", description="of the classifier's scores")
    reweight: bool = Field(True, description="weight classes by effective numbers")
    thresh: float = Field(0.1, ge=0, le=1, description="the radius, between the smallest and the largest row norm")

    def attach(self, method: Any) -> None:
        super().attach(method)
        method.register_buffer("radius", torch.tensor(0.0))

    def begin(self, method: Any, images: Passes) -> None:
        super().begin(method, images)
        if not isinstance(method.classifier, LinearClassifier):
            logger.info(
                "maxnorm: this classifier compares by rows of unit length, so that a limit on their length changes no score: "
                "what this stage changes is that the classifier learns on, by %s", self.loss,
            )  # fmt: skip
        method.radius.copy_(maxnorm_radius(method.classifier.weight, self.thresh))

    def after_epoch(self, method: Any) -> None:
        project_rows_(method.classifier.weight, method.radius)
