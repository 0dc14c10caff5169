"""Every method of `METHODS`, each of its stages, with its default options and with its `variants`: on a real resnet8."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from longtail.classes import Classes
from longtail.distributed import world
from longtail.engine.setup import built_to_learn, freeze_all_but, set_train_mode
from longtail.methods import METHODS, method_class
from longtail.methods.base import Batch, Clock, Method, Stage, Stream
from longtail.models import build_backbone

B, COUNTS, SIZE, EPOCHS = 8, (200, 60, 30, 12, 6, 3), 8, 4
CLASSES = Classes(tuple("abcdef"), COUNTS)


def random_batch(stream: Stream, draw: torch.Generator, dtype: torch.dtype) -> Batch:
    """Random images in as many views as the stream has, none of the last class."""
    views = tuple(torch.randn(B, 3, SIZE, SIZE, generator=draw).to(dtype) for _ in stream.views)
    return Batch(views, torch.randint(len(COUNTS) - 1, (B,), generator=draw), torch.arange(B))


class RandomPasses:
    """`methods.base.Passes` over two random batches with an image of each class, of which each process has its share."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def training(self, stream: Stream | None = None) -> Iterator[Batch]:
        draw = torch.Generator().manual_seed(7)
        every = torch.arange(B) % len(COUNTS)
        for _ in range(2):
            batch = random_batch(stream or Stream(("",)), draw, self.dtype)
            rank, size = world()
            yield Batch(batch.views, every, batch.index).chunk(size)[rank]

    def held_out(self) -> Iterator[Batch]:
        return self.training()


@dataclass(frozen=True)
class Case:
    """One stage of one method."""

    method: str
    stage: str = "train"
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return "-".join([self.method, self.stage, *(f"{key}={value}" for key, value in self.options.items())])

    @property
    def cls(self) -> type[Method]:
        return method_class(self.method)

    @property
    def checked_options(self) -> Any:
        return self.cls.Options.model_validate(dict(self.options))

    @property
    def stages(self) -> list[Stage]:
        return self.cls.stages(self.checked_options)

    def find_stage(self) -> Stage:
        return next(stage for stage in self.stages if stage.name == self.stage)

    @property
    def trains(self) -> bool:
        """Whether there are steps in the stage at all."""
        stage = self.find_stage()
        return stage.optim.get("epochs") != 0 and stage.trains != ()

    def build(self, dtype: torch.dtype = torch.float64, batch_norm: bool = True) -> Method:
        """The method as its stage starts: after what comes before the stage and those before it, with its parts trainable."""
        torch.manual_seed(0)
        method = self.cls(build_backbone("resnet8"), CLASSES, self.checked_options).to(dtype)
        if not batch_norm:
            without_batch_norm(method)
        able = built_to_learn(method)
        for stage in self.stages:
            method.eval()
            method.before_stage(stage, RandomPasses(dtype))
            freeze_all_but(method, stage, able)
            set_train_mode(method, stage)
            if stage.name == self.stage:
                return method
        raise KeyError(self.stage)

    def build_plain(self) -> Method:
        """As `build`, without the backbone's batch norms, by which an image's features depend on the whole batch."""
        method = self.build()
        without_batch_norm(method.backbone)
        return method

    def batch(self, seed: int = 0, dtype: torch.dtype = torch.float64) -> dict[str, Batch]:
        """Random images in as many streams and views as the stage asks for."""
        draw = torch.Generator().manual_seed(seed)
        return {name: random_batch(stream, draw, dtype) for name, stream in self.find_stage().streams.items()}

    def clock(self, epoch: int) -> Clock:
        return Clock(self.stage, epoch, EPOCHS, 0, 1, torch.Generator().manual_seed(epoch), lr=0.1)


def without_batch_norm(method: nn.Module) -> Any:
    """Its statistics are those of one process's images, in the papers' code too."""
    for module in list(method.modules()):
        for name, child in module.named_children():
            if isinstance(child, (nn.BatchNorm1d, nn.BatchNorm2d)):
                setattr(module, name, nn.Identity())
    return method


def all_cases() -> list[Case]:
    cases = []
    for name in METHODS:
        cls = method_class(name)
        for options in ({}, *cls.variants):
            stages = cls.stages(cls.Options.model_validate(dict(options)))
            cases += [Case(name, stage.name, options) for stage in stages]
    return cases


CASES = all_cases()
TRAINING = [case for case in CASES if case.trains]
