"""Second stages without training: what is predicted is made of the classifier, the counts or the class means.

tau-normalisation and nearest class means: Kang et al., ICLR 2020. Logit adjustment after training: Menon et al., ICLR 2021.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from ..classes import Classes
from ..distributed import all_gather_with_grad
from ..errors import UsageError
from ..losses.classifier import PRIOR
from ..losses.decoupling import Score, Transform, ncm_scores, ncm_transform, tau_normalised
from ..losses.softmax import adjust_logits
from ..models.heads import LinearClassifier
from .base import Passes, Stage, Stream
from .second_stage import SecondStage

logger = logging.getLogger("longtail")


class AfterTraining(SecondStage):
    """A stage of no epochs: all is done as it begins."""

    def stage(self, augment: str) -> Stage:
        held_out = getattr(self, "tau", 0.0) is None  # to be chosen
        return Stage(self.name, {"main": Stream((augment,))}, trains=(), held_out=held_out, optim={"epochs": 0})


def each_image(method: Any, batches: Iterator[Any]) -> Iterator[tuple[Tensor, Tensor]]:
    """Features [B, D] and labels [B] of batches of images."""
    for batch in batches:
        yield method.features(batch.views[0]), batch.labels


def over_processes(total: Tensor) -> Tensor:
    """The sum of each process's `total`."""
    return all_gather_with_grad(total[None]).sum(0)


def best_on_held_out(
    method: Any, name: str, images: Passes, values: Sequence[float], scores: Callable[[Tensor, float], Tensor]
) -> float:
    """The one of `values` whose `scores(features, value)` [B, C] predict held-out images best: by the mean over classes of
    each class's accuracy."""
    hits = torch.zeros(len(values), len(method.classes), device=method.counts.device)
    seen = torch.zeros_like(hits[0])
    for features, labels in each_image(method, images.held_out()):
        for hit, value in zip(hits, values, strict=True):
            hit.index_add_(0, labels, (scores(features, value).argmax(1) == labels).to(hit.dtype))
        seen.index_add_(0, labels, torch.ones_like(labels, dtype=seen.dtype))
    hits, seen = over_processes(hits), over_processes(seen)
    means = (hits / seen.clamp(min=1)).sum(1) / (seen > 0).sum()
    best = values[int(means.argmax())]
    logger.info(
        "%s: tau = %g is best on the %d images held out of training: %.2f %% over classes",
        name, best, int(seen.sum()), 100 * means.max(),
    )  # fmt: skip
    return best


class TauNorm(AfterTraining):
    """Rows are divided by their length to the power of tau."""

    name = "tau_norm"

    tau: float | None = Field(
        1.0, ge=0, description="0: rows as they are, 1: unit rows; null: the best of 0, 0.1, ... 2 on held-out images"
    )
    bias: Literal["drop", "keep"] = Field("drop", description="of the classifier: dropped, as released, or kept")

    def attach(self, method: Any) -> None:
        if not isinstance(method.classifier, LinearClassifier):
            raise UsageError(
                "tau_norm divides the rows of a linear classifier by a power of their length, and this method's "
                f"{type(method.classifier).__name__} compares by rows of unit length already: there is nothing to do."
            )

    @torch.no_grad()
    def begin(self, method: Any, images: Passes) -> None:
        weight, bias = method.classifier.weight, method.classifier.bias
        kept = bias if self.bias == "keep" else torch.zeros_like(bias)
        tau = self.tau
        if tau is None:
            grid = [i / 10 for i in range(21)]
            tau = best_on_held_out(
                method, self.name, images, grid,
                lambda features, tau: features @ tau_normalised(weight, tau).T + kept,
            )  # fmt: skip
        weight.copy_(tau_normalised(weight, tau))
        bias.copy_(kept)


class NCM(AfterTraining):
    """The nearest class mean of the training images' features decides."""

    name = "ncm"
    deployed = ("ncm_mean", "ncm_centres", "ncm_ready")

    transform: Transform = Field("centred_unit", description="of features before they are compared")
    score: Score = Field("distance", description="squared distance, or product over the width")

    @property
    def makes_classifier(self) -> bool:
        return True

    def attach(self, method: Any) -> None:
        classes, dim = method.classifier.rows.shape
        method.register_buffer("ncm_mean", torch.zeros(dim))
        method.register_buffer("ncm_centres", torch.zeros(classes, dim))
        method.register_buffer("ncm_ready", torch.tensor(False))

    @torch.no_grad()
    def begin(self, method: Any, images: Passes) -> None:
        counts = method.counts[:, None]
        if self.transform == "centred_unit":
            total = sum((features.sum(0) for features, _ in each_image(method, images.training())), method.ncm_mean * 0)
            method.ncm_mean.copy_(over_processes(total) / counts.sum())
        sums, seen = torch.zeros_like(method.ncm_centres), torch.zeros_like(method.ncm_centres[:, 0])
        for features, labels in each_image(method, images.training()):
            sums.index_add_(0, labels, ncm_transform(features, method.ncm_mean, self.transform).to(sums.dtype))
            seen.index_add_(0, labels, torch.ones_like(labels, dtype=seen.dtype))
        method.ncm_centres.copy_(over_processes(sums) / over_processes(seen)[:, None])
        method.ncm_ready.fill_(True)

    def scores(self, method: Any, features: Tensor, scores: Tensor) -> Tensor:
        transformed = ncm_transform(features, method.ncm_mean, self.transform)
        return torch.where(method.ncm_ready, ncm_scores(transformed, method.ncm_centres, self.score), scores)

    def rows(self, method: Any, rows: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return torch.where(method.ncm_ready, method.ncm_centres, rows), None


class PosthocLogitAdjustment(AfterTraining):
    """tau log(n_c / N) is taken from the scores."""

    name = "logit_adjustment"
    deployed = ("adjustment",)

    tau: float | None = Field(1.0, ge=0, description="null: the best of 0, 0.1, ... 2 on held-out images")

    def check(self, options: Any, classes: Classes) -> None:
        if getattr(options, "loss", None) in PRIOR:
            raise UsageError(
                f"loss={options.loss} trains scores for balanced classes already: taking the prior from them again with "
                "logit_adjustment would overshoot. Use it after loss=ce, or leave it out."
            )

    def attach(self, method: Any) -> None:
        method.register_buffer("adjustment", torch.zeros(len(method.classes)))

    @torch.no_grad()
    def begin(self, method: Any, images: Passes) -> None:
        none = torch.zeros(1, len(method.classes), device=method.counts.device, dtype=method.adjustment.dtype)
        tau = self.tau
        if tau is None:
            grid = [i / 10 for i in range(21)]
            tau = best_on_held_out(
                method, self.name, images, grid,
                lambda features, tau: method.classifier(features) + adjust_logits(none, method.counts, tau),
            )  # fmt: skip
        method.adjustment.copy_(adjust_logits(none, method.counts, tau)[0])

    def prior_exponent(self, before: float | None) -> float | None:
        return None if before is None or self.tau is None else before - self.tau

    def scores(self, method: Any, features: Tensor, scores: Tensor) -> Tensor:
        return scores + method.adjustment

    def rows(self, method: Any, rows: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return rows, method.adjustment if bias is None else bias + method.adjustment
