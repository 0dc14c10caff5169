"""ISDA: implicit semantic data augmentation (Wang et al., NeurIPS 2019).

Cross-entropy as if each feature had been moved at random the way its class's features vary, in closed form: the covariance of
each class is kept while training, and its share of the loss grows from zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from ..classes import Classes
from ..data.ops import send
from ..losses.classifier import ClassifierLoss
from ..losses.isda import spread, update_statistics
from ..models.backbone import Backbone
from ..models.heads import LinearClassifier
from .base import Batch, Clock, Method, Options, Stage, Stream


class ISDAOptions(Options):
    augment: str = Field("weak", description="augmentation of the images")
    strength: float = Field(0.5, ge=0, description="of the augmentation at the end of training, lambda0 in the paper")
    covariance: Literal["whole", "diagonal"] = Field(
        "whole", description="what is kept of it: D x D or D numbers a class"
    )


class ISDA(Method):
    """See the module's text."""

    means: Tensor
    covariances: Tensor
    seen: Tensor

    Options = ISDAOptions
    main_weight = ("strength", (0.5, 0.25, 1.0))
    variants = ({"covariance": "diagonal"},)

    def __init__(self, backbone: Backbone, classes: Classes, options: ISDAOptions) -> None:
        super().__init__(backbone, classes, options)
        self.classifier = LinearClassifier(backbone.dim, len(classes))
        self.criterion = ClassifierLoss("ce", self.counts)
        for name, value in empty_statistics(len(classes), backbone.dim, options.covariance).items():
            self.register_buffer(name, value)

    @classmethod
    def stages(cls, options: ISDAOptions) -> list[Stage]:
        return [Stage("train", {"main": Stream((options.augment,))})]

    def losses(self, batch: Mapping[str, Batch], clock: Clock) -> dict[str, Tensor]:
        main = batch["main"]
        strength = torch.tensor(self.hp.strength * clock.epoch / clock.epochs)
        return self.terms(self.features(main.views[0]), main.labels, send(strength, main.labels.device))

    def terms(self, features: Tensor, labels: Tensor, strength: Tensor) -> dict[str, Tensor]:
        """From features [B, D]; the statistics take them in first."""
        update_statistics(features, labels, self.means, self.covariances, self.seen)
        moved = spread(self.classifier.weight, labels, self.covariances)
        return {"isda": self.criterion(self.classifier(features) + strength / 2 * moved, labels)}


def empty_statistics(classes: int, dim: int, covariance: Literal["whole", "diagonal"]) -> dict[str, Tensor]:
    """Means, covariances and counts of classes before their first image, as buffers."""
    square = (dim, dim) if covariance == "whole" else (dim,)
    return {
        "means": torch.zeros(classes, dim),
        "covariances": torch.zeros(classes, *square),
        "seen": torch.zeros(classes),
    }
