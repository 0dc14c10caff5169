"""TSC: targeted supervised contrastive learning (Li et al., CVPR 2022), with a linear classifier trained afterwards.

KCL first. Then every class is given one of C fixed points spread evenly over the sphere, by the assignment that fits the classes'
means best, and its queries are pulled towards that target as well, so that rare classes stay as far apart as frequent ones.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from ..classes import Classes
from ..losses.queue_contrast import draw_positives
from ..losses.targets import assign_targets, spread_targets, start_targets, update_class_means
from ..models.backbone import Backbone
from .base import Clock, Passes, Stage
from .kcl import KCL, KCLOptions


class TSCOptions(KCLOptions):
    projector: Literal["linear", "mlp"] = Field(
        "mlp", description="linear, or with a hidden layer as wide as the features"
    )
    queue_start: Literal["filled", "random", "empty"] = Field(
        "random",
        description="filled by a pass before training; random vectors, which are negatives; or empty entries, which are left out",
    )
    dim: int = Field(128, ge=2, description="width of the contrasted features")
    target_weight: float = Field(0.2, ge=0, description="weight of a query's target among its positives")
    masks: Literal["separate", "shared"] = Field(
        "separate", description="separate: the target is always a positive; shared: it competes for the k places"
    )
    assign_every: int = Field(1, ge=1, description="steps between assignments, for which the device is waited for")
    class_momentum: float = Field(0.9, ge=0, le=1, description="of the class means")
    targeted_epochs: int | None = Field(None, ge=0, description="epochs with targets (null: as many as without)")


class TSC(KCL):
    """See the module's text."""

    targets: Tensor
    class_means: Tensor
    assignment: Tensor

    Options = TSCOptions
    main_weight = ("target_weight", (0.2, 0.1, 0.5))
    train_defaults = KCL.train_defaults | {"weight_decay": 1e-4}
    variants = ({"masks": "shared", "queue": 32, "queue_start": "empty"},)
    waits = "the assignment of targets is computed on the CPU"
    contrast_stages = ("kcl", "tsc")

    def __init__(self, backbone: Backbone, classes: Classes, options: TSCOptions) -> None:
        super().__init__(backbone, classes, options)
        self.register_buffer("targets", start_targets(len(classes), options.dim))
        self.register_buffer("class_means", F.normalize(torch.randn(len(classes), options.dim)))
        self.register_buffer("assignment", torch.arange(len(classes)))

    @classmethod
    def stages(cls, options: Any) -> list[Stage]:
        kcl, tsc, classifier = super().stages(options)
        if options.targeted_epochs is not None:
            tsc = replace(tsc, optim={"epochs": options.targeted_epochs})
        return [kcl, tsc, classifier]

    def before_stage(self, stage: Stage, images: Passes) -> None:
        super().before_stage(stage, images)
        if stage.name == "tsc":
            self.targets.copy_(spread_targets(self.targets))

    def entries(self, queries: Tensor, labels: Tensor, clock: Clock) -> tuple[Tensor, Tensor]:
        """The queue, and in the second stage each class's target after it."""
        entries, entry_labels = super().entries(queries, labels, clock)
        if clock.stage != "tsc":
            return entries, entry_labels
        update_class_means(self.class_means, queries, labels, self.hp.class_momentum)
        if clock.step % self.hp.assign_every == 0:
            self.assignment.copy_(assign_targets(self.class_means, self.targets))
        classes = torch.arange(len(self.targets), device=labels.device)
        return torch.cat((entries, self.targets[self.assignment])), torch.cat((entry_labels, classes))

    def draw(self, same: Tensor, draws: tuple[Tensor, Tensor]) -> Tensor:
        """See `KCL.draw`."""
        if self.hp.masks == "shared":
            return super().draw(same, draws)
        queue, entries = self.hp.queue, draws[0]
        drawn = draw_positives(same[:, :queue], self.hp.positives, entries[:queue], draws[1])
        return torch.cat((drawn, same[:, queue:]), 1)

    def weights(self, entries: Tensor) -> Tensor:
        """See `KCL.weights`."""
        return torch.ones_like(entries[:, 0]).index_fill(
            0, torch.arange(self.hp.queue, len(entries), device=entries.device), self.hp.target_weight
        )
