"""What methods with several experts share: features and a cosine classifier for each expert, and the mean of their logits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ..classes import Classes
from ..models.backbone import Backbone
from ..models.experts import split_experts
from ..models.heads import CosineClassifier
from .base import Batch, Clock, Method, Stage, Stream
from .mixing import MixOptions, mix, mix_streams


class ExpertMethod(Method):
    """A method whose `expert_features` and `heads` are those of several experts."""

    heads: Any  # CosineClassifier each

    def expert_features(self, images: Tensor) -> Tensor:
        """Images -> the features of every expert [B, E, D]."""
        raise NotImplementedError

    def expert_scores(self, features: Tensor) -> Tensor:
        """Features [B, E, D] -> the logits of every expert [B, E, C]."""
        return torch.stack([head(features[:, i]) for i, head in enumerate(self.heads)], dim=1)

    def each_expert(self, criterion: Any, logits: Tensor, labels: Tensor, *mixing: Tensor | None) -> Tensor:
        """A `ClassifierLoss` of every expert's logits [B, E, C]: [E]."""
        return torch.stack([criterion(expert, labels, *mixing) for expert in logits.unbind(1)])

    def expert_answers(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.expert_scores(self.expert_features(images)), None

    def logits(self, images: Tensor) -> Tensor:
        return self.expert_answers(images)[0].mean(1)

    def features(self, images: Tensor) -> Tensor:
        """Every expert's features at unit length, one after the other: [B, E D]."""
        return F.normalize(self.expert_features(images), dim=2).flatten(1)

    def classifier_rows(self) -> tuple[Tensor, None]:
        return torch.cat([head.rows for head in self.heads], dim=1), None


class TrunkOptions(MixOptions):
    augment: str = Field("ride", description="augmentation of the images")
    width: float = Field(
        0.75, gt=0, le=1, description="channels of an expert's own stages, as a share of the network's"
    )
    scale: float = Field(30.0, gt=0, description="of the cosine classifiers")


class TrunkMethod(ExpertMethod):
    """RIDE's network: the last two stages once for each expert, the others shared.

    Methods on it compute `terms` from features [B, E, D] and the labels, mixed where the options say so.
    """

    terms: Callable[..., dict[str, Tensor]]
    deployed: ClassVar[tuple[str, ...]] = ("backbone", "trunks", "heads")

    def __init__(self, backbone: Backbone, classes: Classes, options: Any, experts: int) -> None:
        super().__init__(backbone, classes, options)
        trunks = split_experts(backbone, experts, options.width)
        self.trunks = nn.ModuleList(trunks)
        self.heads = nn.ModuleList(CosineClassifier(trunk.dim, len(classes), options.scale) for trunk in trunks)

    def expert_features(self, images: Tensor) -> Tensor:
        maps = self.backbone(images)
        return torch.stack([trunk(maps) for trunk in self.trunks], dim=1)

    @classmethod
    def stages(cls, options: Any) -> list[Stage]:
        return [Stage("train", {"main": Stream((options.augment,)), **mix_streams(options, options.augment)})]

    def losses(self, batch: Mapping[str, Batch], clock: Clock) -> dict[str, Tensor]:
        mixed = mix(self.hp, batch, clock, self.counts)
        return self.terms(self.expert_features(mixed.images), mixed.labels, mixed.shares)
