"""LWS (learnable weight scaling), a second stage: Kang et al., ICLR 2020."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from .base import Sampler
from .retraining import Retrain


class LWS(Retrain):
    """Of the classifier only one factor for each class learns, which its bias is multiplied by too."""

    name = "lws"
    deployed = ("lws_scales",)
    trains = "lws_scales"

    epochs: int = Field(5, ge=1, description="its length")
    sampler: Sampler = Field("class_aware", description="how batches are drawn")

    def attach(self, method: Any) -> None:
        super().attach(method)
        method.lws_scales = nn.Parameter(torch.ones(len(method.classes)))

    def learned_scores(self, method: Any, features: Tensor) -> Tensor:
        return method.lws_scales * method.classifier(features)

    def scores(self, method: Any, features: Tensor, scores: Tensor) -> Tensor:
        return method.lws_scales * scores

    def rows(self, method: Any, rows: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return method.lws_scales[:, None] * rows, None if bias is None else method.lws_scales * bias
