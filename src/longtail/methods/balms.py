"""BALMS: Balanced Meta-Softmax with its meta sampler (Ren et al., NeurIPS 2020), as a second stage.

A new classifier learns by Balanced Softmax on frozen features, and with it how often each class is drawn: the classifier's step
is tried out first, and the rates move so that it would have done better on class-balanced images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from torch.func import functional_call

from ..data.ops import send
from ..distributed import all_gather_with_grad, world
from ..losses.classifier import LossName
from ..losses.meta_sampler import draw_images, initial_rate_logits, noise_of_draw, stepped
from .base import Batch, Clock, Stage, Stream, Update
from .retraining import Retrain


class BALMS(Retrain):
    """See the module's text. The class-balanced images are of the training set that the run itself trains on."""

    name = "balms"
    new_classifier: bool = Field(True, description="start a new classifier")
    loss: LossName = Field("balanced_softmax", description="of the classifier's scores")
    power: float = Field(0.0, ge=0, description="classes are first drawn at rates by 1 / n_c^power")
    meta_lr: float = Field(0.01, gt=0, description="learning rate of the rates, by Adam")

    def stage(self, augment: str) -> Stage:
        views = (self.augment or augment,)
        streams = {self.name: Stream(views, "own"), "meta": Stream(views, "class_aware", per_class=1)}
        return replace(super().stage(augment), streams=streams)

    def attach(self, method: Any) -> None:
        super().attach(method)
        rates = initial_rate_logits(method.counts, self.power)
        for name in ("rates", "rates_mean", "rates_square"):  # the last two: Adam's
            method.register_buffer(name, torch.zeros_like(rates))
        method.rates.copy_(rates)
        method.register_buffer("rates_steps", torch.zeros(()))
        every = torch.arange(len(method.classes)).repeat_interleave(method.counts)
        method.register_buffer("every_label", every, persistent=False)
        method.register_buffer("first_of_class", method.counts.cumsum(0) - method.counts, persistent=False)

    def prior_exponent(self, before: float | None) -> float | None:
        return None

    def sampling(self, method: Any) -> Tensor:
        return method.counts * method.rates.sigmoid()

    def losses(self, method: Any, batch: Mapping[str, Batch], clock: Clock) -> dict[str, Tensor]:
        drawn = batch[self.name]
        # Kept for `step`, which needs them again.
        method.drawn = method.features(drawn.views[0]).detach(), drawn.labels
        return {self.loss: method.balms_criterion(method.classifier(method.drawn[0]), drawn.labels)}

    def step(self, method: Any, batch: Mapping[str, Batch], clock: Clock, update: Update) -> dict[str, Tensor]:
        terms = update.gradients(batch, clock)
        (features, labels), meta = method.drawn, batch["meta"]
        with torch.no_grad():
            meta_features = method.features(meta.views[0])
        rates = method.rates.detach().requires_grad_()
        noise = self._noise(method, labels, clock.generator)
        _, ones = draw_images(rates, method.every_label, noise)
        parameters = dict(method.classifier.named_parameters())
        scores = functional_call(method.classifier, parameters, (features,))
        inner = (method.balms_criterion.per_sample(scores, labels) * ones).mean()
        state, momentum = update.optimizer.state, update.optimizer.param_groups[0].get("momentum", 0.0)
        buffers = {
            name: state[p]["momentum_buffer"]
            for name, p in parameters.items()
            if state[p].get("momentum_buffer") is not None
        }
        tried = stepped(
            parameters, inner, lr=clock.lr, weight_decay=self.weight_decay, momentum=momentum, buffers=buffers
        )
        outer = F.cross_entropy(functional_call(method.classifier, tried, (meta_features,)), meta.labels)
        (gradient,) = torch.autograd.grad(outer, rates)
        self._move(method, all_gather_with_grad(gradient[None]).mean(0))
        update.apply()
        return terms | {"meta": outer.detach()}

    def _noise(self, method: Any, labels: Tensor, generator: torch.Generator) -> Tensor:
        """The Gumbel noise [B, N] by which these images, the first of their classes as good as any, would have been drawn."""
        rank, size = world()
        uniform = torch.rand(size * len(labels), len(method.every_label), generator=generator)
        own = send(uniform[rank * len(labels) : (rank + 1) * len(labels)], labels.device).to(method.rates.dtype)
        gumbel = -(-own.clamp(min=1e-20).log()).clamp(min=1e-20).log()
        return noise_of_draw(F.logsigmoid(method.rates)[method.every_label], method.first_of_class[labels], gumbel)

    @torch.no_grad()
    def _move(self, method: Any, gradient: Tensor) -> None:
        """A step of Adam (Kingma and Ba, ICLR 2015), whose state lies in buffers."""
        method.rates_steps.add_(1)
        method.rates_mean.lerp_(gradient, 0.1)
        method.rates_square.lerp_(gradient.square(), 0.001)
        mean = method.rates_mean / (1 - 0.9**method.rates_steps)
        square = method.rates_square / (1 - 0.999**method.rates_steps)
        method.rates.sub_(self.meta_lr * mean / (square.sqrt() + 1e-8))
