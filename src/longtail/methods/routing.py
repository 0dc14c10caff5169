"""Routers of RIDE (Wang et al., ICLR 2021): after its experts have learned, how many of them an image needs.

The i-th router looks at the mean of the first i experts and says whether the next is asked too. They learn in a second stage,
all else frozen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor, nn

from ..classes import Classes
from ..errors import UsageError
from ..losses.ride import experts_used, first_means, mean_of_first, routing_loss
from ..models.backbone import Backbone
from ..models.experts import Routers
from .base import Batch, Clock, Passes, Stage, Stream
from .experts import TrunkMethod, TrunkOptions


class RoutedOptions(TrunkOptions):
    experts: int = Field(3, ge=2, le=6, description="how many")
    routers: bool = Field(False, description="add the stage that learns how many experts an image needs")
    router_top_k: int = Field(5, ge=1, description="highest logits that a router looks at")
    router_positive_weight: float = Field(100.0, gt=0, description="weight of images for which going on helps")
    router_separate: bool = Field(False, description="an output layer for each router, not one for all")
    router_epochs: int = Field(5, ge=1, description="epochs of the routers' stage")


class RoutedMethod(TrunkMethod):
    """Experts, which learn by `expert_losses`, and routers where they are asked for."""

    routing: Tensor

    deployed = (*TrunkMethod.deployed, "routers", "routing")

    def __init__(self, backbone: Backbone, classes: Classes, options: RoutedOptions) -> None:
        super().__init__(backbone, classes, options, options.experts)
        self.routers: nn.Module = nn.Identity()
        if options.routers:
            _, dim = self.heads[0].weight.shape
            self.routers = Routers(options.experts, dim, options.router_top_k, options.router_separate)
        self.register_buffer("routing", torch.tensor(False))  # whether the routers decide

    @classmethod
    def check(cls, options: RoutedOptions, classes: Classes, batch_size: int) -> None:
        if options.routers and options.router_top_k > len(classes):
            raise UsageError(
                f"A router looks at the {options.router_top_k} highest logits, and there are {len(classes)} classes: set "
                f"router_top_k to {len(classes)} or less."
            )

    @classmethod
    def stages(cls, options: RoutedOptions) -> list[Stage]:
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

    def expert_losses(self, batch: Mapping[str, Batch], clock: Clock) -> dict[str, Tensor]:
        """The terms of the first stage."""
        raise NotImplementedError

    def losses(self, batch: Mapping[str, Batch], clock: Clock) -> dict[str, Tensor]:
        return self.router_terms(batch["main"]) if clock.stage == "routers" else self.expert_losses(batch, clock)

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
