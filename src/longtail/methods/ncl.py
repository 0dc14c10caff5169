"""NCL: nested collaborative learning (Li et al., CVPR 2022), as released, without its self-supervised term.

Whole networks learn the same images, and each other's answers: over all classes, and over the classes that are hard for an
image. Their mean answers.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor, nn

from ..classes import Classes
from ..losses.ncl import nested
from ..models.backbone import Backbone
from ..models.heads import CosineClassifier
from .base import Batch, Clock, Options, Stage, Stream
from .experts import ExpertMethod


class NCLOptions(Options):
    augment: str = Field("autoaugment_cutout", description="augmentation of the images, the same for all networks")
    experts: int = Field(3, ge=2, le=6, description="how many networks")
    hard: float = Field(0.3, gt=0, le=1, description="share of the classes that count as hard for an image")
    mutual_weight: float = Field(0.6, ge=0, description="weight of learning from each other, over all classes")
    hard_mutual_weight: float = Field(0.6, ge=0, description="the same, over hard classes")
    scale: float = Field(30.0, gt=0, description="of the cosine classifiers")


class NCL(ExpertMethod):
    """See the module's text."""

    Options = NCLOptions
    main_weight = ("mutual_weight", (0.6, 0.3, 1.2))
    deployed = ("backbone", "others", "heads")
    train_defaults = {"weight_decay": 2e-4, "batch_size": 64, "schedule": "step", "warmup_epochs": 5}

    def __init__(self, backbone: Backbone, classes: Classes, options: NCLOptions) -> None:
        super().__init__(backbone, classes, options)
        self.others = nn.ModuleList(backbone.twin() for _ in range(options.experts - 1))
        self.heads = nn.ModuleList(
            CosineClassifier(backbone.dim, len(classes), options.scale) for _ in range(options.experts)
        )

    @classmethod
    def stages(cls, options: NCLOptions) -> list[Stage]:
        return [Stage("train", {"main": Stream((options.augment,))})]

    def expert_features(self, images: Tensor) -> Tensor:
        return torch.stack([network(images) for network in (self.backbone, *self.others)], dim=1)

    def losses(self, batch: Mapping[str, Batch], clock: Clock) -> dict[str, Tensor]:
        main = batch["main"]
        return self.terms(self.expert_features(main.views[0]), main.labels)

    def terms(self, features: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The weighted terms from features [B, E, D]: each network on its own, and from the others."""
        hp, hard = self.hp, max(round(self.hp.hard * len(self.counts)), 1)
        own, mutual, own_hard, mutual_hard = nested(self.expert_scores(features), labels, self.counts, hard)
        return {
            "individual": own,
            "mutual": hp.mutual_weight * mutual,
            "individual_hard": own_hard,
            "mutual_hard": hp.hard_mutual_weight * mutual_hard,
        }
