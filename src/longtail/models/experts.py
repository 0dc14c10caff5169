"""Several experts on one network: the early stages once, the late ones once for each expert (RIDE, ICLR 2021)."""

from __future__ import annotations

import logging

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UsageError
from .backbone import Backbone

logger = logging.getLogger("longtail")


def split_experts(backbone: Backbone, experts: int, width: float = 0.75, own_stages: int = 2) -> list[Backbone]:
    """Take the last `own_stages` stages off `backbone`, and build them anew for each expert at `width` times the channels.

    What is left of `backbone` gives maps, unpooled; each expert takes them to features [B, D]. Raises `UsageError` where the
    backbone has not so many stages, or cannot be built at that width.
    """
    shared = len(backbone.stages) - own_stages
    if shared < 1:
        raise UsageError(
            f"Experts that share their early stages need a network of {own_stages + 1} stages or more; this one has "
            f"{len(backbone.stages)}. Use a ResNet, such as resnet32 or resnet50."
        )
    if backbone.pretrained and width != 1:
        logger.warning(
            "only what experts share starts from pretrained weights: their own stages are not as wide. --set width=1 keeps all"
        )
    trunks = [backbone.twin(shared, width) for _ in range(experts)]
    backbone.stages = backbone.stages[:shared]
    backbone.pool = nn.Identity()
    left = {name for name, _ in backbone.named_modules()}
    backbone.frozen = frozenset(name for name in backbone.frozen if name in left)
    return trunks


class Routers(nn.Module):
    """One for each expert but the last: does an image need the next one too?

    Each looks at the `top_k` highest mean logits of the experts so far, in falling order, and at 16 hidden units on the last
    of these experts' unit features [B, `dim`]. Their output layer is one and the same, or with `separate` each has its own.
    """

    def __init__(self, experts: int, dim: int, top_k: int, separate: bool = False) -> None:
        super().__init__()
        self.top_k = top_k
        self.hidden = nn.ModuleList(nn.Linear(dim, 16) for _ in range(experts - 1))
        self.output = nn.ModuleList(nn.Linear(top_k + 16, 1) for _ in range(experts - 1 if separate else 1))

    def forward(self, features: Tensor, mean_logits: Tensor) -> Tensor:
        """Features [B, E, D] and the mean logits of the first 1 to E experts [B, E, C] -> [B, E - 1], positive: go on."""
        answers = []
        for i, hidden in enumerate(self.hidden):
            best = mean_logits[:, i].topk(self.top_k, dim=1).values
            seen = hidden(F.normalize(features[:, i])).relu()
            answers.append(self.output[i % len(self.output)](torch.cat([best, seen], dim=1)))
        return torch.cat(answers, dim=1)
