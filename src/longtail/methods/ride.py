"""RIDE: routing diverse distribution-aware experts (Wang et al., ICLR 2021), as released.

Experts with their own late layers learn the same images under LDAM and are pushed away from their mean. In the last epochs
rare classes weigh more, in the loss and in how far apart the experts may be. Two extensions: a finished run, usually of more
experts, teaches the mean; and, in a second stage, routers learn which images the first experts alone get right.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor, nn

from ..classes import Classes
from ..errors import UsageError
from ..losses.class_weights import effective_number_weights
from ..losses.classifier import ClassifierLoss
from ..losses.ride import (
    class_temperatures,
    distillation,
    diversity,
    experts_used,
    first_means,
    mean_of_first,
    routing_loss,
)
from ..models.backbone import Backbone
from ..models.experts import Routers
from .base import Batch, Clock, Passes, Stage, Stream
from .experts import TrunkMethod, TrunkOptions
from .mixing import mix


class RIDEOptions(TrunkOptions):
    experts: int = Field(3, ge=2, le=6, description="how many")
    max_margin: float = Field(0.5, gt=0, description="of LDAM: the rarest class's")
    diversity: float = Field(-0.45, description="weight of the experts' divergence from their mean")
    reweight_from: float = Field(0.8, ge=0, le=1, description="share of the epochs before classes are re-weighted")
    beta: float = Field(0.9999, gt=0, lt=1, description="of the effective numbers by which they are")
    temperature_share: float = Field(
        0.05, ge=0, le=1, description="r: how far a class's temperature then goes by its share of the images"
    )
    teacher: str | None = Field(None, description="run folder whose network teaches the experts' mean")
    teacher_temperature: float = Field(1.5, gt=0, description="of the teacher's term")
    routers: bool = Field(False, description="add the stage that learns how many experts an image needs")
    router_top_k: int = Field(5, ge=1, description="highest logits that a router looks at")
    router_positive_weight: float = Field(100.0, gt=0, description="weight of images for which going on helps")
    router_separate: bool = Field(False, description="an output layer for each router, not one for all")
    router_epochs: int = Field(5, ge=1, description="epochs of the routers' stage")


class RIDE(TrunkMethod):
    """See the module's text."""

    routing: Tensor
    late: Tensor

    Options = RIDEOptions
    main_weight = ("diversity", (-0.45, -0.2, -0.9))
    deployed = (*TrunkMethod.deployed, "routers", "routing")
    train_defaults = {"nesterov": True, "schedule": "step", "drop": 0.01, "warmup_epochs": 5}
    variants = ({"mix": "cmo", "mix_prob": 1.0, "mix_pause": 0}, {"routers": True, "experts": 2})

    def __init__(self, backbone: Backbone, classes: Classes, options: RIDEOptions) -> None:
        super().__init__(backbone, classes, options, options.experts)
        self.criterion = ClassifierLoss("ldam", self.counts, max_margin=options.max_margin, scale=options.scale)
        self.routers: nn.Module = nn.Identity()
        if options.routers:
            _, dim = self.heads[0].weight.shape
            self.routers = Routers(options.experts, dim, options.router_top_k, options.router_separate)
        self.register_buffer("routing", torch.tensor(False))  # whether the routers decide
        weights = effective_number_weights(self.counts, options.beta)
        temperatures = class_temperatures(self.counts, options.temperature_share)
        self.register_buffer("late", torch.stack((weights, temperatures)), persistent=False)  # of re-weighted classes

    @classmethod
    def check(cls, options: RIDEOptions, classes: Classes, batch_size: int) -> None:
        if options.routers and options.router_top_k > len(classes):
            raise UsageError(
                f"A router looks at the {options.router_top_k} highest logits, and there are {len(classes)} classes: set "
                f"router_top_k to {len(classes)} or less."
            )

    @classmethod
    def teacher_run(cls, options: RIDEOptions) -> str | None:
        return options.teacher

    @classmethod
    def stages(cls, options: RIDEOptions) -> list[Stage]:
        train = replace(super().stages(options)[0], trains=TrunkMethod.deployed)
        if not options.routers:
            return [train]
        optim = {"batch_size": 512, "lr": 0.01, "weight_decay": 5e-4, "schedule": "cosine", "warmup_epochs": 0}
        optim |= {"epochs": options.router_epochs}
        stream = Stream((options.augment,), sampler="balanced")
        return [train, Stage("routers", {"main": stream}, trains=("routers",), optim=optim)]

    def before_stage(self, stage: Stage, images: Passes) -> None:
        if stage.name == "routers":
            self.routing.fill_(True)

    def losses(self, batch: Mapping[str, Batch], clock: Clock) -> dict[str, Tensor]:
        if clock.stage == "routers":
            return self.router_terms(batch["main"])
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

    def router_terms(self, main: Batch) -> dict[str, Tensor]:
        """What the routers learn."""
        features = self.expert_features(main.views[0])
        logits = self.expert_scores(features)
        answers = self.routers(features, first_means(logits))
        return {"routing": routing_loss(answers, logits, main.labels, self.hp.router_positive_weight)}

    def expert_answers(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        features = self.expert_features(images)
        logits = self.expert_scores(features)
        if not self.hp.routers:
            return logits, None
        used = experts_used(self.routers(features, first_means(logits)))
        return logits, used.where(self.routing, self.hp.experts)

    def logits(self, images: Tensor) -> Tensor:
        logits, used = self.expert_answers(images)
        return logits.mean(1) if used is None else mean_of_first(logits, used)
