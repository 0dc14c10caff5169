"""RISDA: reasoning-based implicit semantic data augmentation (Chen et al., AAAI 2022), as a second stage.

As ISDA, but a rare class borrows: its covariance is mixed of those of the classes it is taken for, and its features are moved
towards their means. What it is taken for is measured once, on the training images, as the stage begins.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from ..classes import Classes
from ..errors import UsageError
from ..losses.classifier import ClassifierLoss
from ..losses.isda import confusion_graph, propagate, prototype_shift, spread, update_statistics
from .after_training import each_image, over_processes
from .base import Batch, Clock, Passes, Update
from .late_augmentation import LateAugmentation


class RISDA(LateAugmentation):
    """See the module's text. Symbols of the paper: alpha, beta."""

    name = "risda"

    alpha: float = Field(0.5, ge=0, description="how far features are moved, at the end of training")
    beta: float = Field(0.75, ge=0, description="strength of the augmentation, at the end of training")
    head: int | None = Field(
        None, ge=1, description="classes with most images that do not borrow (default: a fifth of all)"
    )
    freeze_from: float = Field(
        1.0, ge=0, le=1, description="share of its epochs after which the classifier alone learns on"
    )

    def check(self, options: Any, classes: Classes) -> None:
        if self.head is not None and self.head >= len(classes):
            raise UsageError(
                f"risda.head is {self.head} of {len(classes)} classes, which leaves none that borrow: give fewer."
            )

    def attach(self, method: Any) -> None:
        super().attach(method)
        classes, dim = method.classifier.weight.shape
        head = self.head or max(1, classes // 5)
        commonest_first = torch.argsort(method.counts, stable=True, descending=True)
        tail = torch.ones(classes, dtype=torch.bool).index_fill(0, commonest_first[:head], False)
        buffers = {"graph": torch.zeros(classes, classes), "displacement": torch.zeros(classes, dim), "tail": tail}
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

    def step(self, method: Any, batch: Mapping[str, Batch], clock: Clock, update: Update) -> dict[str, Tensor]:
        terms = update.gradients(batch, clock)
        if clock.epoch >= self.freeze_from * clock.epochs:
            for name, parameter in method.named_parameters():
                if not name.startswith("classifier."):
                    parameter.grad = None  # and the optimiser leaves it alone, its weight decay and momentum too
        update.apply()
        return terms

    def losses(self, method: Any, batch: Mapping[str, Batch], clock: Clock) -> dict[str, Tensor]:
        main = batch["main"]
        alpha, beta = self.strengths(clock, main.labels.device, self.alpha, self.beta)
        features, labels, classifier = method.features(main.views[0]), main.labels, method.classifier
        moved = method.displacement[labels]
        update_statistics(features + alpha * moved, labels, method.means, method.covariances, method.seen)
        propagate(method.covariances, method.graph, method.tail)
        augmented = classifier(features) + beta / 2 * spread(classifier.weight, labels, method.covariances)
        # Twice, as released: once in the features and once in the scores.
        augmented = augmented + 2 * alpha * moved @ classifier.weight.T
        return {"risda": method.risda_criterion(augmented, labels, class_weights=method.augmented_weights)}
