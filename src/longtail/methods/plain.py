"""The methods that are a loss on one classifier's scores: any such loss, with any mixing, sampler and classifier.

Those that papers propose are this with other defaults: `named_losses`, `named_mixing`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator
from torch import Tensor, nn

from ..classes import Classes
from ..losses.class_weights import effective_number_weights
from ..losses.classifier import SIGMOID, ClassifierLoss, LossName
from ..models.backbone import Backbone
from ..models.heads import ClassifierName, build_classifier
from .base import Batch, Clock, Method, Sampler, Stage, Stream
from .mixing import MixOptions, mix, mix_streams, warn_if_never_on
from .options import refuse_idle


class PlainOptions(MixOptions):
    augment: str = Field("weak", description="augmentation of the images")
    sampler: Sampler = Field("instance", description="how batches are drawn")
    q: float = Field(0.0, description="of the power sampler: images drawn in proportion to 1 / n_c^q")
    loss: LossName = Field("ce", description="of the classifier's scores")
    gamma: float = Field(1.0, ge=0, description="of the focal losses")
    tau: float = Field(1.0, ge=0, description="of logit_adjusted: tau log prior is added to the scores in training")
    max_margin: float = Field(0.5, gt=0, description="of ldam: the rarest class's margin")
    reweight: Literal["none", "always", "deferred"] = Field(
        "none", description="weight classes by effective numbers: never, always, or late in training"
    )
    defer: float = Field(0.8, ge=0, le=1, description="share of the epochs before deferred weights")
    beta: float = Field(0.9999, gt=0, lt=1, description="of the effective numbers, in weights and in the sampler")
    weight_mean: Literal["weights", "batch"] = Field(
        "weights", description="weighted losses are divided by the batch's weights, as in PyTorch, or by its size"
    )
    classifier: ClassifierName = Field("linear", description="unit_row: rows of unit length; cosine: features too")
    scale: float = Field(30.0, gt=0, description="of cosine scores")

    @model_validator(mode="after")
    def _options_have_an_effect(self) -> PlainOptions:
        focal = ("focal", "sigmoid_focal")
        of_loss = {"gamma": focal, "tau": ("logit_adjusted",), "max_margin": ("ldam",)}
        refuse_idle(self, "loss", {name: users for name, users in of_loss.items() if self.loss not in users})
        refuse_idle(self, "sampler", {} if self.sampler == "power" else {"q": ("power",)})
        refuse_idle(self, "reweight", {} if self.reweight == "deferred" else {"defer": ("deferred",)})
        refuse_idle(self, "classifier", {} if self.classifier == "cosine" else {"scale": ("cosine",)})
        if self.loss in SIGMOID and self.classifier == "cosine":
            raise ValueError(
                f"loss={self.loss} asks about each class by itself, which needs a bias, and classifier=cosine has none: "
                "choose linear or unit_row"
            )
        return self


class PlainMethod(Method):
    """One classifier, one loss on its scores."""

    class_weights: Tensor
    hp: PlainOptions

    Options = PlainOptions
    variants: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"loss": "bce", "classifier": "unit_row", "sampler": "square_root"},
        {"loss": "softmax_bce", "reweight": "always", "sampler": "progressive"},
        {"loss": "logit_adjusted", "tau": 1.5, "mix": "cutmix", "mix_prob": 1.0},
        {"loss": "ldam", "classifier": "cosine", "mix": "remix_cutmix", "reweight": "deferred", "defer": 0.0},
    )

    def __init__(self, backbone: Backbone, classes: Classes, options: PlainOptions) -> None:
        super().__init__(backbone, classes, options)
        self.classifier = build_classifier(options.classifier, backbone.dim, len(classes), options.scale)
        if options.loss in SIGMOID:  # each class starts from the prior 1 / C, without which the loss starts at C log 2
            bias: Any = self.classifier.bias
            nn.init.constant_(bias, -math.log(len(classes) - 1))
        self.criterion = ClassifierLoss(
            options.loss,
            self.counts,
            gamma=options.gamma,
            tau=options.tau,
            max_margin=options.max_margin,
            scale=options.scale if options.classifier == "cosine" else 1.0,
            over=options.weight_mean,
        )
        weights = effective_number_weights(self.counts, options.beta)
        self.register_buffer("class_weights", weights, persistent=False)

    @classmethod
    def stages(cls, options: PlainOptions) -> list[Stage]:
        main = Stream((options.augment,), options.sampler, options.q, options.beta)
        return [Stage("train", {"main": main, **mix_streams(options, options.augment)})]

    def prior_exponent(self) -> float | None:
        hp = self.hp
        if hp.sampler != "instance" or hp.reweight != "none" or hp.mix not in ("none", "mixup", "cutmix"):
            return None
        return {"ce": 1.0, "balanced_softmax": 0.0, "logit_adjusted": 1 - hp.tau}.get(hp.loss)

    def parameter_groups(self, learning: Mapping[str, nn.Parameter]) -> list[dict[str, Any]]:
        """No decay on the bias of sigmoid losses, which would pull it from the prior (Cui et al., CVPR 2019)."""
        bias = "classifier.bias"
        if self.hp.loss not in SIGMOID or bias not in learning:
            return super().parameter_groups(learning)
        others = [parameter for name, parameter in learning.items() if name != bias]
        return [{"params": others}, {"params": [learning[bias]], "weight_decay": 0.0}]

    def before_epoch(self, clock: Clock) -> None:
        if clock.epoch == 0:
            warn_if_never_on(self.hp, clock.epochs)

    def losses(self, batch: Mapping[str, Batch], clock: Clock) -> dict[str, Tensor]:
        mixed = mix(self.hp, batch, clock, self.counts)
        due = self.hp.reweight == "always" or (
            self.hp.reweight == "deferred" and clock.epoch >= self.hp.defer * clock.epochs
        )
        return self.terms(self.logits(mixed.images), mixed.labels, mixed.shares, self.class_weights if due else None)

    def terms(
        self, logits: Tensor, labels: Tensor, shares: Tensor | None = None, class_weights: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The loss of scores [B, C]: see `ClassifierLoss`."""
        return {self.hp.loss: self.criterion(logits, labels, shares, class_weights)}
