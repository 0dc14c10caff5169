"""tau-normalisation, a second stage without training: Kang et al., ICLR 2020."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field

from ..errors import UsageError
from ..losses.decoupling import tau_normalised
from ..models.heads import LinearClassifier
from .after_training import AfterTraining, best_on_held_out
from .base import Passes


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
