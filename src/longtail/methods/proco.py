"""ProCo: probabilistic contrastive learning (Du et al., TPAMI 2024).

Three views of each image, as in BCL: one for a logit-adjusted classifier, two for a contrast, not with the images of the batch,
but with all that a von Mises-Fisher distribution of each class could give, whose mean direction and concentration are
estimated as training goes on: in closed form, and for rare classes as well as for frequent ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from ..classes import Classes
from ..data.ops import send
from ..losses.proco import proco_logits, update_means
from ..losses.softmax import logit_adjusted_cross_entropy
from ..models.backbone import Backbone
from ..models.heads import CosineClassifier, LinearClassifier, mlp
from .base import Batches, Clock, Method, Options, Stage, Stream


class ProCoOptions(Options):
    augment: str = Field("autoaugment_cutout", description="of the classified view")
    contrast_augment: str = Field("simaugment", description="of the two contrasted views")
    contrast_weight: float = Field(1.0, ge=0, description="alpha: weight of the contrastive term")
    tau: float = Field(0.1, gt=0, description="temperature of the contrast")
    hidden: int | None = Field(512, ge=1, description="width of the projector's hidden layer (null: the feature width)")
    dim: int = Field(128, ge=16, description="width of the contrasted features")
    classifier: Literal["linear", "cosine"] = Field("linear", description="form of the classifier")
    scale: float = Field(30.0, gt=0, description="of the cosine classifier")


class ProCo(Method):
    """See the module's text."""

    means: Tensor
    amounts: Tensor
    next_means: Tensor
    next_amounts: Tensor

    Options = ProCoOptions
    main_weight = ("contrast_weight", (1.0, 0.5, 2.0))
    train_defaults = {
        "lr": 0.3,
        "weight_decay": 2e-4,
        "batch_size": 256,
        "warmup_epochs": 5,
        "schedule": "step",
        "milestones": (0.8, 0.9),
    }
    variants = ({"classifier": "cosine"},)

    def __init__(self, backbone: Backbone, classes: Classes, options: ProCoOptions) -> None:
        super().__init__(backbone, classes, options)
        self.classifier: LinearClassifier | CosineClassifier = (
            CosineClassifier(backbone.dim, len(classes), options.scale)
            if options.classifier == "cosine"
            else LinearClassifier(backbone.dim, len(classes))
        )
        self.projector = mlp(backbone.dim, options.hidden or backbone.dim, options.dim, norm=True)
        # What is used, and what is gathered from this epoch alone to be used from the next on.
        for name in ("means", "next_means"):
            self.register_buffer(name, 0.9 * F.normalize(torch.randn(len(classes), options.dim)))
        for name in ("amounts", "next_amounts"):
            self.register_buffer(name, torch.zeros(len(classes)))

    @classmethod
    def stages(cls, options: Any) -> list[Stage]:
        return [Stage("train", {"main": Stream((options.augment, *(options.contrast_augment,) * 2))})]

    def prior_exponent(self) -> float:
        return 0.0

    def losses(self, batch: Batches, clock: Clock) -> dict[str, Tensor]:
        main = batch["main"]
        features = self.backbone(torch.cat(main.views))
        views = F.normalize(self.projector(features)).chunk(3)[1:]
        estimates = []
        for view in views:  # each is in the estimate that it is contrasted with
            update_means(self.means, self.amounts, view.detach(), main.labels)
            update_means(self.next_means, self.next_amounts, view.detach(), main.labels)
            estimates.append(self.means.clone())
        return self.terms(features[: len(main.labels)], views, estimates, main.labels)

    def terms(
        self, features: Tensor, views: Sequence[Tensor], estimates: Sequence[Tensor], labels: Tensor
    ) -> dict[str, Tensor]:
        """The weighted terms from `features` [B, F] of the classified view and the contrasted `views` [B, D], unit vectors, each
        with the class means [C, D] that it is contrasted with. `labels`: int64 [B]."""
        contrasts = [
            logit_adjusted_cross_entropy(proco_logits(view, means, self.hp.tau), labels, self.counts)
            for view, means in zip(views, estimates, strict=True)
        ]
        return {
            "ce": logit_adjusted_cross_entropy(self.classifier(features), labels, self.counts),
            "contrastive": self.hp.contrast_weight * torch.stack(contrasts).mean(),
        }

    @torch.no_grad()
    def after_epoch(self, clock: Clock) -> None:
        self.means.copy_(self.next_means)
        self.amounts.copy_(self.next_amounts)
        start = torch.randn(self.means.shape, generator=clock.generator)
        self.next_means.copy_(0.9 * F.normalize(send(start, self.means.device)))
        self.next_amounts.zero_()
