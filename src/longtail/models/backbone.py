"""What the project calls a backbone: stages in order, then a pooled feature vector."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UsageError
from .batch_norm import make_fusable


class Backbone(nn.Module):
    """Stages applied in order, then pooling to one float32 feature vector per image.

    `stages` is a `ModuleList`, so that a method can share the early ones and own others of the late ones. `dim` is
    the feature width D. `precision` is the autocast type of the stages (None: float32, no autocast); the pooling and
    what comes after the backbone always see float32. The engine sets it, and compiles, for every backbone in a method.
    `build` makes a newly initialised backbone of this architecture, all of it or its later stages at another width:
    see `twin`.

    `entry` is the stage that what it is given goes into: 0, the first, unless the stages before it do not learn and what
    they make of the images is given instead, see `finetune.features`. One more than there are stages: the features.
    `frozen` names the submodules that stay in evaluation mode. `adapter` is what was put into the blocks, see `adapters`.
    `pretrained`: whether the weights are.
    """

    def __init__(
        self,
        stages: Iterable[nn.Module],
        dim: int,
        pool: nn.Module | None = None,
        build: Callable[[int, float], Backbone] | None = None,
    ) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.dim = dim
        self.pool = pool if pool is not None else nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.precision: torch.dtype | None = None
        self.build = build
        self.entry = 0
        self.frozen: frozenset[str] = frozenset()
        self.adapter: str | None = None
        self.pretrained = False

    def forward(self, x: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        """Images float [B, C_in, H, W] -> features float32 [B, D].

        Entered half way with `start`: `x` is then what stage `start` - 1 gave. Left half way with `stop`: gives what
        stage `stop` - 1 gave, unpooled and in the type the stages compute in.
        """
        return self.run(x, start or self.entry, stop)

    def run(self, x: Tensor, start: int, stop: int | None = None) -> Tensor:
        """The same from `start`, wherever `entry` is."""
        if start > len(self.stages):
            return x.flatten(1)
        with torch.autocast(x.device.type, self.precision, enabled=self.precision is not None):
            for stage in list(self.stages)[start:stop]:
                x = stage(x)
        if stop is not None:
            return x
        return self.pool(x if x.dtype == torch.float64 else x.float())

    def train(self, mode: bool = True) -> Backbone:
        """As `nn.Module.train`, but for what is frozen."""
        super().train(mode)
        for name in self.frozen:
            self.get_submodule(name).eval()
        return self

    def twin(self, start: int = 0, width: float = 1.0) -> Backbone:
        """A newly initialised backbone of the same architecture; of a pretrained one, at its own width, with its weights.

        With `start`, only its stages from there on, which take what stage `start` - 1 of this one gives, at `width`
        times the channels. Raises `UsageError` where the architecture cannot be built so.
        """
        if self.build is None:
            raise UsageError("This backbone cannot be built a second time: use one that longtail builds by name.")
        if not all(parameter.requires_grad for parameter in self.stages[start:].parameters()):
            raise UsageError(
                "This method builds stages of its backbone more than once, and some of them are frozen here: use "
                "finetune.mode=full, or for experts partial with finetune.last=2."
            )
        twin = self.build(start, width)
        if self.pretrained and width == 1:
            twin.pretrained = True
            for ours, theirs in zip((*self.stages[start:], self.pool), (*twin.stages, twin.pool), strict=True):
                theirs.load_state_dict(ours.state_dict())
        for i, stage in enumerate(self.stages[start:]):  # norms that stay in evaluation mode
            names = (name for name, _ in stage.named_modules(prefix=f"stages.{start + i}") if name in self.frozen)
            twin.frozen |= {name.replace(f"stages.{start + i}", f"stages.{i}", 1) for name in names}
        return twin

    def split_last_block(self) -> Backbone:
        """Take the last block off the last stage: a backbone of its own, with this one's pooling, that goes on from what
        is left: of a stage with one block, as in resnet8, nothing. Raises `UsageError` where the last stage is no sequence.
        """
        if self.entry >= len(self.stages):
            raise self._has_no_images("takes the backbone's last stage apart")
        *_, last = self.stages
        if not isinstance(last, nn.Sequential) or not len(last):
            raise UsageError(
                "The last stage of this backbone has no last block to take off: use a ResNet, such as resnet32."
            )
        self.stages[len(self.stages) - 1] = last[:-1]
        branch = Backbone([last[-1]], self.dim, self.pool)
        moved = f"stages.{len(self.stages) - 1}.{len(last) - 1}"
        taken = {name for name in self.frozen if f"{name}.".startswith(f"{moved}.")}
        branch.frozen = frozenset(f"stages.0{name.removeprefix(moved)}" for name in taken)
        self.frozen -= taken
        return branch

    def _has_no_images(self, why: str) -> UsageError:
        return UsageError(
            f"This method {why}, which is frozen here and gets features, not images: set finetune.cache=false, or let more "
            "of the backbone learn, as finetune.mode=full does."
        )

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """As `nn.Module.compile`, with what makes it pay on a CPU where the backbone is on one."""
        if next(self.parameters()).device.type == "cpu":
            make_fusable(self)
            # Where vectors are half full, as with 16 channels, loops that write over their input are far slower.
            kwargs = {"options": {"inplace_buffers": False}, **kwargs}
        super().compile(*args, **kwargs)


@contextmanager
def given_images(backbones: Iterable[Backbone]) -> Iterator[None]:
    """Within, the backbones are entered at their first stage, wherever they are in training."""
    entries = [(backbone, backbone.entry) for backbone in backbones]
    try:
        for backbone, _ in entries:
            backbone.entry = 0
        yield
    finally:
        for backbone, entry in entries:
            backbone.entry = entry
