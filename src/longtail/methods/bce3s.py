"""BCE3S: binary cross-entropy for joint, contrastive and uniform learning (Fan et al., AAAI 2026).

An image is seen three times, as it is augmented, in a MixUp and in a CutMix with an image of a second stream. BCE trains features
and a classifier of unit rows on all three (joint), pulls the mixed views towards one remembered feature per class
(contrastive), and pushes the classifier's rows apart (uniform). A second stage adjusts the classifier alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from ..classes import Classes
from ..data.mixing import cutmix, draw_mix, mixup
from ..data.ops import send
from ..losses.bce import bce
from ..losses.bce3s import Subset, draw_class_mask, prototype_loss, uniform_loss, update_class_memory
from ..losses.softmax import cross_entropy
from ..models.backbone import Backbone
from ..models.heads import UnitRowClassifier, mlp
from .base import Batch, Clock, Method, Options, Stage, Stream
from .bce3s_finetune import second_stages
from .second_stage import FrozenBatchNorm, goes_on

Form = Literal["bce", "ce", "off"]
LOSSES: dict[str, Callable[..., Tensor]] = {"bce": bce, "ce": cross_entropy}


class BCE3SOptions(Options):
    augment: str = Field("autoaugment_cutout", description="augmentation of both streams")
    joint: Form = Field("bce", description="form of the joint term; ce and off are the paper's ablation")
    contrastive: Form = Field("bce", description="form of the contrastive term")
    uniform: Form = Field("bce", description="form of the uniform term")
    contrastive_weight: float = Field(0.1, description="weight of the contrastive term")
    uniform_weight: float = Field(1.0, description="weight of the uniform term")
    negative_weight: float = Field(1.0, description="weight of the joint term's negatives, l in the paper")
    subsample: float = Field(0.4, gt=0, le=1, description="share of classes in the unmixed joint term, r in the paper")
    subset: Subset = Field("present", description="whether all classes of the batch are in that share, or as released")
    tau: float = Field(1.0, gt=0, description="temperature of the contrastive term")
    contrastive_from: int = Field(1, ge=0, description="epoch (from 0) at which the contrastive term starts")
    resample_weighting: float = Field(0.0, description="q of the second stream's sampler")
    finetune: Literal["none", "maxnorm"] = Field("none", description="add the second stage")
    finetune_epochs: int = Field(20, ge=1, description="epochs of the second stage")
    finetune_lr: float = Field(1e-4, gt=0, description="learning rate of the second stage")
    frozen_batchnorm: FrozenBatchNorm = Field(
        "eval", description="of the backbone in the second stage: train as released, or eval"
    )
    bias_start: Literal["zero", "uniform"] = Field(
        "zero", description="the classifier's bias at the start: uniform within 1/sqrt(D) as released, or zero"
    )
    beta: float = Field(0.9999, gt=0, lt=1, description="of the second stage's effective numbers")
    thresh: float = Field(0.1, ge=0, le=1, description="of MaxNorm, between the smallest and largest row norm")

    @model_validator(mode="after")
    def _learns_something(self) -> BCE3SOptions:
        if self.joint == self.contrastive == self.uniform == "off":
            raise ValueError("joint, contrastive and uniform are all off; leave one on")
        return self


@goes_on(second_stages)
class BCE3S(Method):
    """See the module's text."""

    memory: Tensor
    seen: Tensor

    Options = BCE3SOptions
    main_weight = ("contrastive_weight", (0.1, 0.03, 0.3))
    train_defaults = {"lr": 0.01, "weight_decay": 5e-3, "batch_size": 64, "epochs": 320}
    variants = ({"joint": "ce", "contrastive": "ce", "uniform": "ce"}, {"finetune": "maxnorm"})

    def __init__(self, backbone: Backbone, classes: Classes, options: BCE3SOptions) -> None:
        super().__init__(backbone, classes, options)
        self.classifier = UnitRowClassifier(backbone.dim, len(classes))
        if options.bias_start == "uniform":
            nn.init.uniform_(self.classifier.bias, -(backbone.dim**-0.5), backbone.dim**-0.5)
        self.projector = mlp(backbone.dim, backbone.dim, 128, norm=False)
        # Started empty, where the released code starts from uninitialised numbers: unseen classes take no part.
        self.register_buffer("memory", torch.zeros(len(classes), 128))
        self.register_buffer("seen", torch.zeros(len(classes), dtype=torch.bool))

    @classmethod
    def stages(cls, options: BCE3SOptions) -> list[Stage]:
        hp = options
        main = Stream((hp.augment,))
        second = Stream((hp.augment,), sampler="power", q=hp.resample_weighting)
        return [Stage("train", {"main": main, "second": second})]

    def losses(self, batch: Mapping[str, Batch], clock: Clock) -> dict[str, Tensor]:
        main = batch["main"]
        mask = self.class_mask(main.labels, clock)
        images, others = main.views[0], batch["second"].views[0]
        lam, box = draw_mix(images.shape[2], images.shape[3], clock.generator)
        views = torch.cat([images, mixup(images, others, lam), cutmix(images, others, box)])
        labels = torch.stack([main.labels, batch["second"].labels], dim=1)
        shares = send(torch.tensor([lam, 1 - lam]), labels.device).expand(len(labels), 2)
        return self.terms(self.backbone(views), labels, shares, mask, clock.epoch)

    def class_mask(self, labels: Tensor, clock: Clock) -> Tensor:
        """The classes of the batch and some others, bool [C]."""
        scores = send(torch.rand(2, len(self.classes), generator=clock.generator), labels.device)
        return draw_class_mask(labels, self.hp.subsample, scores, self.hp.subset)

    def terms(self, features: Tensor, labels: Tensor, shares: Tensor, mask: Tensor, epoch: int) -> dict[str, Tensor]:
        """The weighted terms from `features` float [3 B, D] of the plain, MixUp and CutMix views.

        `labels`: int64 [B, 2], of the image and of the one mixed into it; `shares`: float [B, 2], summing to 1. `mask`: bool [C].
        """
        hp = self.hp
        terms = {}
        if hp.joint != "off":
            terms["joint"] = self._joint(self.classifier(features), labels, shares, mask)
        if hp.contrastive != "off":
            plain, *mixed = self.projector(features).chunk(3)
            if epoch >= hp.contrastive_from:
                loss = LOSSES[hp.contrastive]
                pulls = [prototype_loss(z, self.memory, self.seen, labels, shares, hp.tau, loss) for z in mixed]
                terms["contrastive"] = hp.contrastive_weight * torch.stack(pulls).sum()
            update_class_memory(self.memory, self.seen, plain.detach(), labels[:, 0])
        if hp.uniform != "off":
            terms["uniform"] = hp.uniform_weight * uniform_loss(self.classifier.weight, LOSSES[hp.uniform])
        return terms

    def _joint(self, logits: Tensor, labels: Tensor, shares: Tensor, mask: Tensor) -> Tensor:
        """Mean of the three views' losses; the class subset is for the unmixed view alone."""
        plain, *mixed = logits.chunk(3)
        if self.hp.joint == "ce":
            views = [cross_entropy(plain, labels[:, 0]), *(cross_entropy(view, labels, shares) for view in mixed)]
        else:
            weight = self.hp.negative_weight
            views = [
                bce(plain, labels[:, 0], class_mask=mask, negative_weight=weight),
                *(bce(view, labels, shares, negative_weight=weight) for view in mixed),
            ]
        return torch.stack(views).mean()
