"""Second stages: what goes on with the classifier of any method, once its own stages have trained the features.

A second stage is its hyper-parameters, and what it does with them to a method; its state is parts and buffers that it gives
the method. `goes_on` makes the method that has some. Which there are: `SECOND_STAGES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib import import_module
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import Field, create_model
from torch import Tensor

from ..classes import Classes
from ..errors import UsageError, unknown_name
from ..models.backbone import Backbone
from . import SECOND_STAGES
from .base import Batch, Clock, Method, Options, Passes, Stage, Update

SomeMethod = TypeVar("SomeMethod", bound=Method)

# Whether the batch norm of a frozen backbone goes on: statistics of each batch, and running ones that move.
FrozenBatchNorm = Literal["train", "eval"]


class SecondStage(Options):
    """The base of them. What is not overridden does nothing. `method` is always the one that goes on."""

    name: ClassVar[str]
    # Parts and buffers that it gives the method and that predict.
    deployed: ClassVar[tuple[str, ...]] = ()

    @property
    def makes_classifier(self) -> bool:
        """Whether it has a classifier of its own, so that the features of any run will do to start from."""
        return False

    def stage(self, augment: str) -> Stage:
        """Its span of training. `augment` is that of the method's first view."""
        raise NotImplementedError

    def check(self, options: Any, classes: Classes) -> None:
        """Raise `UsageError` where it makes no sense after a method with these options, or with these classes."""

    def attach(self, method: Any) -> None:
        """Give the method parts and buffers. Raise `UsageError` where its classifier is of a kind that cannot go on so."""

    def begin(self, method: Any, images: Passes) -> None:
        """See `Method.before_stage`."""

    def sampling(self, method: Any) -> Tensor:
        """See `Method.sampling`: of the stream that has the stage's name."""
        raise NotImplementedError

    def losses(self, method: Any, batch: Mapping[str, Batch], clock: Clock) -> dict[str, Tensor]:
        """See `Method.losses`."""
        raise NotImplementedError

    def step(self, method: Any, batch: Mapping[str, Batch], clock: Clock, update: Update) -> dict[str, Tensor]:
        """See `Method.step`."""
        terms = update.gradients(batch, clock)
        update.apply()
        return terms

    def after_epoch(self, method: Any) -> None:
        """See `Method.after_epoch`."""

    def scores(self, method: Any, features: Tensor, scores: Tensor) -> Tensor:
        """What is predicted from features [B, D] and the scores [B, C] so far, which must stay as they are until it began."""
        return scores

    def prior_exponent(self, before: float | None) -> float | None:
        """See `Method.prior_exponent`; `before` is that of the method without this stage."""
        return None

    def rows(self, method: Any, rows: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The classifier's rows and bias as `scores` has them."""
        return rows, bias


def goes_on(
    second_stages: Callable[[Any], Sequence[SecondStage]], added: Sequence[str] = ()
) -> Callable[[type[SomeMethod]], type[SomeMethod]]:
    """Decorate a method whose training goes on with the stages that `second_stages` makes of its options.

    Its scores must be one classifier's on one feature vector, as `Method.logits` has it. `added`: parts and
    buffers that the stages give it and that predict.
    """

    def decorate(cls: type[SomeMethod]) -> type[SomeMethod]:
        class Continued(cls):  # type: ignore[valid-type, misc]
            def __init__(self, backbone: Backbone, classes: Classes, options: Any) -> None:
                super().__init__(backbone, classes, options)
                new = {stage.name: stage for stage in second_stages(options)}
                self.then: dict[str, SecondStage] = {**getattr(self, "then", {}), **new}
                for stage in new.values():
                    stage.attach(self)

            @classmethod
            def stages(cls, options: Any) -> list[Stage]:
                own = [replace(stage, frozen=(*stage.frozen, *added)) for stage in super().stages(options)]
                augment = next(iter(own[0].streams.values())).views[0]
                new = [stage.stage(augment) for stage in second_stages(options)]
                if twice := next((stage.name for stage in new if stage.name in {s.name for s in own}), None):
                    raise UsageError(
                        f"The stage '{twice}' is asked for by --then and by an option of the method: leave one out."
                    )
                return [*own, *new]

            @classmethod
            def check(cls, options: Any, classes: Classes, batch_size: int) -> None:
                super().check(options, classes, batch_size)
                for stage in second_stages(options):
                    stage.check(options, classes)

            def logits(self, images: Tensor) -> Tensor:
                features = self.features(images)
                scores = self.classifier(features)
                for stage in self.then.values():
                    scores = stage.scores(self, features, scores)
                return scores

            def prior_exponent(self) -> float | None:
                exponent = super().prior_exponent()
                for stage in second_stages(self.hp):
                    exponent = stage.prior_exponent(exponent)
                return exponent

            def classifier_rows(self) -> tuple[Tensor, Tensor | None]:
                rows, bias = self.classifier.rows, self.classifier.bias
                for stage in self.then.values():
                    rows, bias = stage.rows(self, rows, bias)
                return rows, bias

            def before_stage(self, stage: Stage, images: Passes) -> None:
                if stage.name in self.then:
                    self.then[stage.name].begin(self, images)
                else:
                    super().before_stage(stage, images)

            def sampling(self, stream: str) -> Tensor:
                return self.then[stream].sampling(self) if stream in self.then else super().sampling(stream)

            def losses(self, batch: Mapping[str, Batch], clock: Clock) -> dict[str, Tensor]:
                if clock.stage in self.then:
                    return self.then[clock.stage].losses(self, batch, clock)
                return super().losses(batch, clock)

            def step(self, batch: Mapping[str, Batch], clock: Clock, update: Update) -> dict[str, Tensor]:
                if clock.stage in self.then:
                    return self.then[clock.stage].step(self, batch, clock, update)
                return super().step(batch, clock, update)

            def before_epoch(self, clock: Clock) -> None:
                if clock.stage not in self.then:
                    super().before_epoch(clock)

            def after_step(self, clock: Clock) -> None:
                if clock.stage not in self.then:
                    super().after_step(clock)

            def after_epoch(self, clock: Clock) -> None:
                if clock.stage in self.then:
                    self.then[clock.stage].after_epoch(self)
                else:
                    super().after_epoch(clock)

        for name in ("__name__", "__qualname__", "__module__", "__doc__"):
            setattr(Continued, name, getattr(cls, name))
        Continued.deployed = (*cls.deployed, *added)
        Continued.second_stages = staticmethod(second_stages)
        return Continued

    return decorate


def second_stage(name: str) -> type[SecondStage]:
    """The second stage called `name`. Raises `UsageError`, with the nearest name, for one that does not exist."""
    if name not in SECOND_STAGES:
        raise unknown_name("second stage", name, SECOND_STAGES)
    module, _, attribute = SECOND_STAGES[name].where.partition(":")
    return getattr(import_module(f".{module}", __package__), attribute)


def followed_by(
    cls: type[Method], stages: Mapping[str, SecondStage], learned_before: tuple[str, ...] = ()
) -> type[Method]:
    """The method `cls`, going on with `stages`: name and default hyper-parameters, which become options of these names."""
    kinds = [type(stage) for stage in stages.values()]
    fields: dict[str, Any] = {
        name: (kind, Field(stage, description=f"of the second stage {name}"))
        for (name, stage), kind in zip(stages.items(), kinds, strict=True)
    }
    names = tuple(stages)

    def of_options(options: Any) -> list[SecondStage]:
        return [getattr(options, name) for name in names]

    result = goes_on(of_options, [part for kind in kinds for part in kind.deployed])(cls)
    result.Options = create_model(cls.Options.__name__, __base__=cls.Options, **fields)
    result.variants = ()
    result.learned_before = learned_before
    if learned_before and not next(iter(stages.values())).makes_classifier:
        result.needed_from = ("backbone", "classifier")
    return result


@cache
def composed(cls: type[Method], name: str, then: tuple[str, ...]) -> type[Method]:
    """The method `cls`, called `name`, with the second stages called `then`. Raises `UsageError` for what makes no sense."""
    if not cls.classifies() or (cls.logits is not Method.logits and not hasattr(cls, "second_stages")):
        raise UsageError(
            f"'{name}' cannot go on with '{then[0]}': a second stage works on one classifier of one feature vector, and "
            f"{name} predicts in another way."
        )
    names = list(then)
    if twice := next((stage for stage in names if names.count(stage) > 1 or stage in cls.Options.model_fields), None):
        raise UsageError(
            f"'{'+'.join((name, *names))}' would go on with {twice} twice: each second stage can be run once."
        )
    return followed_by(cls, {stage: second_stage(stage)() for stage in then})
