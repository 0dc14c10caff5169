"""Nearest class means, a second stage without training: Kang et al., ICLR 2020."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from ..losses.decoupling import Score, Transform, ncm_scores, ncm_transform
from .after_training import AfterTraining, each_image, over_processes
from .base import Passes


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
