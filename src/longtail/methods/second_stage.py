"""The optional second stage of GLMC and BCE3S: the classifier alone goes on learning, under MaxNorm if that is its name."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from ..classes import Classes
from ..losses.norm import maxnorm_radius, project_rows_
from ..models.backbone import Backbone
from ..models.heads import LinearClassifier, UnitRowClassifier
from .base import Clock, Method, Passes, Stage, Stream

# Whether the batch norm of a frozen backbone goes on: statistics of each batch, and running ones that move.
FrozenBatchNorm = Literal["train", "eval"]


class TwoStageMethod(Method):
    """A method whose `options` may ask, by `finetune`, for a stage of that name after the first.

    MaxNorm (Alshammari et al., CVPR 2022): rows longer than a radius, set from the rows at the start of the stage, are
    scaled back to it after each epoch. The bias is left alone.
    """

    classifier: LinearClassifier | UnitRowClassifier
    radius: Tensor

    def __init__(self, backbone: Backbone, classes: Classes, options: Any) -> None:
        super().__init__(backbone, classes, options)
        self.register_buffer("radius", torch.tensor(0.0))

    @staticmethod
    def second_stages(hp: Any) -> list[Stage]:
        """The second stage as `finetune`, `finetune_epochs` and `finetune_lr` describe it, if there is one."""
        if hp.finetune == "none":
            return []
        optim = {
            "epochs": hp.finetune_epochs,
            "lr": hp.finetune_lr,
            "weight_decay": 0.0,
            "schedule": "cosine",
            "warmup_epochs": 0,
        }
        moving = ("backbone", "classifier") if hp.frozen_batchnorm == "train" else ("classifier",)
        streams = {"main": Stream((hp.augment,))}
        return [Stage(hp.finetune, streams, trains=("classifier",), train_mode=moving, optim=optim)]

    def before_stage(self, stage: Stage, images: Passes) -> None:
        if stage.name == "maxnorm":
            self.radius.copy_(maxnorm_radius(self.classifier.weight, self.hp.thresh))

    def after_epoch(self, clock: Clock) -> None:
        if clock.stage == "maxnorm":
            project_rows_(self.classifier.weight, self.radius)
