"""Logit adjustment after training, a second stage without any: Menon et al., ICLR 2021."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from ..classes import Classes
from ..errors import UsageError
from ..losses.classifier import PRIOR
from ..losses.softmax import adjust_logits
from .after_training import AfterTraining, best_on_held_out
from .base import Passes


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
