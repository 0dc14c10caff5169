"""BCL: balanced contrastive learning (Zhu et al., CVPR 2022).

Three views of each image: one for a logit-adjusted cosine classifier, two for a contrastive loss in which every class counts
the same and is there through a learned centre even when no image of it is in the batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from ..classes import Classes
from ..losses.contrastive import balanced_contrastive
from ..losses.softmax import logit_adjusted_cross_entropy
from ..models.backbone import Backbone
from ..models.heads import CosineClassifier, mlp
from .base import Batch, Clock, Method, Options, Stage, Stream


class BCLOptions(Options):
    augment: str = Field("autoaugment_cutout", description="of the classified view")
    contrast_augment: str = Field("simaugment", description="of the two contrasted views")
    ce_weight: float = Field(2.0, description="weight of the classification term")
    contrast_weight: float = Field(0.6, description="weight of the contrastive term")
    projected: Literal["all", "contrasted"] = Field(
        "all",
        description="views that the projector's batch norm sees: all three as released, or the two contrasted ones",
    )
    tau: float = Field(0.1, gt=0, description="temperature of the contrastive loss")
    hidden: int | None = Field(512, ge=1, description="width of the projectors' hidden layer (null: the feature width)")
    dim: int = Field(128, ge=1, description="width of the contrasted features")
    scale: float = Field(30.0, gt=0, description="of the cosine classifier")


class BCL(Method):
    """See the module's text."""

    counts: Tensor

    Options = BCLOptions
    main_weight = ("contrast_weight", (0.6, 0.3, 1.2))
    train_defaults = {
        "lr": 0.15,
        "weight_decay": 5e-4,
        "batch_size": 256,
        "warmup_epochs": 5,
        "schedule": "step",
        "milestones": (0.8, 0.9),
    }

    def __init__(self, backbone: Backbone, classes: Classes, options: BCLOptions) -> None:
        super().__init__(backbone, classes, options)
        hidden = options.hidden or backbone.dim
        self.classifier = CosineClassifier(backbone.dim, len(classes), options.scale)
        self.projector = mlp(backbone.dim, hidden, options.dim, norm=True)
        self.centre_projector = mlp(backbone.dim, hidden, options.dim, norm=True)

    @classmethod
    def stages(cls, options: BCLOptions) -> list[Stage]:
        views = (options.augment, options.contrast_augment, options.contrast_augment)
        return [Stage("train", {"main": Stream(views)})]

    def losses(self, batch: Mapping[str, Batch], clock: Clock) -> dict[str, Tensor]:
        main, hp = batch["main"], self.hp
        features = self.backbone(torch.cat(main.views))
        classified = features.chunk(3)[0]
        # As released, the projector's batch norm sees all three views.
        first = 0 if hp.projected == "all" else len(classified)
        projected = F.normalize(self.projector(features[first:]))
        views = torch.stack(projected[-2 * len(classified) :].chunk(2), dim=1)
        centres = F.normalize(self.centre_projector(self.classifier.weight))
        return {
            "ce": hp.ce_weight * logit_adjusted_cross_entropy(self.classifier(classified), main.labels, self.counts),
            "contrastive": hp.contrast_weight * balanced_contrastive(views, main.labels, centres, hp.tau),
        }
