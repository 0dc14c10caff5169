"""SSD: self supervision to distillation (Li et al., ICCV 2021).

Features are learned by a classifier and by instance discrimination, in which images of the same class are no negatives; then a
scale for each class's score is learned on class-balanced batches; then a newly started network learns from labels, through one
classifier, and from the scores of the first, through another, which is deployed.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ..classes import Classes
from ..losses.queue_contrast import queue_contrastive
from ..losses.ride import distillation
from ..models.backbone import Backbone
from ..models.heads import LinearClassifier, mlp
from .base import Batch, Batches, Clock, Method, Options, Passes, Stage, Stream
from .contrast_parts import MomentumEncoder, Queue, check_queue


class SSDOptions(Options):
    augment: str = Field("weak", description="of the classified view")
    contrast_augment: str = Field("simaugment", description="of the view that becomes a key")
    tau: float = Field(0.2, gt=0, description="temperature of instance discrimination")
    dim: int = Field(128, ge=1, description="width of the contrasted features")
    momentum: float = Field(0.999, ge=0, le=1, description="of the key encoder")
    queue: int = Field(4096, ge=1, description="keys that are remembered, a multiple of the batch")
    queue_start: Literal["released", "empty"] = Field(
        "released", description="released: random vectors labelled 0; empty: entries that are left out"
    )
    scale_epochs: int = Field(5, ge=1, description="epochs of the second stage, which learns the scales")
    scale_lr: float = Field(0.2, gt=0, description="learning rate of the second stage")
    scale_batch_size: int | None = Field(None, ge=1, description="of the second stage (null: the first's)")
    distil_epochs: int | None = Field(None, ge=1, description="epochs of the third stage (null: the first's)")
    distil_tau: float = Field(2.0, gt=0, description="temperature of distillation")
    finetune: bool = Field(False, description="learn scales for the deployed classifier too, in a fourth stage")
    frozen_batchnorm: Literal["eval", "train"] = Field(
        "eval", description="of frozen networks in the later stages; train: by the batch's statistics, as released"
    )


class SSD(Method):
    """See the module's text."""

    deployed = ("backbone", "classifier", "scales")
    Options = SSDOptions
    main_weight = ("tau", (0.2, 0.1, 0.5))
    train_defaults = {"lr": 0.1, "weight_decay": 5e-4, "batch_size": 256}
    variants = ({"queue": 32, "queue_start": "empty", "finetune": True, "frozen_batchnorm": "train"},)

    def __init__(self, backbone: Backbone, classes: Classes, options: SSDOptions) -> None:
        super().__init__(backbone, classes, options)
        self.classifier = LinearClassifier(backbone.dim, len(classes))
        self.scales = nn.Parameter(torch.ones(len(classes)))
        self.projector = mlp(backbone.dim, backbone.dim, options.dim, norm=False)
        self.key = MomentumEncoder(backbone, self.projector)
        self.queue = Queue.random(options.queue, options.dim)
        if options.queue_start == "released":
            self.queue.labels.zero_()
        self.hard_classifier = LinearClassifier(backbone.dim, len(classes))
        # Until the third stage these hold the start that the student will have.
        self.teacher_backbone = copy.deepcopy(backbone).requires_grad_(False)
        self.teacher_classifier = copy.deepcopy(self.classifier).requires_grad_(False)

    @classmethod
    def stages(cls, options: Any) -> list[Stage]:
        hp, moving = options, options.frozen_batchnorm == "train"
        learned, student = ("backbone", "classifier", "projector"), ("backbone", "classifier", "hard_classifier")
        optim = {"epochs": hp.scale_epochs, "lr": hp.scale_lr, "schedule": "cosine", "warmup_epochs": 0}
        if hp.scale_batch_size is not None:
            optim["batch_size"] = hp.scale_batch_size
        balanced = {"main": Stream((hp.augment,), "class_aware", per_class=2)}
        scales = Stage("scales", balanced, ("scales",), ("backbone",) if moving else None, optim)
        stages = [
            Stage("features", {"main": Stream((hp.augment, hp.contrast_augment))}, learned, (*learned, "key")),
            scales,
            Stage(
                "distil",
                {"main": Stream((hp.augment,))},
                student,
                (*student, "teacher_backbone") if moving else None,
                {} if hp.distil_epochs is None else {"epochs": hp.distil_epochs},
            ),
        ]
        return [*stages, replace(scales, name="finetune")] if hp.finetune else stages

    @classmethod
    def check(cls, options: Any, classes: Classes, batch_size: int) -> None:
        check_queue(options.queue, batch_size)

    @torch.no_grad()
    def before_stage(self, stage: Stage, images: Passes) -> None:
        if stage.name == "features":
            self.key.start(self.backbone, self.projector)
        if stage.name == "distil":
            # The scales become part of the teacher's classifier; then teacher and student change places.
            self.classifier.weight.mul_(self.scales[:, None])
            self.classifier.bias.mul_(self.scales)
            self.scales.fill_(1.0)
            for one, other in ((self.backbone, self.teacher_backbone), (self.classifier, self.teacher_classifier)):
                first, second = copy.deepcopy(one.state_dict()), copy.deepcopy(other.state_dict())
                one.load_state_dict(second)
                other.load_state_dict(first)

    def losses(self, batch: Batches, clock: Clock) -> dict[str, Tensor]:
        main = batch["main"]
        if clock.stage == "features":
            return self._learn_features(main)
        if clock.stage == "distil":
            return self._distil(main)
        return {"ce": F.cross_entropy(self.logits(main.views[0]), main.labels)}

    def _learn_features(self, main: Batch) -> dict[str, Tensor]:
        keys, features = self.key(main.views[1]), self.backbone(main.views[0])
        terms = self.terms(features, keys, main.labels, self.queue.keys.clone(), self.queue.labels.clone())
        self.queue.push(keys, main.labels)
        return terms

    def terms(
        self, features: Tensor, keys: Tensor, labels: Tensor, entries: Tensor, entry_labels: Tensor
    ) -> dict[str, Tensor]:
        """The first stage's from `features` [B, F], their `keys` [B, D] and `labels` [B], and the queue as it was before."""
        queries, same = F.normalize(self.projector(features)), labels[:, None] == entry_labels
        none, removed = torch.zeros_like(same), same | (entry_labels < 0)
        contrast = queue_contrastive(queries, keys, entries, none, self.hp.tau, removed=removed)
        return {"ce": F.cross_entropy(self.classifier(features), labels), "contrastive": contrast}

    def _distil(self, main: Batch) -> dict[str, Tensor]:
        features = self.backbone(main.views[0])
        with torch.no_grad():
            taught = self.teacher_classifier(self.teacher_backbone(main.views[0]))
        distilled = distillation(self.classifier(features)[:, None], taught, self.hp.distil_tau)
        return {"ce": F.cross_entropy(self.hard_classifier(features), main.labels), "distillation": distilled}

    def logits(self, images: Tensor) -> Tensor:
        return self.scales * self.classifier(self.features(images))

    def classifier_rows(self) -> tuple[Tensor, Tensor | None]:
        return self.classifier.weight * self.scales[:, None], self.classifier.bias * self.scales

    def after_step(self, clock: Clock) -> None:
        if clock.stage == "features":
            self.key.follow(self.backbone, self.projector, self.hp.momentum)
