"""The one shape every method has. The engine knows this class and no other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from ..classes import Classes
from ..config import Section
from ..data.streams import Batch, Sampler, Stream
from ..models.backbone import Backbone

__all__ = ["Batch", "Clock", "Method", "Options", "Passes", "Sampler", "Stage", "Stream", "Update"]

Batches = Mapping[str, Batch]


@dataclass(frozen=True)
class Clock:
    """Where training is. Epochs and steps count from 0, within the stage. `lr` is the step's learning rate.

    `generator` lives on the CPU and is in the same state on every process: what is drawn from it is drawn alike everywhere.
    """

    stage: str
    epoch: int
    epochs: int
    step: int
    steps: int
    generator: torch.Generator
    lr: float = 0.0


@dataclass(frozen=True)
class Stage:
    """A span of epochs with its own streams, learning parts and optimisation.

    `trains` names what learns: submodules, or single parameters (None: all, (): nothing). It requires gradients and is
    optimised; the rest does neither, nor do the parts of it named in `frozen`. `train_mode` names the submodules in
    training mode, which batch norm and dropout heed (None: those that learn; the method itself where all of it does).
    `optim` overrides fields of the run's training configuration (lr, weight_decay, epochs, schedule, ...) for this
    stage. Of a stage with no epochs there is `before_stage` and an evaluation. `held_out`: whether it chooses by images
    held out of training.
    """

    name: str
    streams: Mapping[str, Stream]
    trains: tuple[str, ...] | None = None
    train_mode: tuple[str, ...] | None = None
    optim: Mapping[str, Any] = field(default_factory=dict)
    frozen: tuple[str, ...] = ()
    held_out: bool = False

    @property
    def in_train_mode(self) -> tuple[str, ...]:
        """The submodules in training mode, the whole method being ""."""
        if self.train_mode is not None:
            return self.train_mode
        return ("",) if self.trains is None else self.trains


class Passes(Protocol):
    """The run's images, for methods that look at them before a stage starts. Each process sees its own share."""

    def training(self, stream: Stream | None = None) -> Iterator[Batch]:
        """The training images, each once, in order and as they are evaluated; or an epoch of `stream`."""

    def held_out(self) -> Iterator[Batch]:
        """The images held out of training, as they are evaluated. Raises `UsageError` where there are none."""


class Update(Protocol):
    """What an optimisation step consists of, for methods that do more than one."""

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimiser: its state, and the groups with the step's learning rates."""

    def gradients(self, batch: Batches, clock: Clock) -> dict[str, Tensor]:
        """The terms of `losses`, and in the learning parameters the gradients of their sum."""

    def apply(self) -> None:
        """Clip, where the run does, and let the optimiser move the parameters."""


class Options(Section):
    """Base of every method's hyper-parameters."""


class Method(nn.Module):
    """A backbone, the parts a paper puts on it, and how a batch becomes a loss.

    A subclass declares its hyper-parameters as `Options` and what of it predicts as `deployed`, builds its heads in
    `__init__`, and implements `stages`, `losses` and `logits`. Everything else has a default.
    """

    counts: Tensor
    hp: Any

    Options: ClassVar[type[Options]] = Options
    # The submodules, parameters and buffers that predict.
    deployed: ClassVar[tuple[str, ...]] = ("backbone", "classifier")
    # Parameters and buffers with a row for each class, of which each process of a distributed run holds its part.
    sharded: ClassVar[tuple[str, ...]] = ()
    # What its authors trained with, laid over the project's defaults where no recipe says otherwise.
    train_defaults: ClassVar[Mapping[str, Any]] = {}
    # Whether its learning rate and decay are what it proposes, and so are kept however few steps there are.
    rates_are_its_own: ClassVar[bool] = False
    # How its authors fine-tune, in the same way.
    finetune_defaults: ClassVar[Mapping[str, Any]] = {}
    # Stages whose work any run has done that this one starts from (--from), whatever method it trained.
    learned_before: ClassVar[tuple[str, ...]] = ()
    # Parts that such a run must have, to be started from.
    needed_from: ClassVar[tuple[str, ...]] = ("backbone",)
    # The option that weighs what the method adds, and the three values of it that `longtail tune` tries.
    main_weight: ClassVar[tuple[str, tuple[float, ...]] | None] = None
    # Sets of options beside the defaults that the generated tests try.
    variants: ClassVar[tuple[Mapping[str, Any], ...]] = ()
    # Why a step asks the device for values, which it should not, or None.
    waits: ClassVar[str | None] = None
    # What of `losses` is left once its random numbers are drawn: tensors in, named terms out. Compiled with the backbone.
    terms: Callable[..., dict[str, Tensor]] | None = None
    # Of methods with several experts: images -> the logits of each [B, E, C], and how many of them answer for each image [B]
    # (None: all), for what is measured of them one by one.
    expert_answers: Callable[[Tensor], tuple[Tensor, Tensor | None]] | None = None
    # Images -> logits [B, C] of the run that `teacher_run` names, without gradients. There in training only.
    teacher: Callable[[Tensor], Tensor] | None = None

    def __init__(self, backbone: Backbone, classes: Classes, options: Any) -> None:
        super().__init__()
        self.backbone = backbone
        self.classes = classes
        self.hp = options
        self.register_buffer("counts", classes.count_tensor, persistent=False)  # int64 [C]

    @classmethod
    def stages(cls, options: Any) -> list[Stage]:
        """The stages of training with these options, in order."""
        raise NotImplementedError

    @classmethod
    def check(cls, options: Any, classes: Classes, batch_size: int) -> None:
        """Raise `UsageError` for what cannot be done with these classes, or so many images a step on all processes
        together. Called before any image is decoded."""

    @classmethod
    def teacher_run(cls, options: Any) -> str | None:
        """The folder of the finished run whose network teaches with these options: the engine checks that its classes are
        this run's, and sets `teacher`."""
        return None

    def losses(self, batch: Batches, clock: Clock) -> dict[str, Tensor]:
        """Named scalar terms, already weighted: the engine minimises their sum and logs each."""
        raise NotImplementedError

    def logits(self, images: Tensor) -> Tensor:
        """Images float32 [B, C_in, H, W] -> class scores float32 [B, C]: what is evaluated and deployed."""
        classifier: Any = self.classifier
        return classifier(self.features(images))

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

    @classmethod
    def deploys(cls, name: str) -> bool:
        """Whether the parameter or buffer `name` is of what predicts."""
        return any(name == part or name.startswith(f"{part}.") for part in cls.deployed)

    def parameter_groups(self, learning: Mapping[str, nn.Parameter]) -> list[dict[str, Any]]:
        """How a stage's learning parameters, by name, are optimised: groups with `params`, and where they differ from
        the run's settings `weight_decay` or a factor `lr_scale`."""
        return [{"params": list(learning.values())}]

    def backbones(self) -> Iterator[Backbone]:
        """Every backbone in the method: its own, and teachers, experts and momentum encoders."""
        return (module for module in self.modules() if isinstance(module, Backbone))

    def prior_exponent(self) -> float | None:
        """a, where the scores are log-posteriors for classes in proportion to n_c ** a: 1 where rare classes are scored as
        rare, 0 where all are scored as equally frequent. None where theory does not say: `longtail calibrate` measures it."""
        return None

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """`torch.compile` what a step computes once its random numbers are drawn: the backbones, and `terms`."""
        for backbone in self.backbones():
            backbone.compile(*args, **kwargs)
        if self.terms is not None:
            self.terms = torch.compile(self.terms, *args, **kwargs)

    def before_stage(self, stage: Stage, images: Passes) -> None:
        """Called once when a stage starts, in evaluation mode, not when it is resumed: state set here belongs in buffers."""

    def sampling(self, stream: str) -> Tensor:
        """For a stream with sampler "own": how likely each class is to be drawn now, [C], up to a factor."""
        raise NotImplementedError

    def before_epoch(self, clock: Clock) -> None:
        """Called before each epoch's first step, and again where an epoch is resumed half way."""

    def step(self, batch: Batches, clock: Clock, update: Update) -> dict[str, Tensor]:
        """One step of training: gradients, then an update. Returns the terms that are logged."""
        terms = update.gradients(batch, clock)
        update.apply()
        return terms

    def after_step(self, clock: Clock) -> None:
        """Called after each step."""

    def after_epoch(self, clock: Clock) -> None:
        """Called after each epoch, before evaluation."""

    def before_evaluation(self) -> None:
        """Called before a pass over held-out images, on every process: what they must exchange for `logits`, which they
        do not call equally often, is exchanged here."""

    def forward(self, batch: Batches, clock: Clock) -> dict[str, Tensor]:
        return self.losses(batch, clock)
