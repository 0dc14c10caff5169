"""MetaSAug: meta semantic augmentation (Li et al., CVPR 2021), as a second stage.

As ISDA, but what a class's features are said to vary by is learned: each step is tried out first, and the covariances move so
that it would have done better on class-balanced images. They are moved for that step alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..distributed import all_gather_with_grad
from ..losses.classifier import ClassifierLoss
from ..losses.isda import spread, update_statistics
from ..losses.meta_sampler import stepped
from .base import Batch, Clock, Stage, Stream, Update
from .late_augmentation import LateAugmentation


class MetaSAug(LateAugmentation):
    """See the module's text."""

    name = "metasaug"

    strength: float = Field(0.5, ge=0, description="of the augmentation at the end of training, lambda in the paper")
    loss: Literal["ldam", "ce"] = Field("ldam", description="of the augmented scores, without LDAM's scale")
    max_margin: float = Field(0.5, gt=0, description="of ldam: the rarest class's margin")
    meta_lr: float = Field(0.1, gt=0, description="how fast the covariances move down the class-balanced loss")
    meta_images: Literal["training", "held_out"] = Field(
        "training",
        description="where class-balanced images come from: held_out, as in the paper, costs training images",
    )

    def stage(self, augment: str) -> Stage:
        stage, held_out = super().stage(augment), self.meta_images == "held_out"
        meta = Stream((augment,), "class_aware", per_class=1, held_out=held_out)
        return replace(stage, streams={**stage.streams, "meta": meta}, held_out=held_out)

    def attach(self, method: Any) -> None:
        super().attach(method)
        method.metasaug_criterion = ClassifierLoss(self.loss, method.counts, max_margin=self.max_margin)
        method.register_buffer("correction", torch.zeros_like(method.covariances), persistent=False)

    def losses(self, method: Any, batch: Mapping[str, Batch], clock: Clock) -> dict[str, Tensor]:
        main = batch["main"]
        features, labels = method.features(main.views[0]), main.labels
        loss = self._loss(method, features, labels, method.covariances - method.correction, clock)
        update_statistics(features, labels, method.means, method.covariances, method.seen)
        return {"metasaug": loss}

    def _loss(self, method: Any, features: Tensor, labels: Tensor, covariances: Tensor, clock: Clock) -> Tensor:
        (strength,) = self.strengths(clock, labels.device, self.strength)
        augmented = method.classifier(features) + strength / 2 * spread(method.classifier.weight, labels, covariances)
        return method.metasaug_criterion(augmented, labels, class_weights=method.augmented_weights)

    def step(self, method: Any, batch: Mapping[str, Batch], clock: Clock, update: Update) -> dict[str, Tensor]:
        # What is compiled has no second derivatives, nor has any other form of attention.
        with torch.compiler.set_stance("force_eager"), sdpa_kernel(SDPBackend.MATH):
            meta = self._correct(method, batch, clock)
        return super().step(method, batch, clock, update) | {"meta": meta}

    def _correct(self, method: Any, batch: Mapping[str, Batch], clock: Clock) -> Tensor:
        """Set the correction of the covariances that this step asks for. Returns the loss on the class-balanced images
        after the step was tried out. Each process tries it with its own images; their mean is taken."""
        learning = {f"method.{name}": p for name, p in method.named_parameters() if p.requires_grad}
        # Statistics of batch norm are not to move here.
        untouched = {f"method.{name}": buffer.clone() for name, buffer in method.named_buffers()}
        parts, main, meta = _Parts(method), batch["main"], batch["meta"]
        covariances = method.covariances.clone().requires_grad_()
        features, _ = functional_call(parts, untouched, (main.views[0],))
        inner = self._loss(method, features, main.labels, covariances, clock)
        tried = stepped(learning, inner, lr=clock.lr, weight_decay=0.0)
        _, scores = functional_call(parts, {**untouched, **tried}, (meta.views[0],))
        outer = F.cross_entropy(scores, meta.labels)
        (gradient,) = torch.autograd.grad(outer, covariances)
        method.correction.copy_(self.meta_lr * all_gather_with_grad(gradient[None]).mean(0))
        return outer.detach()


class _Parts(nn.Module):
    """A method's features and scores, as one call: so that it can be called with other parameters."""

    def __init__(self, method: nn.Module) -> None:
        super().__init__()
        self.method: Any = method

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.method.features(images)
        return features, self.method.classifier(features)
