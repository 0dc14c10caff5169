"""What RISDA and MetaSAug share: a second stage in which all learns on, from features augmented by class covariances."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from ..data.ops import send
from ..errors import UsageError
from ..losses.class_weights import effective_number_weights
from ..models.heads import LinearClassifier
from .base import Clock, Stage, Stream
from .isda import empty_statistics
from .second_stage import SecondStage


class LateAugmentation(SecondStage):
    """The last epochs of a training, the first of which any method may have done. Defaults: the last 40 of 200."""

    epochs: int = Field(40, ge=1, description="its length")
    lr: float = Field(1e-3, gt=0, description="learning rate at its start")
    milestone: float = Field(0.475, ge=0, le=1, description="share of its epochs after which lr drops by 0.01")
    begins_at: float = Field(0.8, ge=0, le=1, description="share of full strength at which the stage begins")
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

    def attach(self, method: Any) -> None:
        if not isinstance(method.classifier, LinearClassifier):
            raise UsageError(
                f"{self.name} adds to the scores of a linear classifier; this method has a "
                f"{type(method.classifier).__name__}."
            )
        if hasattr(method, "covariances"):
            raise UsageError(
                f"{self.name} keeps means and covariances of classes, and so does this method: it augments already."
            )
        classes, dim = method.classifier.weight.shape
        buffers = empty_statistics(classes, dim, self.covariance)
        buffers["augmented_weights"] = effective_number_weights(method.counts, self.rho)
        for name, value in buffers.items():
            method.register_buffer(name, value)

    def strengths(self, clock: Clock, device: torch.device, *full: float) -> Tensor:
        """Each of `full` in so far as the epoch is late: they grow with the epochs, those before the stage included."""
        done = self.begins_at + (1 - self.begins_at) * clock.epoch / clock.epochs
        return send(torch.tensor([value * done for value in full]), device)
