"""Every method and stage on a tiny backbone, and batches for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from longtail.classes import Classes
from longtail.methods import method_class
from longtail.methods.base import Batch, Clock, Method, Stage

B, COUNTS, SIZE, EPOCHS = 8, (200, 60, 30, 12, 6, 3), 6, 4


class TinyBackbone(nn.Module):
    """A convolution and a linear layer, in whatever precision they are given, without batch normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.dim = 12
        self.convolution = nn.Conv2d(3, 4, 3)
        self.linear = nn.Linear(4, self.dim)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(self.convolution(images).relu().mean((2, 3)))


@dataclass(frozen=True)
class Case:
    """One stage of one method."""

    method: str
    stage: str = "train"
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return "-".join([self.method, self.stage, *map(str, self.options.values())])

    def build(self) -> Method:
        """The method with its stage's parts trainable, in float64."""
        torch.manual_seed(0)
        cls = method_class(self.method)
        classes = Classes(tuple("abcdef"), COUNTS)
        method = cls(TinyBackbone(), classes, cls.Options.model_validate(dict(self.options))).double()  # type: ignore[arg-type]
        parts = self.find_stage(method).trains
        method.requires_grad_(parts is None)
        for part in parts or ():
            method.get_submodule(part).requires_grad_(True)
        method.before_stage(self.find_stage(method), lambda: [])
        return method

    def find_stage(self, method: Method) -> Stage:
        return next(stage for stage in method.stages() if stage.name == self.stage)

    def batch(self, method: Method, seed: int = 0, dtype: torch.dtype = torch.float64) -> dict[str, Batch]:
        """Random images in as many streams and views as the stage asks for."""
        draw = torch.Generator().manual_seed(seed)
        return {
            name: Batch(
                tuple(torch.randn(B, 3, SIZE, SIZE, generator=draw).to(dtype) for _ in stream.views),
                torch.randint(len(COUNTS) - 1, (B,), generator=draw),  # no image of the last class
                torch.arange(B),
            )
            for name, stream in self.find_stage(method).streams.items()
        }

    def clock(self, epoch: int) -> Clock:
        return Clock(self.stage, epoch, EPOCHS, 0, 1, torch.Generator().manual_seed(epoch))


CASES = [
    Case("ce"),
    Case("balanced_softmax"),
    Case("glmc"),
    Case("glmc", options={"rebalance": False}),
    Case("glmc", "maxnorm", {"finetune": "maxnorm"}),
    Case("glmc", "balanced_softmax", {"finetune": "balanced_softmax"}),
    Case("bce3s"),
    Case("bce3s", options={"joint": "ce", "contrastive": "ce", "uniform": "ce"}),
    Case("bce3s", "maxnorm", {"finetune": "maxnorm"}),
    Case("bcl"),
]
