"""The one shape every method has. The engine knows this class and no other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from ..classes import Classes
from ..config import Section
from ..data.streams import Batch, Sampler, Stream
from ..models.backbone import Backbone

__all__ = ["Batch", "Clock", "Method", "Options", "Sampler", "Stage", "Stream"]


@dataclass(frozen=True)
class Clock:
    """Where training is. Epochs and steps count from 0, within the stage.

    `generator` lives on the CPU and is in the same state on every process: what is drawn from it is drawn alike everywhere.
    """

    stage: str
    epoch: int
    epochs: int
    step: int
    steps: int
    generator: torch.Generator


@dataclass(frozen=True)
class Stage:
    """A span of epochs with its own trainable parts, streams and optimisation.

    `trains` names the submodules that learn (None: all); the others are frozen and kept in evaluation mode.
    `optim` overrides fields of the run's training configuration (lr, weight_decay, epochs, schedule, ...) for this stage.
    """

    name: str
    streams: Mapping[str, Stream]
    trains: tuple[str, ...] | None = None
    optim: Mapping[str, Any] = field(default_factory=dict)


class Options(Section):
    """Base of every method's hyper-parameters."""


class Method(nn.Module):
    """A backbone, the parts a paper puts on it, and how a batch becomes a loss.

    A subclass declares its hyper-parameters as `Options` and which of its submodules predict as `deployed`, builds its heads
    in `__init__`, and implements `losses` and `logits`. Everything else has a default.
    """

    Options: ClassVar[type[Options]] = Options
    deployed: ClassVar[tuple[str, ...]] = ("backbone", "classifier")
    # Parameters and buffers with a row for each class, of which each process of a distributed run holds its part.
    sharded: ClassVar[tuple[str, ...]] = ()
    # What its authors trained with, laid over the project's defaults where no recipe says otherwise.
    train_defaults: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, backbone: Backbone, classes: Classes, options: BaseModel) -> None:
        super().__init__()
        self.backbone = backbone
        self.classes = classes
        self.options = options

    def stages(self) -> list[Stage]:
        """The stages of training, in order."""
        raise NotImplementedError

    def losses(self, batch: Mapping[str, Batch], clock: Clock) -> dict[str, Tensor]:
        """Named scalar terms, already weighted: the engine minimises their sum and logs each."""
        raise NotImplementedError

    def logits(self, images: Tensor) -> Tensor:
        """Images float32 [B, C_in, H, W] -> class scores float32 [B, C]: what is evaluated and deployed."""
        raise NotImplementedError

    def features(self, images: Tensor) -> Tensor:
        """Images -> the features [B, D] that the deployed classifier reads."""
        return self.backbone(images)

    def classifier_rows(self) -> tuple[Tensor, Tensor | None]:
        """Rows [C, D] and bias [C] (or None) of the deployed classifier, in the form in which it compares features."""
        classifier: Any = self.classifier
        return classifier.rows, classifier.bias

    @classmethod
    def classifies(cls) -> bool:
        """Whether what is deployed gives class scores, not features alone."""
        return cls.deployed != ("backbone",)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """`torch.compile` what a step computes once its random numbers are drawn: the backbone, and `terms` where a
        method computes its losses in a function of that name."""
        self.backbone.compile(*args, **kwargs)
        if (terms := getattr(self, "terms", None)) is not None:
            self.terms = torch.compile(terms, *args, **kwargs)

    def before_stage(self, stage: Stage, training: Callable[[], Iterable[Batch]]) -> None:
        """Called once when a stage starts, not when it is resumed: state set here belongs in buffers.

        `training()` passes over the training images, in order and without augmentation, for methods that need it.
        """

    def after_step(self, clock: Clock) -> None:
        """Called after each optimiser step."""

    def after_epoch(self, clock: Clock) -> None:
        """Called after each epoch, before evaluation."""

    def before_evaluation(self) -> None:
        """Called before a pass over held-out images, on every process: what they must exchange for `logits`, which they
        do not call equally often, is exchanged here."""

    def forward(self, batch: Mapping[str, Batch], clock: Clock) -> dict[str, Tensor]:
        return self.losses(batch, clock)
