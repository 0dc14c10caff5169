"""KCL: k-positive contrastive learning (Kang et al., ICLR 2021), with a linear classifier trained afterwards.

A query, its key from a momentum encoder, and a queue of earlier keys with their labels. Besides its own key each query is pulled
towards k keys of its class, the same number for a rare class as for a frequent one, as far as the queue holds so many.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ..classes import Classes
from ..losses.queue_contrast import draw_positives, queue_contrastive
from ..models.backbone import Backbone
from ..models.heads import mlp
from .base import Batch, Clock, Passes, Stage, Stream
from .contrast_parts import (
    ClassifierStageOptions,
    ContrastThenClassifier,
    MomentumEncoder,
    Queue,
    check_queue,
    positive_draws,
)


class KCLOptions(ClassifierStageOptions):
    augment: str = Field("simaugment", description="of the query's view and of the key's")
    tau: float = Field(0.07, gt=0, description="temperature")
    dim: int = Field(128, ge=1, description="width of the contrasted features")
    projector: Literal["linear", "mlp"] = Field(
        "linear", description="linear, or with a hidden layer as wide as the features"
    )
    momentum: float = Field(0.999, ge=0, le=1, description="of the key encoder")
    queue: int = Field(4096, ge=1, description="keys that are remembered, a multiple of the batch")
    queue_start: Literal["filled", "random", "empty"] = Field(
        "filled",
        description="filled by a pass before training; random vectors, which are negatives; or empty entries, which are left out",
    )
    positives: int = Field(6, ge=0, description="k: keys of its class that a query is pulled towards, besides its own")
    unused: Literal["negatives", "zeroed", "removed"] = Field(
        "negatives", description="what the other keys of its class are to a query; zeroed: their similarity counts as 0"
    )


class KCL(ContrastThenClassifier):
    """See the module's text."""

    Options = KCLOptions
    main_weight = ("tau", (0.07, 0.1, 0.2))
    train_defaults = {"lr": 0.1, "weight_decay": 5e-4, "batch_size": 256}
    variants: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"queue": 32, "queue_start": "empty", "unused": "zeroed"},
        {"unused": "removed"},
    )
    contrast_stages: ClassVar[tuple[str, ...]] = ("contrast",)

    def __init__(self, backbone: Backbone, classes: Classes, options: KCLOptions) -> None:
        super().__init__(backbone, classes, options)
        linear = options.projector == "linear"
        self.projector: nn.Module = (
            nn.Linear(backbone.dim, options.dim) if linear else mlp(backbone.dim, backbone.dim, options.dim, norm=False)
        )
        self.key = MomentumEncoder(backbone, self.projector)
        self.queue = Queue.random(options.queue, options.dim)

    @classmethod
    def stages(cls, options: Any) -> list[Stage]:
        stream = Stream((options.augment, options.augment))
        first = [
            Stage(name, {"main": stream}, ("backbone", "projector"), ("backbone", "projector", "key"))
            for name in cls.contrast_stages
        ]
        return [*first, cls.classifier_stage(options)]

    @classmethod
    def check(cls, options: Any, classes: Classes, batch_size: int) -> None:
        check_queue(options.queue, batch_size)

    def before_stage(self, stage: Stage, images: Passes) -> None:
        if stage.name != self.contrast_stages[0]:
            return
        self.key.start(self.backbone, self.projector)
        if self.hp.queue_start == "filled":
            self.queue.fill(self.key, images, Stream((self.hp.augment,)), self.classes)

    def contrast(self, main: Batch, clock: Clock) -> dict[str, Tensor]:
        keys = self.key(main.views[1])
        queries = F.normalize(self.projector(self.backbone(main.views[0])))
        entries, entry_labels = self.entries(queries.detach(), main.labels, clock)
        draws = positive_draws(clock, len(entries), len(queries), queries.device)
        terms = self.terms(queries, keys, main.labels, entries, entry_labels, draws)
        self.queue.push(keys, main.labels)
        return terms

    def entries(self, queries: Tensor, labels: Tensor, clock: Clock) -> tuple[Tensor, Tensor]:
        """What queries are compared with besides their own keys [M, D], and its labels [M]: the queue before the step."""
        return self.queue.keys.clone(), self.queue.labels.clone()

    def terms(
        self,
        queries: Tensor,
        keys: Tensor,
        labels: Tensor,
        entries: Tensor,
        entry_labels: Tensor,
        draws: tuple[Tensor, Tensor],
    ) -> dict[str, Tensor]:
        """The loss of `queries` and `keys` [B, D], unit vectors of `labels` [B]. `draws`: see `positive_draws`."""
        hp = self.hp
        same = labels[:, None] == entry_labels
        positive = self.draw(same, draws)
        unused = same & ~positive
        removed = unused if hp.unused == "removed" else torch.zeros_like(same)
        if hp.queue_start == "empty":
            removed = removed | (entry_labels < 0)
        loss = queue_contrastive(
            queries,
            keys,
            entries,
            positive,
            hp.tau,
            weights=self.weights(entries),
            zeroed=unused if hp.unused == "zeroed" else None,
            removed=removed,
        )
        return {"contrastive": loss}

    def draw(self, same: Tensor, draws: tuple[Tensor, Tensor]) -> Tensor:
        """Which of the entries of its class bool [B, M] are each query's positives."""
        return draw_positives(same, self.hp.positives, *draws)

    def weights(self, entries: Tensor) -> Tensor | None:
        """What each entry [M] weighs as a positive."""
        return None

    def after_step(self, clock: Clock) -> None:
        if clock.stage != "classifier":
            self.key.follow(self.backbone, self.projector, self.hp.momentum)
