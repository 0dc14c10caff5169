"""What of a trained backbone learns: the modes of fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..config import FinetuneConfig
from ..errors import UsageError
from ..models import count_parameters
from ..models.adapters import adapt
from ..models.backbone import Backbone

# Share of the parameters that the last stages hold which learn where `partial` does not say how many.
PARTIAL_SHARE = 0.75
# The modes whose frozen stages are computed once, and how many augmented versions of each image where that is not said.
DRAWS = {"head": 0, "partial": 2}


def prepare(backbone: Backbone, finetune: FinetuneConfig, classes: int) -> None:
    """Freeze what does not learn, and put in the modules that do.

    What is frozen requires no gradient and stays in evaluation mode. Raises `UsageError` where the backbone has not what
    the mode needs.
    """
    mode = finetune.mode
    if mode is None:
        return
    frozen = set()
    if mode == "partial":
        for i in range(first_learning(backbone, finetune.last)):
            backbone.stages[i].requires_grad_(False)
            frozen.add(f"stages.{i}")
    elif mode != "full":
        backbone.requires_grad_(False)
        frozen |= {"stages", "pool"}
    if mode == "bias":
        biases = [p for name, p in backbone.named_parameters() if name.endswith("bias")]
        for bias in biases:
            bias.requires_grad_(True)
    elif mode in ("adaptformer", "adapter", "lora", "vpt"):
        adapt(backbone, mode, classes, finetune.width)
    if finetune.norms == "frozen":
        frozen |= {name for name, module in backbone.named_modules() if isinstance(module, _BatchNorm)}
    backbone.frozen = frozenset(frozen)


def first_learning(backbone: Backbone, last: int | None) -> int:
    """The first stage that learns where the `last` so many do, or those that hold most of the parameters.

    Raises `UsageError` where the backbone has not more stages than that.
    """
    stages = list(backbone.stages)
    if last is None:
        sizes = [count_parameters(stage) for stage in stages]
        last = next(n for n in range(1, len(stages) + 1) if sum(sizes[-n:]) >= PARTIAL_SHARE * sum(sizes))
    if last >= len(stages):
        raise UsageError(
            f"This backbone has {len(stages)} stage{'s' * (len(stages) > 1)}, of which finetune.mode=partial would train "
            f"{last} and freeze none: use mode full or head, or fewer with finetune.last."
        )
    return len(stages) - last


def frozen_stages(backbone: Backbone) -> int:
    """How many of a backbone's first stages do not learn: one more than it has where nothing of it does."""
    learns = [any(p.requires_grad for p in stage.parameters()) for stage in backbone.stages]
    if not any(learns):
        return len(learns) + 1
    return learns.index(True)


def by_depth(groups: list[dict[str, Any]], backbone: Backbone, decay: float) -> list[dict[str, Any]]:
    """Parameter groups split by the backbone's stages: each learns at `decay` times the rate of the next, the last at
    `decay` times that of what is on the backbone."""
    if decay == 1:
        return groups
    depth: dict[int, int] = {}
    for i, stage in enumerate(backbone.stages):
        depth |= {id(parameter): len(backbone.stages) - i for parameter in stage.parameters()}
    split = []
    for group in groups:
        of_depth: dict[int, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            of_depth.setdefault(depth.get(id(parameter), 0), []).append(parameter)
        for steps, parameters in sorted(of_depth.items()):
            rate = group.get("lr_scale", 1.0) * decay**steps
            split.append({**group, "params": parameters, "lr_scale": rate})
    return split


def describe_learning(learning: Mapping[str, nn.Parameter], method: nn.Module) -> str:
    """How many of a method's parameters learn: "21,777 of 3,392,737"."""
    return f"{sum(p.numel() for p in learning.values()):,} of {count_parameters(method):,}"
