"""LOS (label over-smoothing), a second stage: Sun et al., ICLR 2025."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from .base import Batch, Clock
from .retraining import Retrain


class LOS(Retrain):
    """A new classifier learns from labels smoothed almost to uniform, which leaves little to tell common classes from rare.

    A new one, because the old one's scores, much larger than such labels ask for, take thousands of steps to shrink.
    """

    name = "los"

    new_classifier: bool = Field(True, description="start a new classifier")
    loss: Literal["ce"] = Field("ce", description="of the classifier's scores")
    smoothing: float = Field(0.98, ge=0, lt=1, description="share of each label that is spread over all classes")

    def prior_exponent(self, before: float | None) -> float | None:
        return None

    def losses(self, method: Any, batch: Mapping[str, Batch], clock: Clock) -> dict[str, Tensor]:
        main = batch["main"]
        scores = self.learned_scores(method, method.features(main.views[0]))
        return {"los": F.cross_entropy(scores, main.labels, label_smoothing=self.smoothing)}
