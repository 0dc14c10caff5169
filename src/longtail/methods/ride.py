"""RIDE: routing diverse distribution-aware experts (Wang et al., ICLR 2021), as released.

Experts with their own late layers learn the same images under LDAM and are pushed away from their mean. In the last epochs
rare classes weigh more, in the loss and in how far apart the experts may be. Two extensions: a finished run, usually of more
experts, teaches the mean; and routers, which `routing` has, learn which images the first experts alone get right.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor

from ..classes import Classes
from ..losses.class_weights import effective_number_weights
from ..losses.classifier import ClassifierLoss
from ..losses.ride import class_temperatures, distillation, diversity
from ..models.backbone import Backbone
from .base import Batch, Clock
from .mixing import mix
from .routing import RoutedMethod, RoutedOptions


class RIDEOptions(RoutedOptions):
    max_margin: float = Field(0.5, gt=0, description="of LDAM: the rarest class's")
    diversity: float = Field(-0.45, description="weight of the experts' divergence from their mean")
    reweight_from: float = Field(0.8, ge=0, le=1, description="share of the epochs before classes are re-weighted")
    beta: float = Field(0.9999, gt=0, lt=1, description="of the effective numbers by which they are")
    temperature_share: float = Field(
        0.05, ge=0, le=1, description="r: how far a class's temperature then goes by its share of the images"
    )
    teacher: str | None = Field(None, description="run folder whose network teaches the experts' mean")
    teacher_temperature: float = Field(1.5, gt=0, description="of the teacher's term")


class RIDE(RoutedMethod):
    """See the module's text."""

    late: Tensor

    Options = RIDEOptions
    main_weight = ("diversity", (-0.45, -0.2, -0.9))
    train_defaults = {"nesterov": True, "schedule": "step", "drop": 0.01, "warmup_epochs": 5}
    variants = ({"mix": "cmo", "mix_prob": 1.0, "mix_pause": 0}, {"routers": True, "experts": 2})

    def __init__(self, backbone: Backbone, classes: Classes, options: RIDEOptions) -> None:
        super().__init__(backbone, classes, options)
        self.criterion = ClassifierLoss("ldam", self.counts, max_margin=options.max_margin, scale=options.scale)
        weights = effective_number_weights(self.counts, options.beta)
        temperatures = class_temperatures(self.counts, options.temperature_share)
        self.register_buffer("late", torch.stack((weights, temperatures)), persistent=False)  # of re-weighted classes

    @classmethod
    def teacher_run(cls, options: RIDEOptions) -> str | None:
        return options.teacher

    def expert_losses(self, batch: Mapping[str, Batch], clock: Clock) -> dict[str, Tensor]:
        mixed = mix(self.hp, batch, clock, self.counts)
        is_late = clock.epoch >= round(self.hp.reweight_from * clock.epochs)
        weights, temperatures = self.late if is_late else (None, None)
        teacher = None if self.teacher is None else self.teacher(mixed.images)
        features = self.expert_features(mixed.images)
        return self.terms(features, mixed.labels, mixed.shares, weights, temperatures, teacher)

    def terms(
        self,
        features: Tensor,
        labels: Tensor,
        shares: Tensor | None,
        class_weights: Tensor | None,
        temperatures: Tensor | None,
        teacher: Tensor | None,
    ) -> dict[str, Tensor]:
        """The weighted terms from features [B, E, D], the (mixed) labels, weights and temperatures of the classes [C], and
        the teacher's logits [B, C]."""
        hp, logits = self.hp, self.expert_scores(features)
        terms = {
            "ldam": self.each_expert(self.criterion, logits, labels, shares, class_weights).sum(),
            "diversity": hp.diversity * diversity(logits, temperatures),
        }
        if teacher is None:
            return terms
        terms["distillation"] = distillation(logits, teacher, hp.teacher_temperature)
        # As released: the sum over experts takes all of this in, as often as there are experts.
        return {name: hp.experts * value for name, value in terms.items()}
