"""Second stages that train the classifier further, or a new one, on features that stay as they are.

Here those that are a loss and a sampler. cRT: Kang et al., ICLR 2020. Balanced Softmax, decoupled: Ren et al., NeurIPS 2020.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from ..losses.class_weights import effective_number_weights
from ..losses.classifier import ClassifierLoss, LossName
from .base import Batch, Clock, Passes, Sampler, Stage, Stream
from .second_stage import FrozenBatchNorm, SecondStage


class Retrain(SecondStage):
    """The classifier learns by a loss and a sampler of its own; all else is frozen."""

    trains: ClassVar[str] = "classifier"

    epochs: int = Field(10, ge=1, description="its length")
    lr: float = Field(0.1, gt=0, description="learning rate at its peak")
    weight_decay: float = Field(5e-4, ge=0, description="on what learns")
    schedule: Literal["cosine", "step"] = Field(
        "cosine", description="how the learning rate falls; step: at 1/3 and 2/3"
    )
    stepped_first: bool | None = Field(
        None,
        description="the cosine is one epoch ahead: the last epoch has lr 0 (default: as in the run's own schedule)",
    )
    warmup_epochs: int = Field(0, ge=0, description="epochs of linear warm-up")
    augment: str | None = Field(None, description="augmentation (default: of the method's first view)")
    sampler: Sampler = Field("instance", description="how batches are drawn")
    loss: LossName = Field("ce", description="of the classifier's scores")
    reweight: bool = Field(False, description="weight classes by effective numbers")
    beta: float = Field(0.9999, gt=0, lt=1, description="of the effective numbers")
    new_classifier: bool = Field(False, description="start a new classifier")
    frozen_batchnorm: FrozenBatchNorm = Field(
        "train", description="of the frozen backbone: statistics of each batch, as authors have it, or those kept"
    )

    @property
    def makes_classifier(self) -> bool:
        return self.new_classifier

    def stage(self, augment: str) -> Stage:
        optim: dict[str, Any] = {
            "epochs": self.epochs,
            "lr": self.lr,
            "weight_decay": self.weight_decay,
            "schedule": self.schedule,
            "milestones": (1 / 3, 2 / 3),
            "drop": 0.1,
            "warmup_epochs": self.warmup_epochs,
        }
        if self.stepped_first is not None:
            optim["schedule_ahead"] = int(self.stepped_first)
        streams = {"main": Stream((self.augment or augment,), self.sampler, beta=self.beta)}
        mode = ("",) if self.frozen_batchnorm == "train" else None
        return Stage(self.name, streams, trains=(self.trains,), train_mode=mode, optim=optim)

    def prior_exponent(self, before: float | None) -> float | None:
        if self.reweight:
            return None
        of_loss = {"ce": 1.0, "balanced_softmax": 0.0}.get(self.loss)
        return (
            0.0
            if of_loss and self.sampler in ("balanced", "class_aware")
            else of_loss
            if self.sampler == "instance"
            else None
        )

    def attach(self, method: Any) -> None:
        scale = getattr(method.classifier, "scale", 1.0)
        criterion = ClassifierLoss(self.loss, method.counts, scale=scale, over="batch")
        method.add_module(f"{self.name}_criterion", criterion)
        weights = effective_number_weights(method.counts, self.beta) if self.reweight else None
        method.register_buffer(f"{self.name}_weights", weights, persistent=False)

    def begin(self, method: Any, images: Passes) -> None:
        if self.new_classifier:
            method.classifier.reset_parameters()

    def losses(self, method: Any, batch: Mapping[str, Batch], clock: Clock) -> dict[str, Tensor]:
        main = batch["main"]
        scores = self.learned_scores(method, method.features(main.views[0]))
        criterion, weights = getattr(method, f"{self.name}_criterion"), getattr(method, f"{self.name}_weights")
        return {self.loss: criterion(scores, main.labels, class_weights=weights)}

    def learned_scores(self, method: Any, features: Tensor) -> Tensor:
        """The scores [B, C] that the loss is of."""
        return method.classifier(features)


class CRT(Retrain):
    """Classifier re-training: a new classifier, cross-entropy, class-balanced images."""

    name = "crt"
    new_classifier: bool = Field(True, description="start a new classifier")
    sampler: Sampler = Field("class_aware", description="how batches are drawn")


class BalancedSoftmaxStage(Retrain):
    """A new classifier learns by Balanced Softmax."""

    name = "balanced_softmax"
    new_classifier: bool = Field(True, description="start a new classifier")
    loss: LossName = Field("balanced_softmax", description="of the classifier's scores")
