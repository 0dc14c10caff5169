"""Small modules that learn inside a frozen vision transformer, as LIFT has them (Shi et al., ICML 2024).

`adapt` puts one into every block of a backbone. All start as nothing: the network computes what it did (prompts aside,
which other tokens see). d is the width of the tokens, r that of the module.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UsageError
from .backbone import Backbone

Kind = Literal["adaptformer", "adapter", "lora", "vpt"]
RANK, PROMPTS = 4, 10  # of LoRA, and of prompts a block


def adaptformer_width(classes: int, blocks: int) -> int:
    """LIFT's rule: a power of two such that all blocks together learn no more than a linear classifier does."""
    return 2 ** max(0, int(math.log2(classes / (2 * blocks)) // 1))


class Bottleneck(nn.Module):
    """Up(ReLU(Down(LayerNorm(x)))), from d to r to d. Up and the biases start at zero."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.down = nn.Linear(dim, width)
        self.up = nn.Linear(width, dim)
        nn.init.kaiming_normal_(self.down.weight, a=math.sqrt(5))
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(F.relu(self.down(self.norm(x))))


class ParallelMLP(nn.Module):
    """AdaptFormer (Chen et al., NeurIPS 2022): a scaled bottleneck beside a block's norm and MLP, which it encloses."""

    def __init__(self, block: Any, width: int) -> None:
        super().__init__()
        self.norm, self.mlp, self.layer_scale = block.norm2, block.mlp, block.ls2
        self.bottleneck = Bottleneck(block.mlp.fc1.in_features, width)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer_scale(self.mlp(self.norm(x))) + self.scale * self.bottleneck(x)


class SequentialMLP(nn.Module):
    """Adapter (Houlsby et al., ICML 2019): a bottleneck with a shortcut after a block's MLP."""

    def __init__(self, mlp: Any, width: int) -> None:
        super().__init__()
        self.mlp = mlp
        self.bottleneck = Bottleneck(mlp.fc1.in_features, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mlp(x)
        return x + self.bottleneck(x)


class LowRankQKV(nn.Module):
    """LoRA (Hu et al., ICLR 2022) on the queries and values of attention's one linear layer: x A B / r is added to each.

    A [d, r] is uniform in +-1 / sqrt(r), as LIFT's release draws it; B [r, d] is zero.
    """

    def __init__(self, linear: nn.Linear, rank: int) -> None:
        super().__init__()
        self.linear, self.rank = linear, rank
        dim, out = linear.in_features, linear.out_features // 3
        self.query_a, self.value_a = (
            nn.Parameter(torch.empty(dim, rank).uniform_(-1, 1) / rank**0.5) for _ in range(2)
        )
        self.query_b, self.value_b = (nn.Parameter(torch.zeros(rank, out)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.linear(x).chunk(3, dim=-1)
        query = query + x @ self.query_a @ self.query_b / self.rank
        value = value + x @ self.value_a @ self.value_b / self.rank
        return torch.cat((query, key, value), dim=-1)


class Prompted(nn.Module):
    """VPT-deep (Jia et al., ECCV 2022): a block that sees learned tokens after its own, and drops them again."""

    def __init__(self, block: nn.Module, dim: int, prompts: int, patch: int) -> None:
        super().__init__()
        self.block = block
        bound = math.sqrt(6 / (3 * patch**2 + dim))
        self.prompts = nn.Parameter(torch.empty(prompts, dim).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        prompts = self.prompts.to(x.dtype).expand(len(x), -1, -1)
        return self.block(torch.cat((x, prompts), dim=1))[:, : -len(self.prompts)]


def transformer_blocks(backbone: Backbone) -> dict[int, Any]:
    """The plain transformer blocks among a backbone's stages, by the stage's number."""
    parts = ("norm1", "attn", "norm2", "mlp", "ls2")
    return {i: stage for i, stage in enumerate(backbone.stages) if all(hasattr(stage, part) for part in parts)}


def adapt(backbone: Backbone, kind: Kind, classes: int, width: int | None = None) -> list[nn.Parameter]:
    """Put a module of `kind` into every block of `backbone`, and return the parameters that are new.

    `width` is the bottleneck's (default: LIFT's rule for so many `classes`), LoRA's rank (4), or the number of prompts (10).
    Raises `UsageError` where the backbone is no plain vision transformer.
    """
    blocks = transformer_blocks(backbone)
    if not blocks:
        raise UsageError(
            f"finetune.mode={kind} puts modules into the blocks of a plain vision transformer, and this backbone has none. "
            "Choose one such as timm:vit_small_patch16_224, or mode head, partial or full."
        )
    before = set(backbone.parameters())
    width = width or {"lora": RANK, "vpt": PROMPTS}.get(kind, adaptformer_width(classes, len(blocks)))
    backbone.adapter = f"{kind}:{width}"
    for i, block in blocks.items():
        if kind == "adaptformer":
            block.mlp = ParallelMLP(block, width)
            block.norm2, block.ls2 = nn.Identity(), nn.Identity()
        elif kind == "adapter":
            block.mlp = SequentialMLP(block.mlp, width)
        elif kind == "lora":
            block.attn.qkv = LowRankQKV(block.attn.qkv, width)
        else:
            embedding: Any = backbone.stages[0]
            patch = embedding.model.patch_embed.patch_size[0]
            backbone.stages[i] = Prompted(block, block.norm1.normalized_shape[0], width, patch)
    return [parameter for parameter in backbone.parameters() if parameter not in before]
