"""RISDA: reasoning-based implicit semantic data augmentation (Chen et al., AAAI 2022), as a second stage.

As ISDA, but a rare class borrows: its covariance is mixed of those of the classes it is taken for, and its features are moved
towards their means. What it is taken for is measured once, on the training images, as the stage begins.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from ..classes import Classes
from ..data.ops import send
from ..errors import UsageError
from ..losses.class_weights import effective_number_weights
from ..losses.classifier import ClassifierLoss
from ..losses.isda import confusion_graph, propagate, prototype_shift, spread, update_statistics
from ..models.heads import LinearClassifier
from .after_training import each_image, over_processes
from .base import Batch, Clock, Passes, Stage, Stream
from .isda import empty_statistics
from .second_stage import SecondStage


class RISDA(SecondStage):
    """See the module's text. Symbols of the paper: alpha, beta."""

    name = "risda"

    epochs: int = Field(40, ge=1, description="its length")
    lr: float = Field(1e-3, gt=0, description="learning rate at its start")
    milestone: float = Field(0.475, ge=0, le=1, description="share of its epochs after which lr drops by 0.01")
    alpha: float = Field(0.5, ge=0, description="how far features are moved, at the end of training")
    beta: float = Field(0.75, ge=0, description="strength of the augmentation, at the end of training")
    begins_at: float = Field(0.8, ge=0, le=1, description="share of both strengths at which the stage begins")
    head: int | None = Field(
        None, ge=1, description="classes with most images that do not borrow (default: a fifth of all)"
    )
    rho: float = Field(0.9999, gt=0, lt=1, description="of the effective numbers that weight the classes")
    covariance: Literal["whole", "diagonal"] = Field(
        "whole", description="what is kept of it: D x D or D numbers a class"
    )
    trains: Literal["all", "classifier"] = Field("all", description="what learns; all, as released")

    def stage(self, augment: str) -> Stage:
        optim = {
            "epochs": self.epochs,
            "lr": self.lr,
            "schedule": "step",
            "milestones": (self.milestone,),
            "drop": 0.01,
            "warmup_epochs": 0,
        }
        learning = None if self.trains == "all" else ("classifier",)
        return Stage(self.name, {"main": Stream((augment,))}, trains=learning, optim=optim)

    def check(self, options: Any, classes: Classes) -> None:
        if self.head is not None and self.head >= len(classes):
            raise UsageError(
                f"risda.head is {self.head} of {len(classes)} classes, which leaves none that borrow: give fewer."
            )

    def attach(self, method: Any) -> None:
        if not isinstance(method.classifier, LinearClassifier):
            raise UsageError(
                f"risda adds to the scores of a linear classifier; this method has a {type(method.classifier).__name__}."
            )
        if hasattr(method, "covariances"):
            raise UsageError(
                "risda keeps means and covariances of classes, and so does this method: it augments already."
            )
        classes, dim = method.classifier.weight.shape
        head = self.head or max(1, classes // 5)
        commonest_first = torch.argsort(method.counts, stable=True, descending=True)
        buffers = empty_statistics(classes, dim, self.covariance)
        buffers |= {"graph": torch.zeros(classes, classes), "displacement": torch.zeros(classes, dim)}
        buffers["tail"] = torch.ones(classes, dtype=torch.bool).index_fill(0, commonest_first[:head], False)
        buffers["risda_weights"] = effective_number_weights(method.counts, self.rho)
        for name, value in buffers.items():
            method.register_buffer(name, value)
        method.risda_criterion = ClassifierLoss("ce", method.counts)

    @torch.no_grad()
    def begin(self, method: Any, images: Passes) -> None:
        confusion, sums = torch.zeros_like(method.graph), torch.zeros_like(method.displacement)
        for features, labels in each_image(method, images.training()):
            predicted = method.classifier(features).argmax(1)
            confusion.index_put_((labels, predicted), torch.ones_like(features[:, 0]), accumulate=True)
            sums.index_add_(0, labels, features.to(sums.dtype))
        confusion = over_processes(confusion)
        method.graph.copy_(confusion_graph(confusion))
        means = over_processes(sums) / confusion.sum(1, keepdim=True)
        method.displacement.copy_(prototype_shift(means, method.graph))

    def losses(self, method: Any, batch: Mapping[str, Batch], clock: Clock) -> dict[str, Tensor]:
        main = batch["main"]
        done = self.begins_at + (1 - self.begins_at) * clock.epoch / clock.epochs
        alpha, beta = send(torch.tensor([self.alpha * done, self.beta * done]), main.labels.device)
        features, labels, classifier = method.features(main.views[0]), main.labels, method.classifier
        moved = method.displacement[labels]
        update_statistics(features + alpha * moved, labels, method.means, method.covariances, method.seen)
        propagate(method.covariances, method.graph, method.tail)
        augmented = classifier(features) + beta / 2 * spread(classifier.weight, labels, method.covariances)
        # Twice, as released: once in the features and once in the scores.
        augmented = augmented + 2 * alpha * moved @ classifier.weight.T
        return {"risda": method.risda_criterion(augmented, labels, class_weights=method.risda_weights)}
