"""Face recognition: CosFace, ArcFace and UniFace, and each with the empirical prototypes of EPL (2024).

An embedding is compared with one learned row for each identity, its own made harder to reach by a margin. EPL adds a
second comparison, with one prototype for each identity that only that identity's samples move, by a margin that grows
with the similarity already reached. What is deployed is the backbone: its features are the embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from ..classes import Classes
from ..distributed import gather_rows
from ..errors import UsageError
from ..losses.margin import AngularGradient, Variant, unit
from ..losses.margin_head import Epl, MarginHead, Start
from ..losses.prototypes import Gate, Repeats
from ..models.backbone import Backbone
from ..models.iresnet import clamp_prelu_slopes, start_kaiming
from .base import Batch, Clock, Method, Options, Stage, Stream


class MarginOptions(Options):
    augment: str = Field("flip", description="augmentation of the images")
    margin: float = Field(
        0.4, description="taken off the cosine of the own identity, or for ArcFace added to the angle"
    )
    scale: float = Field(64.0, gt=0, description="of the cosines")
    angular_gradient: AngularGradient = Field("cosface", description="of ArcFace's margin: as released, or exact")
    sample: float = Field(1.0, gt=0, le=1, description="share of the identities that a step uses (Partial FC)")
    network_start: Literal["usual", "kaiming"] = Field(
        "usual", description="of an IResNet: as in ArcFace's code, or Kaiming's with blocks at zero as in EPL's"
    )


class EPLOptions(MarginOptions):
    k: float = Field(0.7, ge=0, description="the adaptive margin is k times the cosine with the prototype")
    start_epoch: int = Field(4, ge=1, description="epoch, counted from 1, from which prototypes are in the loss")
    gate: Gate = Field(
        "softsign", description="how much of a prototype is kept: as released, or sigmoid as in the paper"
    )
    repeats: Repeats = Field(
        "each", description="samples of one identity in a batch: each counts, or the last as released"
    )
    prototypes_start: Start = Field("unit", description="of random prototypes: unit length, or normal as released")


def _epl(options: EPLOptions) -> Epl:
    return Epl(options.k, options.start_epoch, options.gate, options.repeats, options.prototypes_start)


class Margin(Method):
    """A margin head on the embedding. While training, `logits` are cosines with the identities' rows, times the scale."""

    variant: ClassVar[Variant]
    deployed = ("backbone",)
    sharded = tuple(f"head.{name}" for name in MarginHead.local_state)
    Options = MarginOptions
    main_weight = ("margin", (0.4, 0.3, 0.5))
    train_defaults = {
        "lr": 0.1,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "batch_size": 512,
        "epochs": 28,
        "schedule": "step",
        "milestones": (16 / 28, 24 / 28),
    }

    def __init__(self, backbone: Backbone, classes: Classes, options: MarginOptions) -> None:
        super().__init__(backbone, classes, options)
        if options.network_start == "kaiming":
            start_kaiming(backbone)
        try:
            self.head = MarginHead(
                len(classes),
                backbone.dim,
                self.variant,
                epl=_epl(options) if isinstance(options, EPLOptions) else None,
                margin=options.margin,
                scale=options.scale,
                angular_gradient=options.angular_gradient,
                sample=options.sample,
            )
        except ValueError as error:
            raise UsageError(f"Option sample: {error}. Give a larger one, or use fewer processes.") from error
        # DistributedDataParallel looks for this name. Each process holds the rows of other identities.
        self._ddp_params_and_buffers_to_ignore = list(self.sharded)

    @classmethod
    def stages(cls, options: MarginOptions) -> list[Stage]:
        return [Stage("train", {"main": Stream((options.augment,))})]

    def losses(self, batch: Mapping[str, Batch], clock: Clock) -> dict[str, Tensor]:
        main = batch["main"]
        embeddings = self.backbone(main.views[0])
        return {self.variant: self.head(embeddings, main.labels, clock.epoch, clock.generator)}

    def logits(self, images: Tensor) -> Tensor:
        return self.hp.scale * unit(self.features(images)) @ self.classifier_rows()[0].T

    def classifier_rows(self) -> tuple[Tensor, Tensor | None]:
        return unit(self._rows if self.head.world > 1 else self.head.weight), None

    @torch.no_grad()
    def after_step(self, clock: Clock) -> None:
        clamp_prelu_slopes(self.backbone)

    def before_evaluation(self) -> None:
        if self.head.world > 1:
            self._rows = gather_rows(self.head.weight, len(self.classes))


class CosFace(Margin):
    variant = "cosface"


class ArcFace(Margin):
    variant = "arcface"


class UniFace(Margin):
    variant = "uniface"


class EPL(Margin):
    """A margin method with empirical prototypes."""

    Options = EPLOptions
    main_weight = ("k", (0.7, 0.5, 0.9))
    variants = ({"repeats": "last", "prototypes_start": "normal", "start_epoch": 1},)
    waits = "how often each identity is in the batch is read on the host, to move its prototype as often"


class CosFaceEPL(EPL):
    variant = "cosface"


class ArcFaceEPL(EPL):
    variant = "arcface"


class UniFaceEPL(EPL):
    variant = "uniface"
