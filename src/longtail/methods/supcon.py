"""SupCon: supervised contrastive learning (Khosla et al., NeurIPS 2020), with a linear classifier trained afterwards.

Two views of each image; every view is pulled towards all views of its class in the batch and pushed from the others. With targets
it is the form in which TSC (Li et al., CVPR 2022) was released for CIFAR: fixed points for the classes, appended to both views.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from ..classes import Classes
from ..data.ops import send
from ..distributed import world
from ..losses.contrastive import supcon
from ..losses.targets import spread_targets, start_targets, targeted_positives, targeted_supcon
from ..models.backbone import Backbone
from ..models.heads import mlp
from .base import Batch, Clock, Passes, Stage, Stream
from .contrast_parts import ClassifierStageOptions, ContrastThenClassifier


class SupConOptions(ClassifierStageOptions):
    augment: str = Field("simaugment", description="of both views")
    tau: float = Field(0.1, gt=0, description="temperature")
    dim: int = Field(128, ge=2, description="width of the contrasted features")
    target_repeat: int = Field(
        0, ge=0, description="how often each class's target is appended to a view (0: no targets)"
    )
    positives: int = Field(6, ge=0, description="with targets: positives drawn for a view, besides its twin")


class SupCon(ContrastThenClassifier):
    """See the module's text."""

    targets: Tensor

    Options = SupConOptions
    main_weight = ("tau", (0.1, 0.07, 0.2))
    train_defaults = {"lr": 0.5, "weight_decay": 1e-4, "batch_size": 256, "warmup_epochs": 10}
    variants = ({"target_repeat": 2},)

    def __init__(self, backbone: Backbone, classes: Classes, options: SupConOptions) -> None:
        super().__init__(backbone, classes, options)
        self.projector = mlp(backbone.dim, backbone.dim, options.dim, norm=False)
        self.register_buffer("targets", start_targets(len(classes), options.dim))

    @classmethod
    def stages(cls, options: SupConOptions) -> list[Stage]:
        stream = Stream((options.augment, options.augment))
        contrast = Stage("contrast", {"main": stream}, trains=("backbone", "projector"))
        return [contrast, cls.classifier_stage(options)]

    def before_stage(self, stage: Stage, images: Passes) -> None:
        if stage.name == "contrast" and self.hp.target_repeat:
            self.targets.copy_(spread_targets(self.targets))

    def contrast(self, main: Batch, clock: Clock) -> dict[str, Tensor]:
        features = self.backbone(torch.cat(main.views))
        count = 2 * (len(main.labels) * world()[1] + self.hp.target_repeat * len(self.classes))
        draws = send(torch.rand(2, count, generator=clock.generator), features.device)
        return self.terms(features, main.labels, draws)

    def terms(self, features: Tensor, labels: Tensor, draws: Tensor) -> dict[str, Tensor]:
        """The loss of `features` [2 B, F] of both views of `labels` [B]. `draws`: see `targeted_positives`, stacked."""
        hp = self.hp
        views = torch.stack(F.normalize(self.projector(features)).chunk(2), 1)
        if not hp.target_repeat:
            return {"supcon": supcon(views, labels, hp.tau)}
        classes = torch.arange(len(self.targets), device=labels.device).repeat_interleave(hp.target_repeat)
        positive = targeted_positives(labels, classes, hp.positives, *draws)
        return {"supcon": targeted_supcon(views, labels, self.targets[classes], hp.tau, positive)}
