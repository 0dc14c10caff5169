"""PaCo: parametric contrastive learning (Cui et al., ICCV 2021), and GPaCo, the same without a momentum encoder (TPAMI 2023).

A linear classifier's rows are centres that stand in one softmax with a queue of keys: a query is pulled towards its class's
centre and, less, towards everything of its class. The centres' logits are shifted by the class prior while training.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ..classes import Classes
from ..distributed import all_gather_with_grad
from ..losses.paco import paco
from ..models.backbone import Backbone
from ..models.heads import LinearClassifier, mlp
from .base import Batches, Clock, Method, Options, Passes, Stage, Stream
from .contrast_parts import MomentumEncoder, Queue, check_queue


class GPaCoOptions(Options):
    augment: str = Field("autoaugment_cutout", description="of the classified view")
    contrast_augment: str = Field("simaugment", description="of the view that becomes a key")
    alpha: float = Field(0.01, ge=0, description="weight of a positive that is no centre")
    beta: float = Field(1.0, gt=0, description="weight of the class's centre")
    gamma: float = Field(
        1.0, gt=0, description="how much a contrasted feature counts in the softmax, a centre counting 1"
    )
    tau: float = Field(0.05, gt=0, description="temperature of the contrast")
    supervised_tau: float = Field(1.0, gt=0, description="temperature of the centres")
    smoothing: float = Field(0.0, ge=0, lt=1, description="label smoothing over the centres")
    dim: int = Field(32, ge=1, description="width of the contrasted features")
    queue: int = Field(1024, ge=1, description="keys that are remembered, a multiple of the batch")
    queue_start: Literal["noise", "empty"] = Field(
        "noise", description="noise: random vectors of random labels, as released; empty: entries that are left out"
    )


class PaCoOptions(GPaCoOptions):
    momentum: float = Field(0.999, ge=0, le=1, description="of the key encoder")


class GPaCo(Method):
    """See the module's text. Both views are queries; those of the second are remembered."""

    Options = GPaCoOptions
    main_weight = ("alpha", (0.01, 0.02, 0.05))
    train_defaults = {
        "lr": 0.05,
        "batch_size": 128,
        "epochs": 400,
        "schedule": "step",
        "milestones": (0.8, 0.9),
        "warmup_epochs": 10,
    }
    variants = ({"queue": 16, "queue_start": "empty", "smoothing": 0.1},)

    def __init__(self, backbone: Backbone, classes: Classes, options: Any) -> None:
        super().__init__(backbone, classes, options)
        self.classifier = LinearClassifier(backbone.dim, len(classes))
        self.projector = self.build_projector(backbone.dim, options.dim)
        self.queue = Queue.random(options.queue, options.dim)
        if options.queue_start == "noise":
            # Unit length along the queue, not along the features, as released.
            self.queue.keys.copy_(F.normalize(torch.randn_like(self.queue.keys), dim=0))
            self.queue.labels.copy_(torch.randint(len(classes), (options.queue,)))

    def build_projector(self, width: int, dim: int) -> nn.Module:
        """From the features to what is contrasted."""
        return nn.Sequential(
            *(nn.Linear(width, width), nn.ReLU(inplace=True)),
            *(nn.Linear(width, width), nn.ReLU(inplace=True), nn.Linear(width, dim)),
        )

    @classmethod
    def stages(cls, options: Any) -> list[Stage]:
        return [Stage("train", {"main": Stream((options.augment, options.contrast_augment))})]

    @classmethod
    def check(cls, options: Any, classes: Classes, batch_size: int) -> None:
        check_queue(options.queue, batch_size)

    def losses(self, batch: Batches, clock: Clock) -> dict[str, Tensor]:
        main = batch["main"]
        # One after the other, as released: each view has its own batch-norm statistics.
        features = torch.cat([self.backbone(view) for view in main.views])
        queries = F.normalize(self.projector(features))
        terms = self.terms(queries, features, main.labels.repeat(2), self.queue.keys.clone(), self.queue.labels.clone())
        self.queue.push(queries[len(main.labels) :].detach(), main.labels)
        return terms

    def terms(
        self, queries: Tensor, features: Tensor, labels: Tensor, entries: Tensor, entry_labels: Tensor
    ) -> dict[str, Tensor]:
        """The loss of `queries` [A, D], made of `features` [A, F] of `labels` [A], against each other and `entries` [M, D]."""
        hp = self.hp
        loss = paco(
            queries,
            labels,
            entries,
            entry_labels,
            self.classifier(features),
            self.counts,
            hp.tau,
            hp.alpha,
            beta=hp.beta,
            gamma=hp.gamma,
            supervised_tau=hp.supervised_tau,
            smoothing=hp.smoothing,
        )
        return {"parametric_contrastive": loss}


class PaCo(GPaCo):
    """See the module's text. The first view's features are the queries, a momentum encoder makes keys of the second."""

    Options = PaCoOptions

    def __init__(self, backbone: Backbone, classes: Classes, options: PaCoOptions) -> None:
        super().__init__(backbone, classes, options)
        self.key = MomentumEncoder(backbone, self.projector)

    def build_projector(self, width: int, dim: int) -> nn.Module:
        return mlp(width, width, dim, norm=True)

    def before_stage(self, stage: Stage, images: Passes) -> None:
        self.key.start(self.backbone, self.projector)

    def losses(self, batch: Batches, clock: Clock) -> dict[str, Tensor]:
        main = batch["main"]
        keys = self.key(main.views[1])
        features = self.backbone(main.views[0])
        queries = F.normalize(self.projector(features))
        entries = torch.cat((all_gather_with_grad(keys), self.queue.keys))
        entry_labels = torch.cat((all_gather_with_grad(main.labels), self.queue.labels))
        terms = self.terms(queries, features, main.labels, entries, entry_labels)
        self.queue.push(keys, main.labels)
        return terms

    def after_step(self, clock: Clock) -> None:
        self.key.follow(self.backbone, self.projector, self.hp.momentum)
