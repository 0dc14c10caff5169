"""GLMC: global and local mixture consistency cumulative learning (Du et al., CVPR 2023).

Two streams, two views each: MixUp (global) of the first views and CutMix (local) of the second, with one lambda. A conventional
classifier learns the mixed labels, a rebalanced one the class-weighted mixed labels, and training moves from the first to the
second; a projector and a predictor pull the two mixtures of a pair together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field
from torch import Tensor, nn

from ..classes import Classes
from ..data.mixing import cutmix, draw_mix, mixup, soft_target
from ..losses.class_weights import class_weights
from ..losses.glmc import consistency, conventional_share, mixed_cross_entropy
from ..models.backbone import Backbone
from ..models.heads import LinearClassifier
from .base import Batch, Clock, Method, Options, Stage, Stream
from .maxnorm import MaxNorm
from .retraining import BalancedSoftmaxStage
from .second_stage import FrozenBatchNorm, SecondStage, goes_on


class GLMCOptions(Options):
    augment: str = Field("weak", description="augmentation of all four views")
    label_weighting: float = Field(1.2, description="r: classes are weighted by 1 / n_c^r in the rebalanced branch")
    resample_weighting: float = Field(0.0, description="q: the second stream draws images by 1 / n_c^q")
    contrast_weight: float = Field(1.0, description="g: weight of the consistency term")
    rebalance: bool = Field(True, description="false: the form for balanced data, without a rebalanced classifier")
    mixture: bool = Field(True, description="false: the first stream's two views as they are, the paper's ablation")
    finetune: Literal["none", "maxnorm", "balanced_softmax"] = Field("none", description="add a second stage")
    finetune_epochs: int = Field(10, ge=1, description="epochs of the second stage")
    finetune_lr: float = Field(1e-3, gt=0, description="learning rate of the second stage")
    frozen_batchnorm: FrozenBatchNorm = Field(
        "eval", description="of the backbone in the second stage: train as weight balancing released it, or eval"
    )
    thresh: float = Field(0.1, ge=0, le=1, description="of MaxNorm, between the smallest and largest row norm")


def second_stages(hp: GLMCOptions) -> list[SecondStage]:
    """The classifier goes on as it is."""
    shared: dict[str, Any] = {
        "epochs": hp.finetune_epochs,
        "lr": hp.finetune_lr,
        "weight_decay": 0.0,
        "frozen_batchnorm": hp.frozen_batchnorm,
    }
    if hp.finetune == "maxnorm":
        return [MaxNorm(loss="ce", thresh=hp.thresh, **shared)]
    return [BalancedSoftmaxStage(new_classifier=False, **shared)] if hp.finetune == "balanced_softmax" else []


@goes_on(second_stages)
class GLMC(Method):
    """See the module's text. Symbols of the paper: q = `resample_weighting`, r = `label_weighting`, g = `contrast_weight`."""

    weights: Tensor

    Options = GLMCOptions
    main_weight = ("contrast_weight", (1.0, 4.0, 10.0))
    train_defaults = {"lr": 0.01, "weight_decay": 5e-3, "batch_size": 64}
    variants = ({"rebalance": False}, {"mixture": False}, {"finetune": "maxnorm"}, {"finetune": "balanced_softmax"})

    def __init__(self, backbone: Backbone, classes: Classes, options: GLMCOptions) -> None:
        super().__init__(backbone, classes, options)
        self.projector = _linear(backbone.dim, 128)
        self.predictor = _linear(128, 128)
        self.conventional = LinearClassifier(backbone.dim, len(classes))
        # On balanced data there is nothing to rebalance: the conventional classifier is then the one that is kept.
        self.classifier = LinearClassifier(backbone.dim, len(classes)) if options.rebalance else self.conventional
        self.register_buffer("weights", class_weights(classes.count_tensor, options.label_weighting), persistent=False)

    @classmethod
    def stages(cls, options: GLMCOptions) -> list[Stage]:
        hp = options
        views = (hp.augment, hp.augment)
        streams = {
            "instance": Stream(views),
            "inverse": Stream(views, sampler="power", q=hp.resample_weighting),
        }
        return [Stage("train", streams)]

    def losses(self, batch: Mapping[str, Batch], clock: Clock) -> dict[str, Tensor]:
        instance, inverse = batch["instance"], batch["inverse"]
        height, width = instance.views[0].shape[2:]
        lam, box = draw_mix(height, width, clock.generator) if self.hp.mixture else (1.0, (0, 0, 0, 0))
        # One after the other, as released: each mixture has its own batch-norm statistics.
        features_g = self.backbone(mixup(instance.views[0], inverse.views[0], lam))
        features_l = self.backbone(cutmix(instance.views[1], inverse.views[1], box))
        pair = (instance.labels, inverse.labels, lam, len(self.classes))
        share = conventional_share(clock.epoch, clock.epochs) if self.hp.rebalance else 1.0
        return self.terms(features_g, features_l, soft_target(*pair), soft_target(*pair, self.weights), share)

    def terms(
        self, features_g: Tensor, features_l: Tensor, target: Tensor, weighted: Tensor, share: float
    ) -> dict[str, Tensor]:
        """The weighted terms from features [B, D] of the MixUp and CutMix images and their targets [B, C].

        `share` is the conventional branch's weight, the rebalanced one's being the rest.
        """
        projection_g, projection_l = self.projector(features_g), self.projector(features_l)
        prediction_g, prediction_l = self.predictor(projection_g), self.predictor(projection_l)
        terms = {
            "conventional": share
            * mixed_cross_entropy(self.conventional(features_g), self.conventional(features_l), target),
            "consistency": self.hp.contrast_weight
            * consistency(prediction_g, prediction_l, projection_g, projection_l),
        }
        if self.hp.rebalance:
            logits = self.classifier(features_g), self.classifier(features_l)
            terms["rebalanced"] = (1 - share) * mixed_cross_entropy(*logits, weighted)
        return terms


def _linear(dim_in: int, dim_out: int) -> nn.Linear:
    layer = nn.Linear(dim_in, dim_out)
    nn.init.kaiming_normal_(layer.weight)
    return layer
